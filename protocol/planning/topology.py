"""Strides and kernels by stage and axis, and patches that they divide.

Source: nnU-Net's planner (Isensee et al., Nature Methods 2021): an axis is halved and convolved
once its voxels are about as long as the others'.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.planning.rules import FACTOR, LEAST_EDGE, MOST_STRIDES

Edges = tuple[int, int, int]
Millimetres = tuple[float, float, float]


@dataclass(frozen=True)
class Topology:
    """Down-samplings and kernels of a network.

    Attributes:
        strides: By down-sampling, 1 or 2 along x, y, z.
        kernels: By stage, one more, 1 or 3 along x, y, z.
    """

    strides: tuple[Edges, ...]
    kernels: tuple[Edges, ...]

    @property
    def multiple(self) -> Edges:
        """What the patch's edges must be multiples of."""
        x, y, z = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return (x, y, z)


def topology(patch: Sequence[float], spacing_mm: Millimetres) -> Topology:
    """Of a network for a patch of this size.

    Args:
        patch: Voxels along x, y, z; it need not be divisible yet.
        spacing_mm: Of the study's grid.
    """
    size, spacing = [float(edge) for edge in patch], list(spacing_mm)
    kernel = [1, 1, 1]
    strides: list[Edges] = []
    kernels: list[Edges] = []
    while True:
        finest = min(spacing)
        kernel = [
            3 if known == 3 or mm < FACTOR * finest else 1
            for known, mm in zip(kernel, spacing, strict=True)
        ]
        kernels.append((kernel[0], kernel[1], kernel[2]))
        able = [axis for axis in range(3) if size[axis] >= 2 * LEAST_EDGE]
        finest = min((spacing[axis] for axis in able), default=0.0)
        halved = [axis for axis in able if spacing[axis] < FACTOR * finest]
        if len(halved) == 1 and size[halved[0]] < 3 * LEAST_EDGE:
            halved = []  # of one axis alone a little more is to be left (Isensee)
        if not halved or len(strides) == MOST_STRIDES:
            return Topology(strides=tuple(strides), kernels=tuple(kernels))
        step = [2 if axis in halved else 1 for axis in range(3)]
        strides.append((step[0], step[1], step[2]))
        size = [math.ceil(n / s) for n, s in zip(size, step, strict=True)]
        spacing = [mm * s for mm, s in zip(spacing, step, strict=True)]


def divisible(patch: Sequence[float], multiple: Edges) -> Edges:
    """The patch, its edges raised to multiples."""
    x, y, z = (m * max(1, math.ceil(round(n) / m)) for n, m in zip(patch, multiple, strict=True))
    return (x, y, z)


def fitted(patch: Sequence[float], spacing_mm: Millimetres) -> tuple[Edges, Topology]:
    """A patch that its own topology divides, at least as large."""
    found = topology(patch, spacing_mm)
    return divisible(patch, found.multiple), found


def shrunk(
    patch: Edges, whole: Sequence[float], least: Sequence[float], multiple: Edges
) -> Edges | None:
    """The patch one step shorter along its longest axis, relative to the scan.

    Args:
        patch: Voxels.
        whole: The median scan, voxels.
        least: What each edge must keep, voxels.
        multiple: What each edge is a multiple of.

    Returns:
        None where no edge can be shortened.
    """
    by_length = sorted(range(3), key=lambda axis: patch[axis] / whole[axis], reverse=True)
    for axis in by_length:
        shorter = patch[axis] - multiple[axis]
        if shorter >= max(least[axis], 1):
            edges = [*patch]
            edges[axis] = shorter
            return (edges[0], edges[1], edges[2])
    return None
