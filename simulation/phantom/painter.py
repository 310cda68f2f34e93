"""Paints structures by coverage: edges have partial volume at any resolution."""

from collections.abc import Callable

import numpy as np

from simulation.phantom.shapes import (
    Field,
    Points,
    Vector,
    box_around,
    capsule,
    crop_points,
    ellipsoid,
)

_EDGE_MM = 4.0


def mirrored(point: Vector, side: int) -> Vector:
    """The point, or its mirror image on the right (side -1)."""
    return side * point[0], point[1], point[2]


class Painter:
    """Lays structures over one another by their coverage of each voxel.

    Structures are computed in a box of their own size: most are small, and the grid is not.
    """

    def __init__(self, shape: tuple[int, ...], voxel_mm: float, level: float) -> None:
        self.signal: Field = np.full(shape, level, np.float32)
        self._voxel_mm = np.float32(voxel_mm)

    def lay(self, distance: Field, level: float | Field) -> None:
        """Signal of a structure where it covers the voxel, partly at its edge."""
        self._blend(self.signal, distance, np.asarray(level, np.float32))

    def lay_in_box(
        self,
        points: Points,
        low: Vector,
        high: Vector,
        shape: Callable[[Points], Field],
        level: float | Field,
    ) -> None:
        """The same for a shape that lies between two corners."""
        box = box_around(points, low, high)
        part = self.signal[box]
        if part.size:
            there = np.asarray(level, np.float32)
            self._blend(part, shape(crop_points(points, box)), there[box] if there.ndim else there)

    def lay_ellipsoid(
        self, points: Points, centre: Vector, axes: Vector, level: float | Field
    ) -> None:
        """An ellipsoid by centre and semi-axes in mm."""
        low, high = _corners(centre, centre, axes)
        self.lay_in_box(points, low, high, lambda near: ellipsoid(near, centre, axes), level)

    def lay_capsule(
        self, points: Points, start: Vector, end: Vector, radius: float, level: float | Field
    ) -> None:
        """A rod with round ends."""
        low, high = _corners(start, end, (radius, radius, radius))
        self.lay_in_box(points, low, high, lambda near: capsule(near, start, end, radius), level)

    def _blend(self, signal: Field, distance: Field, level: Field) -> None:
        coverage = np.clip(np.float32(0.5) - distance / self._voxel_mm, 0, 1)
        signal += coverage * (level - signal)


def _corners(start: Vector, end: Vector, reach: Vector) -> tuple[Vector, Vector]:
    low, high = (
        tuple(pick(a, b) + sign * (r + _EDGE_MM) for a, b, r in zip(start, end, reach, strict=True))
        for pick, sign in ((min, -1), (max, 1))
    )
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
