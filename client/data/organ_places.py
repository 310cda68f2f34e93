"""A label map on the study's grid: channel numbers, places of each organ, the box around all."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.preprocessing import preprocess_label
from client.data.grid_size import PLACES_PER_ORGAN
from protocol.config.study import StudyProtocol


def study_box(label: sitk.Image, protocol: StudyProtocol) -> tuple[float, ...] | None:
    """Box around all organs on the study's grid, fractions of the scan, (x0, y0, z0, x1, y1, z1).

    Args:
        label: As read, in the study's values.
        protocol: The study.
    """
    box = organ_box(study_classes(label, protocol))
    return tuple(box) if box else None


def study_classes(label: sitk.Image, protocol: StudyProtocol) -> NDArray[np.uint8]:
    """A label map as read to channel numbers 0, 1, 2, ..., (X, Y, Z) on the study's grid."""
    table = np.zeros(256, np.uint8)
    for channel, organ in enumerate(protocol.organ_names, start=1):
        table[protocol.organs[organ]] = channel
    classes: NDArray[np.uint8] = table[array_xyz(preprocess_label(label, protocol.spacing_mm))]
    return classes


def array_xyz(image: sitk.Image) -> NDArray[Any]:
    """An image's voxels, (X, Y, Z)."""
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0))


def organ_places(label_xyz: NDArray[np.uint8], classes: int) -> dict[str, NDArray[np.int32]]:
    """For each class present, (n, 3) voxels of it, evenly sampled."""
    places = {}
    for value in range(1, classes):
        voxels = np.argwhere(label_xyz == value).astype(np.int32)
        if len(voxels):
            count = min(len(voxels), PLACES_PER_ORGAN)
            places[str(value)] = voxels[np.linspace(0, len(voxels) - 1, count).astype(int)]
    return places


def organ_box(label_xyz: NDArray[np.uint8]) -> list[float] | None:
    """Box around all organs, fractions of the scan; None where there is none."""
    voxels = np.argwhere(label_xyz > 0)
    if not len(voxels):
        return None
    low = voxels.min(0) / label_xyz.shape
    high = (voxels.max(0) + 1) / label_xyz.shape
    return [*low.tolist(), *high.tolist()]
