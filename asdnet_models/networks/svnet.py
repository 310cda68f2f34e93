"""SVNet and V-Net, which differ in the number of levels alone.

Sources: Milletari et al., 3DV 2016 (V-Net); Nie et al., MICCAI 2018 (SVNet: V-Net without its
innermost pool-conv-deconv stage).
"""

import torch
from torch import Tensor, nn

from asdnet_models.networks.parts import Norm, normalisation

# Convolutions of the residual blocks, outermost level first (Milletari et al. 2016, Fig. 2).
_DOWN_CONVS = (1, 1, 2, 3, 2)
_UP_CONVS = (1, 1, 2, 2)


def _convolutions(channels: int, count: int, kernel: int, norm: Norm) -> nn.Sequential:
    """`count` times convolution and norm, an ELU between two of them."""
    layers: list[nn.Module] = []
    for index in range(count):
        if index:
            layers.append(nn.ELU(inplace=True))
        layers += [
            nn.Conv3d(channels, channels, kernel, padding=kernel // 2, bias=False),
            normalisation(norm, channels),
        ]
    return nn.Sequential(*layers)


class InputBlock(nn.Module):
    """One image channel to `width` features; the image itself is the residual."""

    def __init__(self, width: int, kernel: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, width, kernel, padding=kernel // 2, bias=False), normalisation(norm, width)
        )
        self.activation = nn.ELU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) to (B, width, X, Y, Z)."""
        features: Tensor = self.activation(self.body(image) + image)
        return features


class DownBlock(nn.Module):
    """Stride-2 convolution that doubles the channels, then a residual block."""

    def __init__(self, channels: int, count: int, kernel: int, norm: Norm) -> None:
        super().__init__()
        self.shrink = nn.Sequential(
            nn.Conv3d(channels, 2 * channels, 2, stride=2, bias=False),
            normalisation(norm, 2 * channels),
            nn.ELU(inplace=True),
        )
        self.body = _convolutions(2 * channels, count, kernel, norm)
        self.activation = nn.ELU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to (B, 2C, X/2, Y/2, Z/2)."""
        halved = self.shrink(features)
        deeper: Tensor = self.activation(self.body(halved) + halved)
        return deeper


class UpBlock(nn.Module):
    """Transposed convolution, concatenated skip, residual block."""

    def __init__(
        self, channels_in: int, channels_skip: int, count: int, kernel: int, norm: Norm
    ) -> None:
        super().__init__()
        self.grow = nn.Sequential(
            nn.ConvTranspose3d(channels_in, channels_skip, 2, stride=2),
            normalisation(norm, channels_skip),
            nn.ELU(inplace=True),
        )
        self.body = _convolutions(2 * channels_skip, count, kernel, norm)
        self.activation = nn.ELU(inplace=True)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """`features` at half the skip's resolution; returns twice the skip's channels."""
        joined = torch.cat((self.grow(features), skip), dim=1)
        shallower: Tensor = self.activation(self.body(joined) + joined)
        return shallower


class SVNet(nn.Module):
    """Residual encoder-decoder with `levels` resolutions: V-Net without its innermost one.

    Args:
        classes: Output channels, background included.
        levels: Resolution levels; every edge of the input is a multiple of 2^(levels - 1).
        width: Channels at full resolution; doubled at each level.
        kernel: Edge of the convolution kernels in voxels.
        norm: "group" (default) or "batch".

    Dropout, which MONAI adds to its VNet, is left out: the paper names none.
    """

    def __init__(
        self, *, classes: int, levels: int = 4, width: int, kernel: int, norm: Norm = "group"
    ) -> None:
        super().__init__()
        if not 2 <= levels <= len(_DOWN_CONVS):
            raise ValueError(f"levels must be 2 to {len(_DOWN_CONVS)}, not {levels}")
        widths = [width * 2**level for level in range(levels)]
        self.stem = InputBlock(width, kernel, norm)
        self.down = nn.ModuleList(
            DownBlock(widths[level - 1], _DOWN_CONVS[level], kernel, norm)
            for level in range(1, levels)
        )
        # An up block returns twice its skip's channels, so only the innermost differs.
        inputs = [2 * w for w in widths[1:-1]] + [widths[-1]]
        self.up = nn.ModuleList(
            UpBlock(inputs[level], widths[level], _UP_CONVS[level], kernel, norm)
            for level in reversed(range(levels - 1))
        )
        # A GroupNorm over the few class channels would blow up the noise of an empty patch, so
        # the head has a norm only in the published, batch-normalised form.
        head: list[nn.Module] = [
            nn.Conv3d(2 * width, classes, kernel, padding=kernel // 2, bias=False)
        ]
        if norm == "batch":
            head.append(normalisation(norm, classes))
        self.head = nn.Sequential(*head, nn.ELU(inplace=True), nn.Conv3d(classes, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) to logits (B, classes, X, Y, Z)."""
        logits: Tensor = self.head(self.features(image))
        return logits

    def features(self, image: Tensor) -> Tensor:
        """What the head reads: the last decoder layer, (B, 2 width, X, Y, Z)."""
        features: Tensor = self.stem(image)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(features)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features, skip)
        return features


class VNet(SVNet):
    """V-Net: five levels.

    At kernel 5, width 16, 4 classes and batch norm it has the 45,605,916 parameters of MONAI's.
    """

    def __init__(self, *, classes: int, width: int, kernel: int, norm: Norm = "group") -> None:
        super().__init__(classes=classes, levels=5, width=width, kernel=kernel, norm=norm)
