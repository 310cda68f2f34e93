"""One picture of a prediction: the whole scan, and below it the least confident place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from asdnet_models.inference.predictor import Segmentation
from client.segmenting.prediction import LOW_CONFIDENCE
from reporting.figure_layout import stacked
from reporting.overlay import Contours, UncertaintyOverlay, Voxel, three_planes

_NEAR_MM = 3.0
_MARGIN_MM = 25.0
_WHOLE_PX, _CLOSE_PX = 280, 360


def draw_overview(
    scan: sitk.Image, prediction: Segmentation, organs: Mapping[str, int], title: str
) -> Image.Image:
    """Contours on the whole scan, then close up with uncertainty through the least confident place.

    Args:
        scan: As acquired.
        prediction: The model's, on the scan's grid.
        organs: Value of each organ.
        title: The only text of the case in the picture.
    """
    image, spacing_mm_xyz = _oriented(scan)
    label, _ = _oriented(prediction.label)
    whole = three_planes(
        image, spacing_mm_xyz, [Contours(label_zyx=label)], organs, height_px=_WHOLE_PX, title=title
    )
    if not label.any():
        return whole
    confidence, _ = _oriented(prediction.confidence)
    near = _near(label > 0, spacing_mm_xyz)
    close = three_planes(
        image,
        spacing_mm_xyz,
        [Contours(label_zyx=label)],
        organs,
        height_px=_CLOSE_PX,
        title="Where to look first: through the least confident place",
        uncertainty=UncertaintyOverlay(
            confidence_zyx=confidence, near_zyx=near, below=LOW_CONFIDENCE
        ),
        centre_zyx=least_confident_place(confidence, near, spacing_mm_xyz),
        margin_mm=_MARGIN_MM,
    )
    return stacked([whole, close])


def least_confident_place(
    confidence_zyx: NDArray[np.floating],
    near_zyx: NDArray[np.bool_],
    spacing_mm_xyz: Sequence[float],
) -> Voxel:
    """The middle of the least sure neighbourhood of some mm, in or near the organs.

    A neighbourhood, because single voxels are unsure along every boundary.
    """
    uncertainty = np.where(near_zyx, 1 - confidence_zyx, 0).astype(np.float32)
    size = [max(1, round(2 * _NEAR_MM / mm)) | 1 for mm in reversed(spacing_mm_xyz)]
    smooth = ndimage.uniform_filter(uncertainty, size, mode="constant")
    best = np.where(near_zyx, smooth, -1).argmax()
    z, y, x = (int(index) for index in np.unravel_index(best, near_zyx.shape))
    return z, y, x


def _oriented(image: sitk.Image) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Voxels with their axes turned to LPS, (Z, Y, X), and the spacing (x, y, z) in mm."""
    turned = sitk.DICOMOrient(image, "LPS")
    return sitk.GetArrayFromImage(turned), turned.GetSpacing()


def _near(organs_zyx: NDArray[np.bool_], spacing_mm_xyz: Sequence[float]) -> NDArray[np.bool_]:
    """The organs and some mm around them."""
    size = [2 * round(_NEAR_MM / mm) + 1 for mm in reversed(spacing_mm_xyz)]
    near: NDArray[np.bool_] = ndimage.maximum_filter(organs_zyx, size)
    return near
