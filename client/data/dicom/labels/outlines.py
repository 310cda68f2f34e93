"""Masks of one slice as closed outlines, and back; in voxels, (x, y), centres at integers.

Outlines run half-way between voxels inside and outside (marching squares), so no outline meets
a voxel's centre and every reader that asks which centres lie inside finds the same mask.
"""

from __future__ import annotations

import itertools

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The closed outlines, each (N, 2), of a mask (Y, X); its holes are cut in by keyholes.

    A keyhole goes to the hole and back on one line, which is how DICOM has holes in
    CLOSED_PLANAR contours (PS3.3, C.8.8.6.3) and right for readers that unite contours as well
    as for those that exclude one from the other.
    """
    generator = contour_generator(
        z=np.pad(mask, 1).astype(np.float64), fill_type=FillType.OuterOffset
    )
    closed = []
    for points, offsets in zip(*generator.filled(0.5, np.inf), strict=True):
        rings = [points[a : b - 1] - 1 for a, b in itertools.pairwise(offsets)]
        outer = rings[0]
        for hole in rings[1:]:
            outer = _keyhole(outer, hole)
        closed.append(outer)
    return closed


def inside(outline: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Voxels, (Y, X), whose centre an outline, (N, 2), has inside: it goes round them an odd number
    of times.
    """
    odd: NDArray[np.bool_] = rounds(outline, shape) % 2 == 1
    return odd


def rounds(outline: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """How often an outline, (N, 2), goes round the centre of each voxel, (Y, X), by its sense: how
    often it crosses their row to their left, up or down.

    An edge is the same from either end, so a keyhole's two lines cancel, and a centre on the
    border of two outlines is in one of them.
    """
    start, end = outline, np.roll(outline, -1, axis=0)
    upward = (start[:, 1] <= end[:, 1])[:, None]
    low, high = np.where(upward, start, end), np.where(upward, end, start)
    first = np.clip(np.ceil(low[:, 1]), 0, shape[0]).astype(int)
    after = np.clip(np.ceil(high[:, 1]), 0, shape[0]).astype(int)
    edge = np.repeat(np.arange(len(low)), after - first)
    row = np.arange(edge.size) - np.repeat(np.cumsum(after - first) - after, after - first)
    share = (row - low[edge, 1]) / (high[edge, 1] - low[edge, 1])
    crossing = low[edge, 0] + share * (high[edge, 0] - low[edge, 0])
    column = np.clip(np.ceil(crossing), 0, shape[1]).astype(int)
    width = shape[1] + 1
    sense = np.where(upward[edge, 0], 1, -1)
    crossed = np.bincount(row * width + column, sense, shape[0] * width).reshape(-1, width)
    times: NDArray[np.int64] = np.cumsum(crossed[:, :-1], axis=1).astype(np.int64)
    return times


def _keyhole(outer: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """One outline of two: along the outer one, over to the hole where it is near, and back.

    Outlines have points of two kinds: x or y is an integer, the other a half.  The bridge joins a
    point of one kind to one of the other, which no line through a voxel's centre can (its steps
    from a centre would be odd and even halves at once), so that it decides over no voxel.
    """
    apart = np.linalg.norm(outer[:, None] - hole[None], axis=2)
    apart[(outer[:, None, 0] % 1 == 0) == (hole[None, :, 0] % 1 == 0)] = np.inf
    at, there = np.unravel_index(np.argmin(apart), apart.shape)
    around = np.roll(hole, -there, axis=0)
    return np.concatenate([outer[: at + 1], around, around[:1], outer[at:]])
