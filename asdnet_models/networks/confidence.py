"""The confidence network D: where, or whether, a segmentation can be trusted.

Source: Nie et al., MICCAI 2018, Section 2.2; layer form after Hung et al., BMVC 2018.  That D may
see the scan, and may be combined with the softmax, is ours: docs/method.md has the reasons.
"""

import torch
from torch import Tensor, nn

_SLOPE = 0.2
# A probability nearer to 1 than this carries no more information.
_NEAREST = 1e-5


def confidence_map(logits: Tensor, probabilities: Tensor, *, softmax_prior: bool) -> Tensor:
    """M, in [0, 1]: where S's prediction is to be trusted.

    Args:
        logits: D's, (B, 1, X, Y, Z).
        probabilities: S's, (B, C, X, Y, Z).
        softmax_prior: Whether M's log-odds are the mean of D's and of the largest class
            probability's, two judges that err in different places; else D's alone (the paper).
    """
    if softmax_prior:
        largest = probabilities.amax(1, keepdim=True).clamp(_NEAREST, 1 - _NEAREST)
        logits = (logits + torch.logit(largest)) / 2
    return torch.sigmoid(logits)


class ConfidenceNetwork(nn.Module):
    """What both forms of D begin with.

    Args:
        classes: Channels of the class maps, background included.
        width: Channels after the first convolution; doubled at each level.
        sees_image: Whether the scan is a further input channel.
    """

    def __init__(self, *, classes: int, width: int, sees_image: bool = False) -> None:
        super().__init__()
        self.sees_image = sees_image
        channels = classes + int(sees_image)
        self.stem = nn.Sequential(nn.Conv3d(channels, width, 3, padding=1), nn.LeakyReLU(_SLOPE))

    def _stem_features(self, class_maps: Tensor, image: Tensor | None) -> Tensor:
        if self.sees_image:
            if image is None:
                raise ValueError(
                    "confidence network: needs the image with the maps; none was given"
                )
            class_maps = torch.cat((class_maps, image), dim=1)
        features: Tensor = self.stem(class_maps)
        return features


def _halving(channels: int, kernel: int) -> nn.Sequential:
    """Half the resolution, twice the channels."""
    return nn.Sequential(
        nn.Conv3d(channels, 2 * channels, kernel, stride=2, padding=1), nn.LeakyReLU(_SLOPE)
    )


class ConfidenceFCN(ConfidenceNetwork):
    """Class maps in, one logit a voxel out, at full resolution.

    A 3^3 convolution, three 4^3 stride-2 convolutions with LeakyReLU, a mirrored decoder with
    additive skips, and a 1^3 head.  No norm: real masks and soft predictions differ in their
    statistics, and a norm would hand D that difference for nothing.
    """

    def __init__(self, *, classes: int, width: int, sees_image: bool = False) -> None:
        super().__init__(classes=classes, width=width, sees_image=sees_image)
        widths = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(_halving(c, 4) for c in widths[:-1])
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose3d(2 * c, c, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)
            )
            for c in reversed(widths[:-1])
        )
        self.head = nn.Conv3d(width, 1, 1)

    def forward(self, class_maps: Tensor, image: Tensor | None = None) -> Tensor:
        """Logits (B, 1, X, Y, Z).

        Args:
            class_maps: (B, classes, X, Y, Z), edges multiples of 8; each voxel sums to 1.
            image: (B, 1, X, Y, Z), for a D that sees it; else not looked at.

        Raises:
            ValueError: If D sees the image and is given none.
        """
        features = self._stem_features(class_maps, image)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(features)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features) + skip
        logits: Tensor = self.head(features)
        return logits


class ConfidenceCNN(ConfidenceNetwork):
    """Class maps in, one logit a patch out: a plain discriminator (row AttSVNet+CNN).

    The encoder of `ConfidenceFCN` with 3^3 kernels, the mean over the patch, one logit.  The
    logit keeps five axes, so that it stands wherever a map of logits does: Eq. 3 to 5 take means.
    """

    def __init__(self, *, classes: int, width: int, sees_image: bool = False) -> None:
        super().__init__(classes=classes, width=width, sees_image=sees_image)
        widths = [width * 2**level for level in range(4)]
        self.down = nn.Sequential(*(_halving(c, 3) for c in widths[:-1]))
        self.head = nn.Conv3d(widths[-1], 1, 1)

    def forward(self, class_maps: Tensor, image: Tensor | None = None) -> Tensor:
        """Logits (B, 1, 1, 1, 1); arguments and errors as those of `ConfidenceFCN`."""
        features = self.down(self._stem_features(class_maps, image))
        logits: Tensor = self.head(features.mean((2, 3, 4), keepdim=True))
        return logits
