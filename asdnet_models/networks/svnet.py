"""SVNet and V-Net, which differ in the number of stages alone.

Sources: Milletari et al., 3DV 2016 (V-Net); Nie et al., MICCAI 2018 (SVNet: V-Net without its
innermost pool-conv-deconv stage).
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from asdnet_models.networks.parts import (
    EncoderDecoder,
    Norm,
    normalisation,
    padding,
)
from asdnet_models.stages import MAX_DOWNSAMPLINGS, Stages, Triple

# Convolutions of the residual blocks, full resolution first (Milletari et al. 2016, Fig. 2); the
# last stands for all stages beyond the source's five.
_DOWN_CONVS = (1, 1, 2, 3, 2)
_UP_CONVS = (1, 1, 2, 2)


def _at(counts: tuple[int, ...], stage: int) -> int:
    return counts[min(stage, len(counts) - 1)]


def _convolutions(channels: int, count: int, kernel: Triple, norm: Norm) -> nn.Sequential:
    """`count` times convolution and norm, an ELU between two of them."""
    layers: list[nn.Module] = []
    for index in range(count):
        if index:
            layers.append(nn.ELU(inplace=True))
        layers += [
            nn.Conv3d(channels, channels, kernel, padding=padding(kernel), bias=False),
            normalisation(norm, channels),
        ]
    return nn.Sequential(*layers)


class InputBlock(nn.Module):
    """One image channel to `width` features; the image itself is the residual."""

    def __init__(self, width: int, kernel: Triple, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, width, kernel, padding=padding(kernel), bias=False),
            normalisation(norm, width),
        )
        self.activation = nn.ELU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) to (B, width, X, Y, Z)."""
        features: Tensor = self.activation(self.body(image) + image)
        return features


class DownBlock(nn.Module):
    """Strided convolution of as many voxels as its stride, then a residual block.

    Args:
        channels_in: Of the stage before.
        channels: Of this stage: twice as many, up to the cap.
        stride: The factor along each axis.
        count: Convolutions of the residual block.
        kernel: Their edges, voxels.
        norm: "group" or "batch".
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: Triple,
        count: int,
        kernel: Triple,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.shrink = nn.Sequential(
            nn.Conv3d(channels_in, channels, stride, stride=stride, bias=False),
            normalisation(norm, channels),
            nn.ELU(inplace=True),
        )
        self.body = _convolutions(channels, count, kernel, norm)
        self.activation = nn.ELU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels_in, X, Y, Z) to (B, channels, X/2, Y/2, Z/2), if all axes are halved."""
        shrunk = self.shrink(features)
        deeper: Tensor = self.activation(self.body(shrunk) + shrunk)
        return deeper


class UpBlock(nn.Module):
    """Transposed convolution of as many voxels as its stride, concatenated skip, residual block.

    Arguments as those of `DownBlock`, with the skip's channels.
    """

    def __init__(
        self,
        channels_in: int,
        channels_skip: int,
        stride: Triple,
        count: int,
        kernel: Triple,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.grow = nn.Sequential(
            nn.ConvTranspose3d(channels_in, channels_skip, stride, stride=stride),
            normalisation(norm, channels_skip),
            nn.ELU(inplace=True),
        )
        self.body = _convolutions(2 * channels_skip, count, kernel, norm)
        self.activation = nn.ELU(inplace=True)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """`features` at the resolution below the skip's; returns twice the skip's channels."""
        joined = torch.cat((self.grow(features), skip), dim=1)
        shallower: Tensor = self.activation(self.body(joined) + joined)
        return shallower


class SVNet(EncoderDecoder):
    """Residual encoder-decoder with `levels` resolutions: V-Net without its innermost one.

    Args:
        classes: Output channels, background included.
        width: Channels at full resolution; doubled at each stage.
        kernel: Edge of the convolution kernels in voxels.
        norm: "group" (default) or "batch".
        strides: By down-sampling the factor along x, y, z; None: 2, in `levels` stages.
        kernels: By stage the kernel's edges; None: `kernel` everywhere.
        max_width: Channels of a stage at most.  The decoder's have twice as many, as ever.
        deep_supervision: Whether there are inner heads.
        levels: Stages, where no strides are given; None: `LEVELS`.

    Dropout, which MONAI adds to its VNet, is left out: the paper names none.
    """

    LEVELS: ClassVar[int] = 4

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
        deep_supervision: bool = False,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        levels = self.LEVELS if levels is None else levels
        if not 2 <= levels <= MAX_DOWNSAMPLINGS + 1:
            raise ValueError(f"levels must be 2 to {MAX_DOWNSAMPLINGS + 1}, not {levels}")
        strides = ((2, 2, 2),) * (levels - 1) if strides is None else strides
        stages = Stages.of(width, kernel, strides, kernels, max_width)
        strides, kernels, widths = stages.strides, stages.kernels, stages.widths
        self.stem = InputBlock(width, kernels[0], norm)
        self.down = nn.ModuleList(
            DownBlock(
                widths[stage - 1],
                widths[stage],
                strides[stage - 1],
                _at(_DOWN_CONVS, stage),
                kernels[stage],
                norm,
            )
            for stage in range(1, len(widths))
        )
        # An up block returns twice its skip's channels, so only the innermost differs.
        inputs = [2 * w for w in widths[1:-1]] + [widths[-1]]
        self.up = nn.ModuleList(
            UpBlock(
                inputs[stage],
                widths[stage],
                strides[stage],
                _at(_UP_CONVS, stage),
                kernels[stage],
                norm,
            )
            for stage in reversed(range(len(strides)))
        )
        # A GroupNorm over the few class channels would blow up the noise of an empty patch, so
        # the head has a norm only in the published, batch-normalised form.
        head: list[nn.Module] = [
            nn.Conv3d(2 * width, classes, kernels[0], padding=padding(kernels[0]), bias=False)
        ]
        if norm == "batch":
            head.append(normalisation(norm, classes))
        head += [nn.ELU(inplace=True), nn.Conv3d(classes, classes, 1)]
        channels = [2 * w for w in widths[:-1]]
        self._add_heads(nn.Sequential(*head), channels, classes=classes, deep=deep_supervision)

    def _decode(self, image: Tensor) -> Iterator[Tensor]:
        features: Tensor = self.stem(image)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(features)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features, skip)
            yield features


class VNet(SVNet):
    """V-Net: five stages, where no strides are given.

    At kernel 5, width 16, 4 classes and batch norm it has the 45,605,916 parameters of MONAI's.
    """

    LEVELS = 5
