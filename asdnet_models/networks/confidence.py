"""The confidence network D: where, or whether, a segmentation can be trusted.

Source: Nie et al., MICCAI 2018, Section 2.2; layer form after Hung et al., BMVC 2018.  That D may
see the scan, and may be combined with the softmax, is ours: docs/method.md has the reasons.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from asdnet_models.networks.parts import padding
from asdnet_models.stages import THREE_HALVINGS, Triple

_SLOPE = 0.2
Down = tuple[int, Triple, Triple]
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

    Attributes:
        HALVING: Edge of a down-sampling's kernel along an axis that it halves.

    Args:
        classes: Channels of the class maps, background included.
        width: Channels after the first convolution; doubled at each down-sampling.
        sees_image: Whether the scan is a further input channel.
        strides: Of each down-sampling along x, y, z: the first ones of S.
        kernels: Of the first stages of S, one a stride; None: 3.  D's have 3 where S's have more.
    """

    HALVING: ClassVar[int]

    def __init__(
        self,
        *,
        classes: int,
        width: int,
        sees_image: bool = False,
        strides: Sequence[Triple] = THREE_HALVINGS,
        kernels: Sequence[Triple] | None = None,
    ) -> None:
        super().__init__()
        self.sees_image = sees_image
        channels = classes + int(sees_image)
        own = [_at_most_three(kernel) for kernel in kernels or ((3, 3, 3),) * len(strides)]
        self.stem = nn.Sequential(
            nn.Conv3d(channels, width, own[0], padding=padding(own[0])), nn.LeakyReLU(_SLOPE)
        )
        halving = self.HALVING
        self._add_layers(
            [
                (width * 2**stage, _strided(kernel, stride, halving), stride)
                for stage, (kernel, stride) in enumerate(zip(own, strides, strict=True))
            ]
        )

    def _add_layers(self, downs: Sequence[Down]) -> None:
        """What follows the stem.

        Args:
            downs: Channels in, kernel and stride of each down-sampling.
        """
        raise NotImplementedError

    def _stem_features(self, class_maps: Tensor, image: Tensor | None) -> Tensor:
        if self.sees_image:
            if image is None:
                raise ValueError(
                    "confidence network: needs the image with the maps; none was given"
                )
            class_maps = torch.cat((class_maps, image), dim=1)
        features: Tensor = self.stem(class_maps)
        return features


def _at_most_three(kernel: Triple) -> Triple:
    x, y, z = (min(3, edge) for edge in kernel)
    return x, y, z


def _strided(kernel: Triple, stride: Triple, halving: int) -> Triple:
    """Edges of a kernel that has `halving` voxels along a halved axis, and else its own."""
    x, y, z = (halving if step == 2 else edge for edge, step in zip(kernel, stride, strict=True))
    return x, y, z


def _pads(kernel: Triple) -> Triple:
    """What halves an even edge or keeps it: 1 for kernels of 3 and 4, none for 1."""
    x, y, z = ((edge - 1) // 2 for edge in kernel)
    return x, y, z


def _down(channels: int, kernel: Triple, stride: Triple) -> nn.Sequential:
    """A lower resolution, twice the channels."""
    return nn.Sequential(
        nn.Conv3d(channels, 2 * channels, kernel, stride=stride, padding=_pads(kernel)),
        nn.LeakyReLU(_SLOPE),
    )


def _up(channels: int, kernel: Triple, stride: Triple) -> nn.Sequential:
    """The reverse of `_down`."""
    return nn.Sequential(
        nn.ConvTranspose3d(2 * channels, channels, kernel, stride=stride, padding=_pads(kernel)),
        nn.LeakyReLU(_SLOPE),
    )


class ConfidenceFCN(ConfidenceNetwork):
    """Class maps in, one logit a voxel out, at full resolution.

    A 3^3 convolution, three 4^3 stride-2 convolutions with LeakyReLU, a mirrored decoder with
    additive skips, and a 1^3 head.  Along an axis that a down-sampling does not halve its kernel
    is S's, up to 3.  No norm: real masks and soft predictions differ in their statistics, and a
    norm would hand D that difference for nothing.
    """

    HALVING = 4

    def _add_layers(self, downs: Sequence[Down]) -> None:
        self.down = nn.ModuleList(_down(*down) for down in downs)
        self.up = nn.ModuleList(_up(*down) for down in reversed(downs))
        self.head = nn.Conv3d(downs[0][0], 1, 1)

    def forward(self, class_maps: Tensor, image: Tensor | None = None) -> Tensor:
        """Logits (B, 1, X, Y, Z).

        Args:
            class_maps: (B, classes, X, Y, Z), edges multiples of the strides' product; each
                voxel sums to 1.
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

    HALVING = 3

    def _add_layers(self, downs: Sequence[Down]) -> None:
        self.down = nn.Sequential(*(_down(*down) for down in downs))
        self.head = nn.Conv3d(2 * downs[-1][0], 1, 1)

    def forward(self, class_maps: Tensor, image: Tensor | None = None) -> Tensor:
        """Logits (B, 1, 1, 1, 1); arguments and errors as those of `ConfidenceFCN`."""
        features = self.down(self._stem_features(class_maps, image))
        logits: Tensor = self.head(features.mean((2, 3, 4), keepdim=True))
        return logits
