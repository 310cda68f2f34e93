"""The values of a scan's voxels: as 32-bit floats that tell apart what the file does."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError
from client.data.files.geometry import FORM_CODES
from client.data.notes import Note

# Types of voxels that 32-bit floats do not hold as they are.
_WIDE = (sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat64)
_LEAST_LEVELS = 64  # from a scan's smallest value to its largest
_OF_A_LABEL_MAP = 8  # whole numbers; a scan of so few shows nothing


def as_floats(stored: sitk.Image, *, location: str) -> sitk.Image:
    """A scan as 32-bit floats.

    Raises:
        ScanError: They do not hold its values, or hardly tell them apart.
    """
    if stored.GetPixelID() in _WIDE:
        _check_kept(stored, location)
    image = sitk.Cast(stored, sitk.sitkFloat32)
    for key in FORM_CODES:
        if stored.HasMetaDataKey(key):  # a cast drops them
            image.SetMetaData(key, stored.GetMetaData(key))
    return image


def finite_voxels(image: sitk.Image, *, location: str) -> NDArray[Any]:
    """A view of the voxels of an image that outlives it, (Z, Y, X).

    Raises:
        ScanError: One is NaN or infinite.
    """
    voxels: NDArray[Any] = sitk.GetArrayViewFromImage(image)
    undefined = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if undefined:
        raise ScanError(
            location,
            f"is NaN or infinite in {undefined} voxel(s); give them a value first",
            rule="undefined",
        )
    return voxels


def note_few_values(voxels_zyx: NDArray[Any], note: Note) -> None:
    """Tell where a scan holds a few whole numbers and nothing else, as a label map does."""
    found: set[float] = set()
    for plane in voxels_zyx:  # the first of a scan is enough
        found.update(np.unique(plane).tolist())
        if len(found) > _OF_A_LABEL_MAP:
            return
    if all(value == round(value) for value in found):
        note(f"its scan holds {len(found)} values alone; look whether it is a label map")


def _check_kept(stored: sitk.Image, location: str) -> None:
    voxels = sitk.GetArrayViewFromImage(stored)
    low, high = float(voxels.min()), float(voxels.max())
    if low == high or not np.isfinite([low, high]).all():
        return  # refused in words of its own
    largest = max(abs(low), abs(high))
    step = np.inf
    if largest < float(np.finfo(np.float32).max):
        step = float(np.spacing(np.float32(largest)))
    if step > high / _LEAST_LEVELS - low / _LEAST_LEVELS:
        raise ScanError(
            location,
            f"holds values of {low:.15g} to {high:.15g}, which 32-bit floats do not tell apart;"
            " scale them, or subtract what they share, first",
            rule="undefined",
        )
