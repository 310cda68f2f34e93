"""Deeply supervised residual U-Net: mixed, that is short and long, residual connections.

Source: Yu et al., AAAI 2017 (Volumetric ConvNets with mixed residual connections).  Channels,
kernel and norm are the study's, so that the rows of a table differ in the connections.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from asdnet_models.networks.parts import (
    DeeplySupervised,
    Norm,
    at_full_resolution,
    convolution,
    normalisation,
    padding,
    pooled,
)
from asdnet_models.stages import THREE_HALVINGS, Stages, Triple


class ResidualBlock(nn.Module):
    """Short connection: two convolutions added to the identity."""

    def __init__(self, channels: int, kernel: Triple, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels, channels, kernel, norm),
            nn.Conv3d(channels, channels, kernel, padding=padding(kernel), bias=False),
            normalisation(norm, channels),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same shape."""
        refined: Tensor = self.activation(self.body(features) + features)
        return refined


class DSResUNet(DeeplySupervised):
    """Four stages; long connections add the encoder's features to the decoder's.

    Args:
        classes: Output channels, background included.
        width: Channels at full resolution; doubled at each stage.
        kernel: Edge of the convolution kernels in voxels.
        norm: "group" or "batch".
        strides: By down-sampling the factor along x, y, z; None: three halvings.
        kernels: By stage the kernel's edges; None: `kernel` everywhere.
        max_width: Channels of a stage at most.
        deep_supervision: Not looked at: every resolution of the decoder has a head.

    With three down-samplings the heads weigh 1/2, 1/3 and 1/6: as 3 to 2 to 1, and so on.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int,
        kernel: int,
        norm: Norm = "group",
        strides: Sequence[Triple] | None = None,
        kernels: Sequence[Triple] | None = None,
        max_width: int | None = None,
        deep_supervision: bool = True,
    ) -> None:
        strides = THREE_HALVINGS if strides is None else strides
        stages = Stages.of(width, kernel, strides, kernels, max_width)
        widths, heads = stages.widths, len(stages.strides)
        total = heads * (heads + 1) // 2
        super().__init__(tuple(weight / total for weight in range(heads, 0, -1)))
        self.down = nn.ModuleList(
            nn.Sequential(convolution(before, w, edges, norm), ResidualBlock(w, edges, norm))
            for before, w, edges in zip([1, *widths[:-1]], widths, stages.kernels, strict=True)
        )
        self.pool = nn.ModuleList(nn.MaxPool3d(stride) for stride in stages.strides)
        ups = list(zip(widths, widths[1:], stages.strides, stages.kernels, strict=False))[::-1]
        self.grow = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose3d(deeper, w, stride, stride=stride, bias=False),
                normalisation(norm, w),
                nn.ReLU(inplace=True),
            )
            for w, deeper, stride, _ in ups
        )
        self.up = nn.ModuleList(ResidualBlock(w, edges, norm) for w, _, _, edges in ups)
        # Quarter, half, full: in the decoder's order.
        self.heads = nn.ModuleList(nn.Conv3d(w, classes, 1) for w, _, _, _ in ups)

    def _decode(self, image: Tensor) -> Iterator[Tensor]:
        """The decoder's features, lowest resolution first."""
        features, skips = pooled(image, self.down, self.pool)
        for grow, up, skip in zip(self.grow, self.up, skips, strict=True):
            features = up(grow(features) + skip)
            yield features

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) to logits (B, classes, X, Y, Z)."""
        logits: Tensor = self.heads[-1](deque(self._decode(image), maxlen=1).pop())
        return logits

    def deep_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, and the inner heads' logits brought to full resolution."""
        *inner, full = (
            head(features) for head, features in zip(self.heads, self._decode(image), strict=True)
        )
        return at_full_resolution(full, inner[::-1])
