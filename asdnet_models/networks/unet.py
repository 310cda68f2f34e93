"""3-D U-Net.

Source: Cicek et al., MICCAI 2016.  Two departures: convolutions are padded, so that logits are of
the image's size, and the norm is the study's.
"""

import torch
from torch import Tensor, nn

from asdnet_models.networks.parts import Norm, convolution

_LEVELS = 4


class UNet(nn.Module):
    """Four resolutions: max-pooling down, transposed convolution up, concatenated skips.

    Two convolutions a level.  On the way down the first leaves half of the level's channels, so
    that they double before the pooling and not after it.

    Args:
        classes: Output channels, background included.
        width: Channels at full resolution (64 in the source); doubled at each level.
        kernel: Edge of the convolution kernels in voxels.
        norm: "group" or "batch".

    Three classes, three image channels, width 64 and kernel 3 have the source's 19,069,955
    parameters, where each norm's two values a channel are counted as one.
    """

    def __init__(self, *, classes: int, width: int, kernel: int, norm: Norm = "group") -> None:
        super().__init__()
        widths = [width * 2**level for level in range(_LEVELS)]
        self.down = nn.ModuleList(
            nn.Sequential(
                convolution(before, max(1, w // 2), kernel, norm),
                convolution(max(1, w // 2), w, kernel, norm),
            )
            for before, w in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        self.grow = nn.ModuleList(
            nn.ConvTranspose3d(2 * w, 2 * w, 2, stride=2, bias=False) for w in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(
            nn.Sequential(convolution(3 * w, w, kernel, norm), convolution(w, w, kernel, norm))
            for w in reversed(widths[:-1])
        )
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z), edges multiples of 8, to logits (B, classes, X, Y, Z)."""
        features = self.down[0](image)
        skips = []
        for down in self.down[1:]:
            skips.append(features)
            features = down(self.pool(features))
        for grow, up, skip in zip(self.grow, self.up, reversed(skips), strict=True):
            features = up(torch.cat((grow(features), skip), dim=1))
        logits: Tensor = self.head(features)
        return logits
