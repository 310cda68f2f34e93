"""Slices that must be one stack: parallel, upright on each other, evenly spaced, none twice.

highdicom's `get_volume_from_series` and `Image.get_volume` (0.28) do the same job, and were tried
instead of this file and `pixels.py`. They do not fit, for these reasons:

- Slices whose headers differ by rounding alone are refused: cosines by 2e-5, pixel spacings by
  1e-5 mm (the tolerance of the spacing cannot be set), and a series without a frame of reference.
- Cosines that are not of unit length are taken as they are, and change the size of the voxels.
- Slices that are missing, there twice or shifted sideways, and echoes of one position, are one
  message, "not a regularly-spaced volume".
- The origin of an oblique stack differs: by 1e-9 mm for phantoms, by 7e-7 mm for a scanner's
  series; slices come in the opposite order.
- Compressed pixels need pydicom's plugins, where ITK has its decoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError

# Scanners round slice positions, so steps differ; a lost slice doubles one.
_STEP_TOLERANCE = 0.01  # of the median step
_SAME_POSITION_MM = 1e-3
_SAME_SPACING_MM = 1e-4
_SAME_COSINE = 1e-4
_ROTATION_TOLERANCE = 1e-3  # of length and angle of the two directions that a header holds
_DRIFT_TOLERANCE = 0.1  # of a voxel, sideways, from the first slice to the last
_MOST_ROUNDED = 0.5  # of a voxel, by which rounding may explain more


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Where one slice lies, as DICOM has it, and which of several acquisitions it is of.

    Attributes:
        position_mm: Centre of its first voxel, (3,).
        cosines: Direction along a row, then along a column, (6,).
        spacing_mm: From row to row, then from column to column, (2,).
        size: Rows, columns.
        thickness_mm: Used where there is one slice alone.
        rounding_mm: Half a unit of the last digit that the header has of each coordinate, (3,).
        acquired: What may distinguish two slices of one position, such as `echo time`, by name.
    """

    position_mm: tuple[float, ...]
    cosines: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    size: tuple[int, int]
    thickness_mm: float
    rounding_mm: tuple[float, ...]
    acquired: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A stack's order and geometry, as SimpleITK has it.

    Attributes:
        order: Places of the slices as they were given, sorted by position along the normal.
        shape: Voxels along (Z, Y, X).
        origin_mm: Of the first slice in this order.
        spacing_mm: Along x, y, z.
        direction: Nine cosines; a right-handed rotation.
        positions_mm: Of each slice in this order, as its header has it, (Z, 3).
    """

    order: tuple[int, ...]
    shape: tuple[int, int, int]
    origin_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    direction: tuple[float, ...]
    positions_mm: tuple[tuple[float, ...], ...]

    @property
    def offsets(self) -> NDArray[np.float64]:
        """How far slices' own positions are from this grid, (Z, 3), in voxels (x, y, z)."""
        axes_mm = np.reshape(self.direction, (3, 3)) * self.spacing_mm
        apart_mm = np.asarray(self.positions_mm) - self.origin_mm
        offsets = np.asarray(np.linalg.solve(axes_mm, apart_mm.T).T, np.float64)
        offsets[:, 2] -= np.arange(len(offsets))
        return offsets

    def image(self, voxels: NDArray[Any]) -> sitk.Image:
        """The image of voxels, (Z, Y, X), that are in this grid's order."""
        image = sitk.GetImageFromArray(voxels)
        image.SetOrigin(self.origin_mm)
        image.SetSpacing(self.spacing_mm)
        image.SetDirection(self.direction)
        return image


def stack(slices: Sequence[Slice], *, location: str) -> Grid:
    """The grid on which slices lie, in whatever order they are given.

    A slice missing at either end leaves no trace and cannot be found; one missing between
    others can. Positions that are rounded are taken as evenly spaced from the first to the last,
    where the digits of the header explain how they deviate from that.

    Args:
        slices: At least one.
        location: How a message begins, e.g. `case 014: image 014`.

    Raises:
        ScanError: Slices differ in size or spacing, are tilted or shifted against each other,
            unevenly spaced, or two on one position.
    """
    cosines = np.asarray([each.cosines for each in slices])
    _check_alike(slices, cosines, location)
    row, column = (part / np.linalg.norm(part) for part in np.split(cosines[0], 2))
    normal = np.cross(row, column)
    positions_mm = np.asarray([each.position_mm for each in slices])
    depths_mm = positions_mm @ normal
    order = np.argsort(depths_mm, kind="stable")
    step_mm = slices[0].thickness_mm
    if len(slices) > 1:
        # A coordinate that needs no digit for one slice has none there: the longest tells.
        rounding_mm = np.min([each.rounding_mm for each in slices], axis=0)
        _check_steps(
            [slices[index] for index in order.tolist()],
            depths_mm[order],
            float(np.abs(normal) @ rounding_mm),
            location,
        )
        lateral_mm = (positions_mm - np.outer(depths_mm, normal))[order]
        _check_upright(lateral_mm, slices[0].spacing_mm, rounding_mm, location)
        step_mm = float(np.ptp(depths_mm)) / (len(slices) - 1)
    between_rows_mm, between_columns_mm = slices[0].spacing_mm
    return Grid(
        order=tuple(int(index) for index in order),
        shape=(len(slices), *slices[0].size),
        origin_mm=tuple(positions_mm[order[0]].tolist()),
        spacing_mm=(between_columns_mm, between_rows_mm, step_mm),
        direction=tuple(np.stack([row, column, normal], axis=1).ravel().tolist()),
        positions_mm=tuple(slices[index].position_mm for index in order.tolist()),
    )


def _check_alike(slices: Sequence[Slice], cosines: NDArray[np.float64], location: str) -> None:
    row, column = cosines[:, :3], cosines[:, 3:]
    lengths = np.linalg.norm([row, column], axis=-1)
    angles = np.einsum("ij,ij->i", row, column)
    if max(np.abs(lengths - 1).max(), np.abs(angles).max()) > _ROTATION_TOLERANCE:
        raise _refuse(location, ": the directions of a slice are no rotation; export it again")
    if np.abs(cosines - cosines[0]).max() > _SAME_COSINE:
        raise _refuse(
            location, ": its slices are tilted to each other; keep the slices of one stack"
        )
    if len(sizes := sorted({each.size for each in slices})) > 1:
        raise _refuse(
            location,
            f": its slices differ in size, {sizes[0]} to {sizes[-1]} voxels; keep the slices of"
            " one stack",
        )
    spacings_mm = np.asarray([each.spacing_mm for each in slices])
    if spacings_mm.min() <= 0:
        raise _refuse(location, ": a slice has a pixel spacing of 0 mm or less; export it again")
    if np.ptp(spacings_mm, axis=0).max() > _SAME_SPACING_MM:
        raise _refuse(
            location,
            f": its slices differ in pixel spacing, {spacings_mm.min():.4g} to"
            f" {spacings_mm.max():.4g} mm; keep the slices of one stack",
        )


def _check_steps(
    slices: Sequence[Slice], depths_mm: NDArray[np.float64], rounding_mm: float, location: str
) -> None:
    """Whether positions along the normal, sorted, are even steps, each off by the rounding."""
    steps_mm = np.diff(depths_mm)
    low, middle, high = steps_mm.min(), np.median(steps_mm), steps_mm.max()
    if low > _SAME_POSITION_MM and high - low <= _STEP_TOLERANCE * middle:
        return
    mean_mm = float(np.ptp(depths_mm)) / len(steps_mm)
    allowed_mm = rounding_mm + _STEP_TOLERANCE / 4 * mean_mm
    places = np.arange(len(slices))
    if _deviation_mm(depths_mm, places) <= allowed_mm and mean_mm > _SAME_POSITION_MM:
        gaps = (places + (places > last) for last in places[:-1])
        if all(_deviation_mm(depths_mm, gap) > allowed_mm for gap in gaps):
            return
        raise _refuse(
            location,
            f": its slices' positions are rounded to {2 * rounding_mm:.3g} mm, too coarse for"
            f" steps of {mean_mm:.3g} mm to tell whether one is missing; export it with more"
            " digits",
        )
    doubled = np.flatnonzero(steps_mm < _SAME_POSITION_MM)
    if doubled.size:
        pairs = [(slices[at].acquired, slices[at + 1].acquired) for at in doubled.tolist()]
        names = {name for a, b in pairs for name in {*a, *b} if a.get(name) != b.get(name)}
        why = f", of several {'s and '.join(sorted(names))}s" if names else ""
        raise _refuse(
            location,
            f": two slices lie on one position{why}; keep one acquisition in the folder",
        )
    raise _refuse(
        location,
        f": its slices are unevenly spaced, {low:.4g} to {high:.4g} mm; a slice is missing,"
        " or the series must be resampled first",
    )


def _deviation_mm(depths_mm: NDArray[np.float64], places: NDArray[np.intp]) -> float:
    """How far positions are at most from those that slices have at these places of a stack."""

    def off_mm(step_mm: float) -> float:  # convex
        return float(np.ptp(depths_mm - step_mm * places)) / 2

    low, high = 0.0, float(np.ptp(depths_mm))
    for _ in range(60):
        third = (high - low) / 3
        if off_mm(low + third) < off_mm(high - third):
            high -= third
        else:
            low += third
    return off_mm((low + high) / 2)


def _check_upright(
    lateral_mm: NDArray[Any],
    spacing_mm: tuple[float, ...],
    rounding_mm: NDArray[np.float64],
    location: str,
) -> None:
    """No image grid can hold a sheared stack, and ITK would read it as an upright one."""
    drift_mm = float(np.linalg.norm(lateral_mm - lateral_mm[0], axis=1).max())
    voxel_mm = min(spacing_mm)
    allowed_mm = _DRIFT_TOLERANCE * voxel_mm
    rounded_mm = 2 * float(np.linalg.norm(rounding_mm))
    if drift_mm <= allowed_mm + min(rounded_mm, _MOST_ROUNDED * voxel_mm):
        return
    if drift_mm <= allowed_mm + rounded_mm:
        raise _refuse(
            location,
            f": its slices' positions are rounded to {2 * rounding_mm.max():.3g} mm, too coarse for"
            f" voxels of {voxel_mm:.3g} mm to tell whether they are shifted sideways; export it"
            " with more digits",
        )
    raise _refuse(
        location,
        f": its slices are shifted sideways against each other by up to {drift_mm:.3g} mm"
        " (a tilted gantry); resample the series first",
    )


def _refuse(location: str, message: str) -> ScanError:
    return ScanError(location, message, rule="slices")
