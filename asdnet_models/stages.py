"""Resolutions of an encoder-decoder by stage and axis: strides, kernels and channels.

Read without PyTorch: by the configuration, the networks and whoever plans them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

Triple = tuple[int, int, int]
# A patch edge of 1024 voxels could be halved ten times, but nobody's is.
MAX_DOWNSAMPLINGS = 7
Factor = Literal[1, 2]
KernelEdge = Literal[1, 3, 5]


def _check_listed(strides: tuple[Triple, ...]) -> tuple[Triple, ...]:
    if not strides:
        raise ValueError("must list one down-sampling at least; list one, or set it to null")
    check_halving(strides)
    return strides


Strides = Annotated[
    tuple[tuple[Factor, Factor, Factor], ...],
    Field(max_length=MAX_DOWNSAMPLINGS),
    AfterValidator(_check_listed),
]
Kernels = Annotated[
    tuple[tuple[KernelEdge, KernelEdge, KernelEdge], ...],
    Field(max_length=MAX_DOWNSAMPLINGS + 1),
]
# The paper's three down-samplings, which halve every axis.
THREE_HALVINGS: tuple[Triple, ...] = ((2, 2, 2),) * 3


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of an encoder-decoder, full resolution first.

    Attributes:
        strides: The factor along x, y, z of each down-sampling.
        kernels: Edges in voxels of each stage's kernels; one more than strides.
        widths: Channels of each stage.
    """

    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    widths: tuple[int, ...]

    @classmethod
    def of(
        cls,
        width: int,
        kernel: int,
        strides: Sequence[Triple],
        kernels: Sequence[Triple] | None = None,
        max_width: int | None = None,
    ) -> "Stages":
        """Channels that double at every stage up to `max_width`, `kernel` where none is listed.

        Raises:
            ValueError: Where `check_stages` does.
        """
        check_stages(strides, kernels, width, max_width)
        if kernels is None:
            kernels = ((kernel, kernel, kernel),) * (len(strides) + 1)
        most = width * 2 ** len(strides) if max_width is None else max_width
        widths = tuple(min(width * 2**stage, most) for stage in range(len(strides) + 1))
        return cls(strides=tuple(strides), kernels=tuple(kernels), widths=widths)

    @property
    def stride(self) -> Triple:
        """Every edge of an image must be a multiple of this many voxels: x, y, z."""
        return product(self.strides)


def product(strides: Iterable[Triple]) -> Triple:
    """By axis."""
    x, y, z = (math.prod(factors) for factors in zip((1, 1, 1), *strides, strict=True))
    return x, y, z


def repeated(triples: tuple[Triple, ...], times: int | None) -> tuple[Triple, ...]:
    """The last once more, `times`."""
    return triples + triples[-1:] * (times or 0)


def check_halving(strides: Sequence[Triple]) -> None:
    """Every down-sampling halves something.

    Raises:
        ValueError: If one does not.
    """
    if idle := [stride for stride in strides if max(stride) < 2]:
        raise ValueError(
            "must halve at least one axis at every down-sampling, not "
            f"{', '.join(map(str, strides))}; leave {idle[0]} out, or have it halve an axis"
        )


def check_stages(
    strides: Sequence[Triple],
    kernels: Sequence[Triple] | None,
    width: int,
    max_width: int | None,
    *,
    deep: bool = False,
) -> None:
    """Whether a network can have these stages.

    Raises:
        ValueError: If a down-sampling halves nothing, kernels are not one a stage or all 1, the
            cap is under the first width, or deep supervision has no lower resolution to look at.
    """
    check_halving(strides)
    stages = len(strides) + 1
    if kernels is not None and len(kernels) != stages:
        raise ValueError(
            f"kernels must be {stages}, one a stage ({len(strides)} down-samplings make {stages} "
            f"stages), not {len(kernels)}; list {stages}, or none"
        )
    if kernels is not None and all(max(kernel) == 1 for kernel in kernels):
        raise ValueError(
            "kernels must be longer than 1 along an axis of a stage (a voxel alone shows no organ),"
            " not 1 everywhere; list 3 where a stage is to see its neighbours"
        )
    if max_width is not None and max_width < width:
        raise ValueError(
            f"max_width must be width, {width}, at least, not {max_width}; raise it, or lower width"
        )
    if deep and len(strides) < 2:
        raise ValueError(
            "deep_supervision must be false where strides list one down-sampling alone (there is "
            "no resolution between), not true; list another, or set it to false"
        )


def check_no_stages(name: str, own: Iterable[object | None]) -> None:
    """A network without stages is given none.

    Raises:
        ValueError: If any of `own` is not None.
    """
    if any(value is not None for value in own):
        raise ValueError(
            f"strides, kernels, max_width and deep_supervision must be left out where architecture "
            f"is {name}, which has no stages to set; leave them out"
        )


def check_patch(patch: Triple, stride: Triple) -> None:
    """Every edge can be halved as often as the networks do.

    Raises:
        ValueError: With a patch that can.
    """
    if not any(edge % step for edge, step in zip(patch, stride, strict=True)):
        return
    lower = tuple(max(s, edge - edge % s) for edge, s in zip(patch, stride, strict=True))
    multiple, halvings, along = str(stride[0]), str(stride[0].bit_length() - 1), ""
    if len(set(stride)) > 1:
        multiple = ", ".join(map(str, stride))
        halvings = ", ".join(str(step.bit_length() - 1) for step in stride)
        along = " along x, y, z"
    raise ValueError(
        f"must be multiples of {multiple}{along} (the networks halve {halvings} times), "
        f"not {patch}; {lower} would do"
    )
