"""3-D U-Net.

Source: Cicek et al., MICCAI 2016.  Four departures: convolutions are padded, so that logits are of
the image's size; the norm is the study's; and ELU and a head with the network's kernel, as SVNet
has, are in place of ReLU and a 1^3 head, with which Dice left a small organ out: docs/method.md.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from asdnet_models.networks.parts import EncoderDecoder, Norm, convolution, padding, pooled
from asdnet_models.stages import THREE_HALVINGS, Stages, Triple


class UNet(EncoderDecoder):
    """Four stages: max-pooling down, transposed convolution up, concatenated skips.

    Two convolutions a stage.  On the way down the first leaves half of the stage's channels, so
    that they double before the pooling and not after it.

    Args:
        classes: Output channels, background included.
        width: Channels at full resolution (64 in the source); doubled at each stage.
        kernel: Edge of the convolution kernels in voxels.
        norm: "group" or "batch".
        strides: By down-sampling the factor along x, y, z; None: three halvings.
        kernels: By stage the kernel's edges; None: `kernel` everywhere.
        max_width: Channels of a stage at most.
        deep_supervision: Whether there are inner heads.

    Three classes, three image channels, width 64 and kernel 3 have the source's 19,069,955
    parameters, where each norm's two values a channel are counted as one and the head as its 195.
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
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        strides = THREE_HALVINGS if strides is None else strides
        stages = Stages.of(width, kernel, strides, kernels, max_width)
        widths = stages.widths
        self.down = nn.ModuleList(
            # Between two stages at the cap there is nothing to double.
            nn.Sequential(
                convolution(before, max(before, w // 2), edges, norm, nn.ELU),
                convolution(max(before, w // 2), w, edges, norm, nn.ELU),
            )
            for before, w, edges in zip([1, *widths[:-1]], widths, stages.kernels, strict=True)
        )
        self.pool = nn.ModuleList(nn.MaxPool3d(stride) for stride in stages.strides)
        ups = list(zip(widths, widths[1:], stages.strides, stages.kernels, strict=False))[::-1]
        self.grow = nn.ModuleList(
            nn.ConvTranspose3d(deeper, deeper, stride, stride=stride, bias=False)
            for _, deeper, stride, _ in ups
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                convolution(deeper + w, w, edges, norm, nn.ELU),
                convolution(w, w, edges, norm, nn.ELU),
            )
            for w, deeper, _, edges in ups
        )
        edges = stages.kernels[0]
        head = nn.Conv3d(width, classes, edges, padding=padding(edges))
        self._add_heads(head, widths[:-1], classes=classes, deep=deep_supervision)

    def _decode(self, image: Tensor) -> Iterator[Tensor]:
        features, skips = pooled(image, self.down, self.pool)
        for grow, up, skip in zip(self.grow, self.up, skips, strict=True):
            features = up(torch.cat((grow(features), skip), dim=1))
            yield features
