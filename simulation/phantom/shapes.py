"""Signed distances of simple shapes, in mm, negative inside.

A structure is a function of points, so a scan on any grid, oblique ones included, samples the
anatomy itself and never interpolates.  Points are three arrays that broadcast to the grid's shape.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Points = tuple[Field, Field, Field]
Vector = tuple[float, float, float]
# The distance where it is not computed.
FAR_MM = 15.0


def shape_of(points: Points) -> tuple[int, ...]:
    """The grid's shape."""
    return np.broadcast_shapes(*(p.shape for p in points))


def ellipsoid(
    points: Points, centre: Vector, axes: Vector, waves: NDArray[np.float64] | None = None
) -> Field:
    """Approximate signed distance to an ellipsoid, exact at its surface.

    Args:
        points: Where.
        centre: In mm.
        axes: Semi-axes in mm.
        waves: Rows (amplitude as a part of the least axis, direction x 3, phase): smooth bumps.

    Source: k0 (k0 - 1) / k1 (I. Quilez, "ellipsoid distance").
    """
    u, v, w = (
        (p - np.float32(c)) / np.float32(a) for p, c, a in zip(points, centre, axes, strict=True)
    )
    k0 = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
    k1 = np.sqrt(sum((q / np.float32(a)) ** 2 for q, a in zip((u, v, w), axes, strict=True)))
    distance = k0 * (k0 - 1) / (k1 + np.float32(1e-6))
    if waves is not None:
        size = np.float32(min(axes))
        for amplitude, dx, dy, dz, phase in waves.astype(np.float32):
            distance = distance - size * amplitude * np.cos((dx * u + dy * v + dz * w) / k0 + phase)
    result: Field = distance.astype(np.float32)
    return result


def ellipse(u: Field, v: Field, half_u: Field | float, half_v: Field | float) -> Field:
    """The same in two dimensions, about the origin; the semi-axes may vary with the point."""
    k0 = np.sqrt((u / half_u) ** 2 + (v / half_v) ** 2) + np.float32(1e-6)
    k1 = np.sqrt((u / half_u**2) ** 2 + (v / half_v**2) ** 2) + np.float32(1e-6)
    result: Field = (k0 * (k0 - 1) / k1).astype(np.float32)
    return result


def capsule(points: Points, start: Vector, end: Vector, radius: float) -> Field:
    """Exact distance to a rod with round ends."""
    line = np.subtract(end, start).astype(np.float32)
    offset = [p - np.float32(s) for p, s in zip(points, start, strict=True)]
    along = sum(o * part for o, part in zip(offset, line, strict=True)) / np.dot(line, line)
    along = np.clip(along, 0, 1)
    square = sum((o - along * part) ** 2 for o, part in zip(offset, line, strict=True))
    result: Field = (np.sqrt(square) - np.float32(radius)).astype(np.float32)
    return result


def union(a: Field, b: Field) -> Field:
    """Inside either."""
    return np.minimum(a, b)


def intersection(a: Field, b: Field) -> Field:
    """Inside both."""
    return np.maximum(a, b)


def difference(a: Field, b: Field) -> Field:
    """Inside a, not b."""
    return np.maximum(a, -b)


Box = tuple[slice, slice, slice]


def box_around(points: Points, low: Vector, high: Vector) -> Box:
    """Array slices that hold every point between two corners; empty slices if there is none."""
    shape = shape_of(points)
    first, last = [0, 0, 0], list(shape)
    for p, a, b in zip(points, low, high, strict=True):
        inside = (p >= a) & (p <= b)
        for dim in range(3):
            if p.shape[dim] == 1:
                if not inside.any():
                    last[dim] = first[dim]
                continue
            hit = np.flatnonzero(inside.any(axis=tuple(d for d in range(3) if d != dim)))
            first[dim] = max(first[dim], int(hit[0]) if hit.size else shape[dim])
            last[dim] = min(last[dim], int(hit[-1]) + 1 if hit.size else 0)
    x, y, z = (slice(a, max(a, b)) for a, b in zip(first, last, strict=True))
    return x, y, z


def crop(array: Field, box: Box) -> Field:
    """The part of a broadcastable array that belongs to the box, as a view."""
    index = tuple(
        slice(None) if size == 1 else part for size, part in zip(array.shape, box, strict=True)
    )
    view: Field = array[index]
    return view


def crop_points(points: Points, box: Box) -> Points:
    """The points of a box."""
    x, y, z = points
    return crop(x, box), crop(y, box), crop(z, box)


def in_box(points: Points, low: Vector, high: Vector, shape: Callable[[Points], Field]) -> Field:
    """A shape's distance, computed between two corners only and `FAR_MM` elsewhere."""
    distance: Field = np.full(shape_of(points), FAR_MM, np.float32)
    box = box_around(points, low, high)
    distance[box] = np.minimum(shape(crop_points(points, box)), np.float32(FAR_MM))
    return distance
