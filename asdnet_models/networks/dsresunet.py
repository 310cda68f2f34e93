"""Deeply supervised residual U-Net: mixed, that is short and long, residual connections.

Source: Yu et al., AAAI 2017 (Volumetric ConvNets with mixed residual connections).  Channels,
kernel and norm are the study's, so that the rows of a table differ in the connections.
"""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from asdnet_models.networks.parts import DeeplySupervised, Norm, convolution, normalisation

_LEVELS = 4


class ResidualBlock(nn.Module):
    """Short connection: two convolutions added to the identity."""

    def __init__(self, channels: int, kernel: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels, channels, kernel, norm),
            nn.Conv3d(channels, channels, kernel, padding=kernel // 2, bias=False),
            normalisation(norm, channels),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same shape."""
        refined: Tensor = self.activation(self.body(features) + features)
        return refined


class DSResUNet(DeeplySupervised):
    """Four resolutions; long connections add the encoder's features to the decoder's.

    Args:
        classes: Output channels, background included.
        width: Channels at full resolution; doubled at each level.
        kernel: Edge of the convolution kernels in voxels.
        norm: "group" or "batch".
    """

    # Full, half and quarter resolution.
    HEAD_WEIGHTS = (1 / 2, 1 / 3, 1 / 6)

    def __init__(self, *, classes: int, width: int, kernel: int, norm: Norm = "group") -> None:
        super().__init__()
        widths = [width * 2**level for level in range(_LEVELS)]
        self.down = nn.ModuleList(
            nn.Sequential(convolution(before, w, kernel, norm), ResidualBlock(w, kernel, norm))
            for before, w in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        self.grow = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose3d(2 * w, w, 2, stride=2, bias=False),
                normalisation(norm, w),
                nn.ReLU(inplace=True),
            )
            for w in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(ResidualBlock(w, kernel, norm) for w in reversed(widths[:-1]))
        # Quarter, half, full: in the decoder's order.
        self.heads = nn.ModuleList(nn.Conv3d(w, classes, 1) for w in reversed(widths[:-1]))

    def _decoded(self, image: Tensor) -> list[Tensor]:
        """The decoder's features at a quarter, a half and full resolution."""
        features = self.down[0](image)
        skips = []
        for down in self.down[1:]:
            skips.append(features)
            features = down(self.pool(features))
        decoded = []
        for grow, up, skip in zip(self.grow, self.up, reversed(skips), strict=True):
            features = up(grow(features) + skip)
            decoded.append(features)
        return decoded

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z), edges multiples of 8, to logits (B, classes, X, Y, Z)."""
        logits: Tensor = self.heads[-1](self._decoded(image)[-1])
        return logits

    def deep_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, and the two inner heads' logits brought to full resolution.

        They are interpolated trilinearly, not learnt up: whatever they know, the decoder knows.
        """
        quarter, half, full = (
            head(features) for head, features in zip(self.heads, self._decoded(image), strict=True)
        )
        size = full.shape[2:]
        return full, *(interpolate(deep, size=size, mode="trilinear") for deep in (half, quarter))
