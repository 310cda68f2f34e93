"""Whether an image's geometry can be used: index to world and back again.

ITK computes the inverse of every direction matrix and does not say when it fails: cosines near
1e-303 give NaN, and an image resampled through those comes back empty.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import SimpleITK as sitk

_NO_COSINE = 1e-12  # moves a point 1 m away by 1e-9 mm
# A nanometre to a metre; outside, squares of lengths and sizes in voxels overflow.
_SPACING_MM = (1e-6, 1e3)
_ROUND_TRIP_VOXELS = 1e-3


class GeometryError(ValueError):
    """Spacing, origin or direction of an image that cannot be used; with rule and value."""


def usable_geometry(image: sitk.Image, size_xyz: Sequence[int] = ()) -> sitk.Image:
    """The image, direction cosines under 1e-12 set to zero; itself where there are none.

    Args:
        image: Its voxels are not looked at.
        size_xyz: Where the image is one voxel that stands for a header: the header's size.

    Raises:
        GeometryError: A value is NaN or infinite, the spacing is not between 1e-6 and 1e3 mm, or
            index to world and back misses a corner by more than 1e-3 voxels.
    """
    spacing_mm, origin_mm = image.GetSpacing(), image.GetOrigin()
    cosines = np.array(image.GetDirection())
    if not np.all(np.isfinite([*spacing_mm, *origin_mm, *cosines])):
        raise GeometryError("NaN or infinite spacing, origin or direction")
    low, high = _SPACING_MM
    if not all(low <= mm <= high for mm in spacing_mm):
        raise GeometryError(
            f"spacing {format_numbers(spacing_mm)} mm is not between {low:g} and {high:g} mm"
        )
    tiny = (cosines != 0) & (np.abs(cosines) < _NO_COSINE)  # -0.0 stays as it is
    if tiny.any():
        image = sitk.Image(image)
        try:
            image.SetDirection(np.where(tiny, 0.0, cosines).tolist())
        except RuntimeError as error:
            raise GeometryError(f"direction {format_numbers(cosines)} is singular") from error
    missed = _round_trip_error(image, size_xyz or image.GetSize())
    if not missed <= _ROUND_TRIP_VOXELS:  # NaN too
        raise GeometryError(
            f"index to world and back misses by {missed:.3g} voxels: spacing"
            f" {format_numbers(spacing_mm)} mm, origin {format_numbers(origin_mm)} mm, direction"
            f" {format_numbers(cosines)}"
        )
    return image


def _round_trip_error(image: sitk.Image, size_xyz: Sequence[int]) -> float:
    """The largest error of index to world to index at the corners of this size, in voxels."""
    errors = [
        np.subtract(
            image.TransformPhysicalPointToContinuousIndex(
                image.TransformContinuousIndexToPhysicalPoint(corner)
            ),
            corner,
        )
        for corner in itertools.product(*((0.0, float(size)) for size in size_xyz))
    ]
    return float(np.abs(errors).max())


def format_numbers(values: Iterable[float]) -> str:
    """Numbers of a header, for a message."""
    return f"({', '.join(f'{value:.6g}' for value in values)})"
