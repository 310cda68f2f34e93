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
from client.data.files.geometry import upright_view
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
    image, spacing_mm_xyz = upright_view(scan)
    label, _ = upright_view(prediction.label)
    whole = three_planes(
        image, spacing_mm_xyz, [Contours(label_zyx=label)], organs, height_px=_WHOLE_PX, title=title
    )
    if not label.any():
        return whole
    confidence, _ = upright_view(prediction.confidence)
    near = _near(label, spacing_mm_xyz)
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
    box = _box(near_zyx, (0, 0, 0))
    near = near_zyx[box]
    # One volume, written over step by step: outside the box there is nothing to be unsure of.
    uncertainty = np.zeros(near.shape, np.float32)
    np.subtract(1, confidence_zyx[box], out=uncertainty, where=near)
    size = [max(1, round(2 * _NEAR_MM / mm)) | 1 for mm in reversed(spacing_mm_xyz)]
    ndimage.uniform_filter(uncertainty, size, output=uncertainty, mode="constant")
    np.copyto(uncertainty, -1, where=~near)
    best = np.unravel_index(uncertainty.argmax(), near.shape)
    z, y, x = (part.start + int(index) for part, index in zip(box, best, strict=True))
    return z, y, x


def _near(label_zyx: NDArray[np.uint8], spacing_mm_xyz: Sequence[float]) -> NDArray[np.bool_]:
    """The organs and some mm around them."""
    margins = [round(_NEAR_MM / mm) for mm in reversed(spacing_mm_xyz)]
    box = _box(label_zyx, margins)
    near = np.zeros(label_zyx.shape, np.bool_)
    size = [2 * margin + 1 for margin in margins]
    ndimage.maximum_filter(label_zyx[box] > 0, size, output=near[box])
    return near


def _box(drawn_zyx: NDArray[Any], margins: Sequence[int]) -> tuple[slice, ...]:
    """The part that holds all that is drawn, and so many voxels around it; all where none is."""
    box = []
    for axis, margin in enumerate(margins):
        others = tuple(other for other in range(3) if other != axis)
        holding = np.flatnonzero(drawn_zyx.any(axis=others))
        first, last = (holding[0], holding[-1]) if holding.size else (0, drawn_zyx.shape[axis] - 1)
        box.append(slice(max(0, int(first) - margin), int(last) + 1 + margin))
    return tuple(box)
