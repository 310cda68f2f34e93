"""Scans and atlases on the study's grid as the baselines take them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.cache import CachedCase


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A normalised scan on the study's grid, with its geometry; 32-bit floats."""

    name: str
    image: sitk.Image

    @property
    def lowest(self) -> float:
        """What continues the air around the scan."""
        return float(sitk.GetArrayViewFromImage(self.image).min())


@dataclass(frozen=True, kw_only=True)
class Atlas(Volume):
    """A scan with its map of class numbers on the same grid; 8-bit integers."""

    label: sitk.Image


def volume_of(case: CachedCase) -> Volume:
    """A preprocessed case, whatever labels it has left aside."""
    return Volume(name=case.name, image=from_xyz(case.image, case.grid()))


def atlas_of(case: CachedCase) -> Atlas:
    """A preprocessed case with its label map."""
    assert case.label is not None
    grid = case.grid()
    return Atlas(name=case.name, image=from_xyz(case.image, grid), label=from_xyz(case.label, grid))


def from_xyz(array: NDArray[Any], like: sitk.Image) -> sitk.Image:
    """An array (X, Y, Z) as an image of this geometry."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.CopyInformation(like)
    return image


def to_xyz(image: sitk.Image) -> NDArray[Any]:
    """An image's voxels as an array of its own, (X, Y, Z)."""
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0))
