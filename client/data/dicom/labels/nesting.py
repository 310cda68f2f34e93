"""All contours of a structure on one slice as one mask: which are holes, pieces or doubles.

A contour within another is a hole, one within a hole an island.  Contours that cross, as two
overlapping pieces or a contour that was drawn twice, are united: excluding one from the other would
empty what both hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from client.data.dicom.labels.outlines import inside, rounds

# Edges so near are those of one contour, drawn twice; nobody draws a wall under a millimetre.
_DOUBLE_MM = 0.7
_WALL_MM = 0.85
# A contour with so much of it outside another lies across it; with less it is a piece nor a hole.
_ACROSS = 0.1
_WITHIN = 0.02

Relation = Literal["apart", "across", "double", "within", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Region:
    """What a slice's contours have inside.

    Attributes:
        mask: (Y, X).
        united: Whether contours crossed or were doubled, and count once.
        hollow: Whether a hole takes more than half of the outline around it, as the wall of a
            bladder has it, and an outline that was drawn twice.
        unclear: Whether one may as well be another's hole as its double or a piece across it.
    """

    mask: NDArray[np.bool_]
    united: bool = False
    hollow: bool = False
    unclear: bool = False


@dataclass(frozen=True, kw_only=True)
class _Contour:
    mask: NDArray[np.bool_]  # of its box alone
    box: tuple[slice, slice]
    voxels: int
    filled: int  # its own holes too
    area_mm2: float
    length_mm: float
    twice: Relation | None = None  # of its second round to its first, where it goes round twice


def excluded(outlines: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> Region:
    """What lies within an odd number of outlines, as those of type XOR want it.

    One that is there twice would undo itself: that is unclear.
    """
    masks = [inside(outline, shape) for outline in outlines]
    mask = np.zeros(shape, np.bool_)
    for each in masks:
        mask ^= each
    drawn = [np.packbits(each).tobytes() for each in masks if each.any()]
    hollow = bool(2 * np.count_nonzero(mask) < np.count_nonzero(binary_fill_holes(mask)))
    return Region(mask=mask, hollow=hollow, unclear=len(set(drawn)) < len(drawn))


def nested(
    outlines: Sequence[NDArray[np.float64]],
    shape: tuple[int, int],
    voxel_mm: tuple[float, float],
) -> Region:
    """What outlines have inside, less the holes that lie within them.

    Args:
        outlines: Closed, each (N, 2), (x, y) in voxels, centres at integers; one with a keyhole has
            its own hole.
        shape: Of the slice, (Y, X).
        voxel_mm: Edges of a voxel, (x, y).
    """
    contours = [c for outline in outlines if (c := _contour(outline, shape, voxel_mm))]
    if not contours:
        return Region(mask=np.zeros(shape, np.bool_))
    contours.sort(key=lambda contour: -contour.voxels)
    if any(contour.twice == "unclear" for contour in contours):
        return Region(mask=np.zeros(shape, np.bool_), unclear=True)
    depths: list[int] = []
    hollow = any(2 * contour.voxels < contour.filled for contour in contours)
    seen: set[Relation] = {contour.twice for contour in contours if contour.twice}
    spans = np.array([[(s.start, s.stop) for s in contour.box] for contour in contours])
    for number, contour in enumerate(contours):
        meet = (spans[:number, :, 0] < spans[number, :, 1]) & (
            spans[:number, :, 1] > spans[number, :, 0]
        )
        near = np.flatnonzero(meet.all(axis=1)).tolist()
        relations = {other: _relation(contours[other], contour) for other in near}
        seen.update(relations.values())
        doubled = [depths[other] for other, one in relations.items() if one == "double"]
        around = [depths[other] for other, one in relations.items() if one == "within"]
        depths.append(doubled[0] if doubled else 1 + max(around, default=-1))
        hollow |= depths[-1] % 2 == 1 and any(
            depths[other] == depths[-1] - 1 and 2 * contour.voxels > contours[other].filled
            for other, one in relations.items()
            if one == "within"
        )
    mask = np.zeros(shape, np.bool_)
    for depth, contour in sorted(zip(depths, contours, strict=True), key=lambda pair: pair[0]):
        mask[contour.box][contour.mask] = depth % 2 == 0
    united = bool(seen & {"across", "double"})
    return Region(mask=mask, united=united, hollow=hollow, unclear="unclear" in seen)


def _contour(
    outline: NDArray[np.float64], shape: tuple[int, int], voxel_mm: tuple[float, float]
) -> _Contour | None:
    """An outline and what it has inside; None where that is no voxel's centre."""
    times = rounds(outline, shape)
    mask = times % 2 == 1
    points_mm = (outline - outline[0]) * voxel_mm
    x, y = points_mm.T
    area_mm2 = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    steps_mm = np.roll(points_mm, -1, axis=0) - points_mm
    length_mm = float(np.hypot(*steps_mm.T).sum())
    twice = None
    if not np.array_equal(mask, times != 0):
        left_mm2 = float(np.count_nonzero(mask)) * voxel_mm[0] * voxel_mm[1]
        twice = _wall(left_mm2, length_mm)
        if twice == "double":
            mask, area_mm2, length_mm = times != 0, area_mm2 / 2, length_mm / 2
    elif not mask.any() and inside(outline[: len(outline) // 2], shape).any():
        half = outline[: len(outline) // 2]
        there, back = inside(half, shape), inside(outline[len(outline) // 2 :], shape)
        if np.array_equal(there, back):  # there and back along one line
            mask, twice = there, "double"
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return _Contour(
        mask=mask[box].copy(),
        box=box,
        voxels=int(np.count_nonzero(mask)),
        filled=int(np.count_nonzero(binary_fill_holes(mask[box]))),
        area_mm2=area_mm2,
        length_mm=length_mm,
        twice=twice,
    )


def _wall(area_mm2: float, length_mm: float) -> Relation:
    """What an edge is to another, by the area between them and the length of both."""
    wall_mm = 2 * area_mm2 / length_mm
    if wall_mm <= _DOUBLE_MM:
        return "double"
    return "unclear" if wall_mm < _WALL_MM else "within"


def _relation(larger: _Contour, smaller: _Contour) -> Relation:
    shared = _shared(larger, smaller)
    outside = smaller.voxels - shared
    if not shared:
        return "apart"
    if outside > _ACROSS * smaller.voxels:
        return "across"
    if 2 * shared > larger.voxels:
        wall = _wall(larger.area_mm2 - smaller.area_mm2, larger.length_mm + smaller.length_mm)
        if wall != "within":
            return wall
    return "within" if outside <= max(1, _WITHIN * smaller.voxels) else "unclear"


def _shared(one: _Contour, other: _Contour) -> int:
    """How many voxels both have inside; their boxes meet."""
    low = [max(a.start, b.start) for a, b in zip(one.box, other.box, strict=True)]
    high = [min(a.stop, b.stop) for a, b in zip(one.box, other.box, strict=True)]
    first, second = (
        each.mask[
            low[0] - each.box[0].start : high[0] - each.box[0].start,
            low[1] - each.box[1].start : high[1] - each.box[1].start,
        ]
        for each in (one, other)
    )
    return int(np.count_nonzero(first & second))
