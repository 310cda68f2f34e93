"""Layers that several networks share."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.functional import instance_norm

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


def convolution(channels_in: int, channels_out: int, kernel: int, norm: Norm) -> nn.Sequential:
    """Convolution that keeps the edges, norm, ReLU."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        normalisation(norm, channels_out),
        nn.ReLU(inplace=True),
    )


class DeeplySupervised(nn.Module):
    """A segmenter with heads at lower resolutions that learn from the labels too.

    `forward` gives the logits of the full-resolution head alone, as any segmenter's does; only the
    supervised loss asks for the others.

    Attributes:
        HEAD_WEIGHTS: What each head's loss weighs, full resolution first; they sum to 1.
    """

    HEAD_WEIGHTS: ClassVar[tuple[float, ...]]

    def deep_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 1, X, Y, Z) to one (B, classes, X, Y, Z) a head, in the weights' order."""
        raise NotImplementedError
