"""The fully convolutional confidence network D: where does a segmentation look like a reader's?

Source: Nie et al., MICCAI 2018, Section 2.2; layer form after Hung et al., BMVC 2018.
"""

from torch import Tensor, nn

_SLOPE = 0.2


class ConfidenceFCN(nn.Module):
    """Class maps in, one logit a voxel out, at full resolution.

    A 3^3 convolution, three 4^3 stride-2 convolutions with LeakyReLU, a mirrored decoder with
    additive skips, and a 1^3 head.  No norm: real masks and soft predictions differ in their
    statistics, and a norm would hand D that difference for nothing.

    Args:
        classes: Channels of the class maps, background included.
        width: Channels after the first convolution; doubled at each level.
    """

    def __init__(self, *, classes: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.stem = nn.Sequential(nn.Conv3d(classes, width, 3, padding=1), nn.LeakyReLU(_SLOPE))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv3d(c, 2 * c, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE))
            for c in widths[:-1]
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose3d(2 * c, c, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)
            )
            for c in reversed(widths[:-1])
        )
        self.head = nn.Conv3d(width, 1, 1)

    def forward(self, class_maps: Tensor) -> Tensor:
        """(B, classes, X, Y, Z), edges multiples of 8, to logits (B, 1, X, Y, Z)."""
        features = self.stem(class_maps)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(features)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features) + skip
        logits: Tensor = self.head(features)
        return logits
