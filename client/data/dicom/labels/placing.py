"""Where a label lies that was drawn on slices whose header rounds their positions.

Such a series is read as an even stack, so that its slices lie beside their own positions by up to
half a digit. A label's file is placed by the one or by the other, and by the same throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.dicom.series import DicomSeries, series_grid

_OFF_VOXEL = 0.05  # of a voxel, at a frame's corners
_ON_GRID = 0.02  # of a slice, that contours are off by their own rounding
_OWN_OFF_SLICE = 0.5  # where positions deviate so far, a slice's own is no longer the nearest
_OWN_OFF_VOXEL = 0.9  # sideways
Vector = NDArray[np.float64]


def own_offsets(image: sitk.Image, series: DicomSeries | None, *, location: str) -> Vector:
    """How far each slice's own position is from its place in the image, (slices, 3).

    Args:
        image: The series as it is read, or another image.
        series: None: a slice has no position of its own.
        location: How a message begins.

    Returns:
        In voxels (x, y, z); 0 where positions would not tell slices apart, or the image is not on
        the series' grid.

    Raises:
        ScanError: The series cannot be read.
    """
    none = np.zeros((image.GetDepth(), 3))
    if series is None:
        return none
    grid = series_grid(series, location=location)
    same = grid.shape == image.GetSize()[::-1] and all(
        np.allclose(one, other, rtol=0, atol=1e-3)
        for one, other in (
            (grid.origin_mm, image.GetOrigin()),
            (grid.spacing_mm, image.GetSpacing()),
            (grid.direction, image.GetDirection()),
        )
    )
    limit = (_OWN_OFF_VOXEL, _OWN_OFF_VOXEL, _OWN_OFF_SLICE)
    return grid.offsets if same and (np.abs(grid.offsets) < limit).all() else none


@dataclass
class FramePlaces:
    """Places frames of one file on the image, all on its grid or all at slices' own positions.

    Attributes:
        image: The scan.
        series: Where it is from; None: there is the grid alone.
        location: How a message begins.
    """

    image: sitk.Image
    series: DicomSeries | None
    location: str
    _offsets: Vector | None = None  # None as long as all frames are on the grid
    _seen: list[tuple[Vector, Vector, tuple[int, ...]]] = field(default_factory=list)

    def first_voxel(
        self, first: Vector, along: Vector, shape: tuple[int, ...]
    ) -> NDArray[np.intp] | None:
        """Index (x, y, z) of a frame's first voxel; None where it does not fit with the others.

        Args:
            first: The same as a continuous index.
            along: Steps in the image from row to row and from column to column, (3, 2).
            shape: Rows, columns.
        """
        self._seen.append((first, along, shape))
        if self._offsets is None:
            if _fits(first, along, shape):
                return np.rint(first).astype(np.intp)
            self._offsets = own_offsets(self.image, self.series, location=self.location)
            if not all(self._fits_own(*frame) for frame in self._seen):
                return None
        if not self._fits_own(first, along, shape):
            return None
        return np.rint(self._moved(first)).astype(np.intp)

    def _fits_own(self, first: Vector, along: Vector, shape: tuple[int, ...]) -> bool:
        parallel = not np.rint(along[2]).any()
        return parallel and _fits(self._moved(first), along, shape)

    def _moved(self, first: Vector) -> Vector:
        assert self._offsets is not None
        moved: Vector = first - self._offsets[nearest(float(first[2]), self._offsets)]
        return moved


def contour_offsets(
    points: Vector, image: sitk.Image, series: DicomSeries | None, *, location: str
) -> Vector:
    """What is to be taken from the points of a file's contours, by slice: (slices, 3).

    Args:
        points: One of each contour, as continuous indices (x, y, z), (N, 3).
        image: The scan.
        series: Where it is from, as for `own_offsets`.
        location: How a message begins.

    Returns:
        The offsets of slices' own positions where the contours are nearer to these than to the
        grid; otherwise 0.
    """
    none = np.zeros((image.GetDepth(), 3))
    z = points[:, 2]
    off_grid = np.abs(z - np.rint(z)).max(initial=0)
    if series is None or not off_grid > _ON_GRID:
        return none
    offsets = own_offsets(image, series, location=location)
    own = np.array([offsets[nearest(float(each), offsets)][2] for each in z])
    return offsets if np.abs(z - own - np.rint(z - own)).max() < off_grid else none


def nearest(z: float, offsets: Vector) -> int:
    """The slice whose position, with its offset, is nearest."""
    return int(np.abs(np.arange(len(offsets)) + offsets[:, 2] - z).argmin())


def _fits(first: Vector, along: Vector, shape: tuple[int, ...]) -> bool:
    """Whether a frame's voxels are the image's."""
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (np.array(shape) - 1)
    exact, whole = first + corners @ along.T, np.rint(first) + corners @ np.rint(along).T
    return bool(np.abs(exact - whole).max() <= _OFF_VOXEL)
