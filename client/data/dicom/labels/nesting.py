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

from client.data.dicom.labels.outlines import inside

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
        unclear: Whether one may as well be another's hole as its double or a piece across it.
    """

    mask: NDArray[np.bool_]
    united: bool = False
    unclear: bool = False


@dataclass(frozen=True, kw_only=True)
class _Contour:
    mask: NDArray[np.bool_]  # of its box alone
    box: tuple[slice, slice]
    voxels: int
    area_mm2: float
    length_mm: float


def excluded(outlines: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> Region:
    """What lies within an odd number of outlines, as those of type XOR want it.

    One that is there twice would undo itself: that is unclear.
    """
    masks = [inside(outline, shape) for outline in outlines]
    mask = np.zeros(shape, np.bool_)
    for each in masks:
        mask ^= each
    drawn = [np.packbits(each).tobytes() for each in masks if each.any()]
    return Region(mask=mask, unclear=len(set(drawn)) < len(drawn))


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
    depths: list[int] = []
    seen: set[Relation] = set()
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
    mask = np.zeros(shape, np.bool_)
    for depth, contour in sorted(zip(depths, contours, strict=True), key=lambda pair: pair[0]):
        mask[contour.box][contour.mask] = depth % 2 == 0
    return Region(mask=mask, united=bool(seen & {"across", "double"}), unclear="unclear" in seen)


def _contour(
    outline: NDArray[np.float64], shape: tuple[int, int], voxel_mm: tuple[float, float]
) -> _Contour | None:
    """An outline and what it has inside; None where that is no voxel's centre."""
    mask = inside(outline, shape)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    points_mm = (outline - outline[0]) * voxel_mm
    x, y = points_mm.T
    area_mm2 = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    steps_mm = np.roll(points_mm, -1, axis=0) - points_mm
    return _Contour(
        mask=mask[box].copy(),
        box=box,
        voxels=int(np.count_nonzero(mask)),
        area_mm2=area_mm2,
        length_mm=float(np.hypot(*steps_mm.T).sum()),
    )


def _relation(larger: _Contour, smaller: _Contour) -> Relation:
    shared = _shared(larger, smaller)
    outside = smaller.voxels - shared
    if not shared:
        return "apart"
    if outside > _ACROSS * smaller.voxels:
        return "across"
    if 2 * shared > larger.voxels:
        wall_mm = 2 * (larger.area_mm2 - smaller.area_mm2) / (larger.length_mm + smaller.length_mm)
        if wall_mm <= _DOUBLE_MM:
            return "double"
        if wall_mm < _WALL_MM:
            return "unclear"
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
