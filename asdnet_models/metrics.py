"""Metrics of a segmentation against its reference: DSC, and ASD in mm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from surface_distance import compute_surface_distances


@dataclass(frozen=True, kw_only=True)
class OrganScore:
    """Scores of one organ in one case.

    Attributes:
        dsc: Dice similarity coefficient, in [0, 1].
        asd_mm: Average surface distance; None where either mask is empty.
        failure: Exactly one of the masks is empty: the organ was missed, or made up.
    """

    dsc: float
    asd_mm: float | None
    failure: bool


def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Dice similarity coefficient, 2|A.B| / (|A| + |B|).

    Args:
        prediction: Mask of any shape.
        reference: Mask of the same shape.

    Returns:
        In [0, 1]; 1 where both masks are empty, 0 where one is.

    Raises:
        ValueError: If shapes differ or a mask is not boolean.
    """
    _check_masks(prediction, reference)
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    if total == 0:
        return 1.0
    return 2 * int(np.count_nonzero(prediction & reference)) / total


def average_surface_distance_mm(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> float | None:
    """Symmetric average surface distance, weighted by surface area.

    The distances from each surface to the other are pooled,
    (sum d_A a_A + sum d_B a_B) / (sum a_A + sum a_B), with a the area of a surface element:
    sampling is denser along the finer axes, so a plain mean would favour them.

    Args:
        prediction: Mask, three axes.
        reference: Mask of the same shape.
        spacing_mm: Voxel edge of each axis, in the order of the masks' axes.

    Returns:
        Distance in mm, at least 0; None where either mask is empty.

    Raises:
        ValueError: If shapes differ, a mask is not boolean, or a spacing is not positive.

    Source: google-deepmind/surface-distance (Nikolov et al., arXiv:1809.04430), whose two
        directed means are pooled here.
    """
    _check_masks(prediction, reference)
    if prediction.ndim != 3 or len(spacing_mm) != 3:
        raise ValueError(
            f"surface distance: needs 3-D masks and 3 spacings, not {prediction.ndim}-D and"
            f" {len(spacing_mm)}"
        )
    if not all(0 < edge < np.inf for edge in spacing_mm):
        raise ValueError(f"surface distance: spacing {spacing_mm} mm is not positive and finite")
    if not prediction.any() or not reference.any():
        return None
    box = _bounding_box(prediction | reference)
    surfaces = compute_surface_distances(reference[box], prediction[box], spacing_mm)
    areas = np.concatenate([surfaces["surfel_areas_gt"], surfaces["surfel_areas_pred"]])
    distances_mm = np.concatenate(
        [surfaces["distances_gt_to_pred"], surfaces["distances_pred_to_gt"]]
    )
    return float(np.sum(distances_mm * areas) / np.sum(areas))


def score_label_maps(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    organs: Mapping[str, int],
) -> dict[str, OrganScore]:
    """Scores of every organ of one case, whole volume.

    Args:
        prediction: Label map, three axes.
        reference: Label map of the same shape.
        spacing_mm: Voxel edge of each axis, in the order of the arrays' axes: for an array
            (z, y, x) that SimpleITK gave, `image.GetSpacing()[::-1]`.
        organs: Value of each organ, not 0; other values count as background.

    Raises:
        ValueError: If shapes differ.
    """
    _check_shapes(prediction, reference)
    # Once for all organs: away from their box every mask is empty, and no score looks there.
    box = _bounding_box((prediction != 0) | (reference != 0))
    prediction, reference = prediction[box], reference[box]
    scores = {}
    for organ, value in organs.items():
        predicted, true = prediction == value, reference == value
        scores[organ] = OrganScore(
            dsc=dice(predicted, true),
            asd_mm=average_surface_distance_mm(predicted, true, spacing_mm),
            failure=bool(predicted.any() != true.any()),
        )
    return scores


def _check_masks(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> None:
    _check_shapes(prediction, reference)
    if prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(
            f"masks: must be boolean, not {prediction.dtype} and {reference.dtype};"
            " compare a label map with one organ's value first"
        )


def _check_shapes(prediction: NDArray[Any], reference: NDArray[Any]) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape}, reference {reference.shape};"
            " resample the prediction to the reference's grid"
        )


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box of a mask with a margin of one voxel, clipped to the array; empty for an empty mask.

    Surfaces lie within the margin and the nearest surface always within the union's box, so
    cropping changes no distance.
    """
    box: list[slice] = []
    # Each axis is looked at in what the axes before it have left: the first cut saves the most.
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not len(inside):
            return (slice(0, 0),) * mask.ndim
        box.append(slice(max(int(inside[0]) - 1, 0), int(inside[-1]) + 2))
    return tuple(box)
