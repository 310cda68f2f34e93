"""Layers that several networks share."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import instance_norm, interpolate

from asdnet_models.stages import Triple

Norm = Literal["group", "batch"]


class BatchNorm(nn.BatchNorm3d):
    """Batch norm without running statistics (Ioffe and Szegedy 2015, but for its inference).

    Running means and variances are sums over the patches that a site has seen: with the weights
    they would carry a patch out of the hospital.  Without them, in training the batch is
    normalised by its own statistics, as ever; in evaluation each sample by its own, so that a
    prediction does not depend on what lies beside it in a batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same shape."""
        if self.training:
            return super().forward(features)
        return instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """GroupNorm of up to eight groups, or BatchNorm."""
    if norm == "batch":
        return BatchNorm(channels)
    groups = max(g for g in (8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def padding(kernel: Triple) -> Triple:
    """What keeps the edges: none along an axis where the kernel is 1."""
    x, y, z = (edge // 2 for edge in kernel)
    return x, y, z


def convolution(
    channels_in: int,
    channels_out: int,
    kernel: Triple,
    norm: Norm,
    activation: type[nn.ReLU | nn.ELU] = nn.ReLU,
) -> nn.Sequential:
    """Convolution that keeps the edges, norm, activation."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, kernel, padding=padding(kernel), bias=False),
        normalisation(norm, channels_out),
        activation(inplace=True),
    )


def pooled(
    image: Tensor, down: Iterable[nn.Module], pool: Iterable[nn.Module]
) -> tuple[Tensor, list[Tensor]]:
    """An encoder that pools between its stages: the deepest features, and the skips to them.

    Args:
        image: (B, 1, X, Y, Z).
        down: Of each stage, full resolution first.
        pool: Between two stages.

    Returns:
        With the skips deepest first, in the decoder's order.
    """
    first, *deeper = down
    features, skips = first(image), []
    for shrink, stage in zip(pool, deeper, strict=True):
        skips.append(features)
        features = stage(shrink(features))
    return features, skips[::-1]


class DeeplySupervised(nn.Module):
    """A segmenter whose heads at lower resolutions, if it has any, learn from the labels too.

    `forward` gives the logits of the full-resolution head alone, as any segmenter's does; only the
    supervised loss asks for the others.

    Args:
        head_weights: What each head's loss weighs, full resolution first; they sum to 1.
    """

    def __init__(self, head_weights: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.head_weights = head_weights

    def deep_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 1, X, Y, Z) to one (B, classes, X, Y, Z) a head, in the weights' order."""
        raise NotImplementedError


class EncoderDecoder(DeeplySupervised):
    """A segmenter with a head on its decoder's last features and, if asked for, on others.

    As in nnU-Net (Isensee et al., Nature Methods 2021) the inner heads are 1^3 convolutions, each
    weighs half of what the next finer one does, and the decoder's lowest resolution has none;
    unless it is the only one below full resolution.
    """

    head: nn.Module
    inner_heads: nn.ModuleList

    def _add_heads(
        self, head: nn.Module, channels: Sequence[int], *, classes: int, deep: bool
    ) -> None:
        """After all other layers, whose first weights are then the same with inner heads.

        Args:
            head: Of full resolution.
            channels: Of the decoder's features, full resolution first.
            classes: Channels of the inner heads.
            deep: Whether there are any.
        """
        inner = channels[1 : max(2, len(channels) - 1)] if deep else []
        self.head = head
        self.inner_heads = nn.ModuleList(nn.Conv3d(count, classes, 1) for count in inner)
        weights = [0.5**level for level in range(1 + len(inner))]
        self.head_weights = tuple(weight / sum(weights) for weight in weights)

    def _decode(self, image: Tensor) -> Iterator[Tensor]:
        """The decoder's features, lowest resolution first."""
        raise NotImplementedError

    def features(self, image: Tensor) -> Tensor:
        """What the head reads: the decoder's last features, at full resolution."""
        return deque(self._decode(image), maxlen=1).pop()

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) to logits (B, classes, X, Y, Z)."""
        logits: Tensor = self.head(self.features(image))
        return logits

    def decoded(self, image: Tensor) -> list[Tensor]:
        """What all heads read, full resolution first."""
        return list(self._decode(image))[::-1]

    def read(self, decoded: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Logits of all heads at full resolution, in the weights' order."""
        inner = zip(self.inner_heads, decoded[1:], strict=False)
        return at_full_resolution(self.head(decoded[0]), [head(f) for head, f in inner])

    def deep_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, and the inner heads' logits."""
        return self.read(self.decoded(image))


def at_full_resolution(full: Tensor, inner: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """All logits at the size of `full`.

    They are interpolated trilinearly, not learnt up: whatever they know, the decoder knows.
    """
    size = full.shape[2:]
    return full, *(interpolate(deep, size=size, mode="trilinear") for deep in inner)
