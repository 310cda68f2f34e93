"""Slices without a contour between others: filled where the structure was drawn sparsely.

Planning systems let people contour every second or third slice and interpolate the rest; what is
exported may hold the drawn slices alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """The slices of a structure that no contour was drawn on, between others.

    Attributes:
        between: Those that contours on both sides say how to fill: pairs of drawn slices.
        unclear: How many others lie between contours that are over each other.
        apart: How many others lie between pieces.
    """

    between: tuple[tuple[int, int], ...] = ()
    unclear: int = 0
    apart: int = 0

    @property
    def sparse(self) -> int:
        """How many slices can be filled."""
        return sum(high - low - 1 for low, high in self.between)


def find_gaps(mask: NDArray[np.bool_]) -> Gaps:
    """The gaps of a structure's mask (Z, Y, X).

    A gap can be filled where it is as long as the structure's usual one, or up to twice as long (a
    slice was forgotten) and the contours on its two sides lie over each other by half of the
    larger.
    """
    drawn = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    steps = [high - low for low, high in pairwise(drawn)]
    usual = usual_step(steps)
    between: list[tuple[int, int]] = []
    unclear = apart = 0
    for low, high in pairwise(drawn):
        step = high - low
        if step == 1:
            continue
        larger = max(np.count_nonzero(mask[low]), np.count_nonzero(mask[high]))
        shared = np.count_nonzero(mask[low] & mask[high])
        over = 2 * shared >= larger
        if (step <= usual and shared) or (step <= 2 * usual and over):
            between.append((low, high))
        elif over:
            unclear += step - 1
        else:
            apart += step - 1
    return Gaps(between=tuple(between), unclear=unclear, apart=apart)


def usual_step(steps: list[int], least: int = 2) -> int:
    """The step from one drawn slice to the next that occurs most, the smaller of two.

    1, where it occurs fewer times than `least`: once is no habit.
    """
    counts = {step: steps.count(step) for step in sorted(set(steps))}
    usual = max(counts, key=lambda step: counts[step], default=1)
    return usual if counts.get(usual, 0) >= least else 1


def filled(mask: NDArray[np.bool_], gaps: Gaps, voxel_mm: tuple[float, float]) -> None:
    """Fill a mask's sparse gaps in place, between the shapes on their two sides.

    Args:
        mask: (Z, Y, X).
        gaps: As `find_gaps` gives them.
        voxel_mm: Edges of a voxel, (y, x).
    """
    for low, high in gaps.between:
        rows, columns = _box(mask[low] | mask[high])
        ends = mask[low, rows, columns], mask[high, rows, columns]
        for z, shape in enumerate(_between(*ends, high - low, voxel_mm), low + 1):
            mask[z, rows, columns] = shape


def _between(
    first: NDArray[np.bool_],
    last: NDArray[np.bool_],
    step: int,
    voxel_mm: tuple[float, float],
) -> Iterator[NDArray[np.bool_]]:
    """The shapes between two, from slice to slice.

    Shape-based interpolation: distances to the two rims, weighted, where the shapes are moved over
    each other by their centres if both are in one piece.

    Source: Raya and Udupa, IEEE Trans. Med. Imaging 9, 1990; Herman et al., IEEE CG&A 12, 1992.
    """
    depths_mm = [_depth_mm(shape, voxel_mm) for shape in (first, last)]
    whole = all(ndimage.label(shape)[1] == 1 for shape in (first, last))
    centres = [np.array(ndimage.center_of_mass(shape)) for shape in (first, last)]
    way = np.rint(centres[1] - centres[0]) if whole else np.zeros(2)
    for number in range(1, step):
        share = number / step
        there = np.rint(share * way)  # whole voxels, as parts of one would wear the rim off
        low = ndimage.shift(depths_mm[0], there, order=0, mode="nearest")
        high = ndimage.shift(depths_mm[1], there - way, order=0, mode="nearest")
        yield (1 - share) * low + share * high > 0


def _depth_mm(shape: NDArray[np.bool_], voxel_mm: tuple[float, float]) -> NDArray[np.float64]:
    """How deep within the rim each voxel is, in mm; outside it is negative."""
    within = ndimage.distance_transform_edt(np.pad(shape, 1), sampling=voxel_mm)[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~shape, sampling=voxel_mm)
    depth: NDArray[np.float64] = within - outside
    return depth


def _box(shape: NDArray[np.bool_]) -> tuple[slice, slice]:
    """What is around a shape, two voxels wider."""
    spans = (np.flatnonzero(shape.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, span[0] - 2), span[-1] + 3) for span in spans)
    return rows, columns
