"""What one reader makes of a header's geometry, and where two readers differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdnet_models.geometry import format_numbers
from client.data.errors import ScanError
from client.data.files.geometry import ImageGrid

# What rounding explains: nibabel and the NIfTI library read one quaternion of 32-bit floats, near
# half a turn as most scans are, with up to 1.2e-3 rad between them.
_SAME_SPACING = 1e-3  # of the spacing
_SAME_AXES = 1.5e-3  # rad; 0.3 mm at 200 mm
_SAME_ORIGIN = 0.1  # of the shortest edge of a voxel
CONTRADICTION = "set both to the right one, or export it again"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading of a header, in ITK's coordinates (LPS).

    Attributes:
        source: What it is of, for a message: `its matrix (sform)`.
        spacing_mm_xyz: From voxel to voxel.
        direction: (3, 3), columns are the axes of the image; None where the header has none.
        origin_mm: Centre of the first voxel; None where the header has none.
    """

    source: str
    spacing_mm_xyz: NDArray[Any]
    direction: NDArray[Any] | None = None
    origin_mm: NDArray[Any] | None = None

    @classmethod
    def of_grid(cls, grid: ImageGrid, source: str) -> Reading:
        return cls(
            source=source,
            spacing_mm_xyz=np.asarray(grid.spacing_mm_xyz),
            direction=np.reshape(grid.direction, (3, 3)),
            origin_mm=np.asarray(grid.origin_mm),
        )


def nearest_rotation(direction: NDArray[Any]) -> NDArray[Any]:
    """The orthonormal matrix next to one of axes that are off their right angles, (3, 3)."""
    left, _, right = np.linalg.svd(direction)
    rotation: NDArray[Any] = left @ right
    return rotation


def check_axes(reading: Reading, *, location: str) -> None:
    """Raise where axes are not at right angles, or not of unit length.

    No reader of this project, and hardly one elsewhere, resamples such a scan rightly.

    Raises:
        ScanError: They are sheared, scaled or singular.
    """
    if reading.direction is None:
        return
    lengths = np.linalg.norm(reading.direction, axis=0)
    upright = reading.direction / np.where(lengths > 0, lengths, 1)
    if abs(np.linalg.det(upright)) < _SAME_AXES:
        raise ScanError(
            location,
            f"has axes that lie in one plane by {reading.source}; export it again",
            rule="geometry",
        )
    cosines = (upright.T @ upright)[[0, 0, 1], [1, 2, 2]]
    worst = int(np.abs(cosines).argmax())
    if abs(cosines[worst]) > _SAME_AXES:
        pair = ("first and second", "first and third", "second and third")[worst]
        degrees = np.degrees(np.arccos(min(1.0, abs(cosines[worst]))))
        raise ScanError(
            location,
            f"is sheared: {degrees:.4g} degrees between its {pair} axis by {reading.source}, must"
            " be 90; resample it to upright axes first",
            rule="geometry",
        )
    if np.abs(lengths - 1).max() > _SAME_AXES:
        raise ScanError(
            location,
            f"has axes of length {format_numbers(lengths)} by {reading.source}, must be 1: its"
            " voxel size is not certain; export it again",
            rule="geometry",
        )


def check_same(one: Reading, other: Reading, *, location: str, remedy: str = CONTRADICTION) -> None:
    """Raise where two readings of one header differ by more than rounding.

    Args:
        one: Of a header.
        other: Of the same.
        location: How a message begins.
        remedy: How it ends.

    Raises:
        ScanError: They do; the message has both.
    """
    difference = _difference(one, other)
    if difference is not None:
        raise ScanError(
            location,
            f"says two geometries: {difference}; {remedy}",
            rule="geometry",
        )


def _difference(one: Reading, other: Reading) -> str | None:
    a, b = one.spacing_mm_xyz, other.spacing_mm_xyz
    if not np.allclose(a, b, rtol=_SAME_SPACING, atol=0):
        return (
            f"voxels of {format_numbers(a)} mm by {one.source},"
            f" of {format_numbers(b)} mm by {other.source}"
        )
    if one.direction is not None and other.direction is not None:
        turn = _turn(one.direction, other.direction)
        if turn is not None:
            return f"{one.source} is {turn} against {other.source}"
    if one.origin_mm is not None and other.origin_mm is not None:
        apart_mm = np.linalg.norm(one.origin_mm - other.origin_mm)
        if apart_mm > _SAME_ORIGIN * min(a):
            return f"{one.source} is {apart_mm:.3g} mm away from {other.source}"
    return None


def _turn(one: NDArray[Any], other: NDArray[Any]) -> str | None:
    """How one rotation differs from another: |A - B| is sqrt(8) sin(angle / 2)."""
    if np.linalg.det(one) * np.linalg.det(other) < 0:
        return "mirrored"
    half_sine = min(1.0, float(np.linalg.norm(one - other)) / np.sqrt(8))
    angle = 2 * np.arcsin(half_sine)
    return None if angle <= _SAME_AXES else f"turned by {np.degrees(angle):.3g} degrees"
