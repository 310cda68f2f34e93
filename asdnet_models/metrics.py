"""Metrics of a segmentation against its reference: DSC; ASD, HD95 in mm, and surface Dice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from surface_distance import (
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

from asdnet_models.bounding_box import bounding_box
from asdnet_models.sums import FailureKind

# Voxels around masks: surfaces lie within them, and the nearest one always within the box of both,
# so that what is left out changes no distance.
_MARGIN = 1

# Share of a scan's longest edge: an average surface distance over it is no segmentation.
FAR_OFF = 0.1


@dataclass(frozen=True, kw_only=True)
class OrganScore:
    """Scores of one organ in one case.

    Attributes:
        dsc: Dice similarity coefficient, in [0, 1].
        asd_mm: Average surface distance; None where either mask is empty.
        hd95_mm: The 95th percentile of the surface distances, likewise.
        nsd: Normalised surface Dice at the study's tolerance, in [0, 1].
        failure: How the case failed; None where it did not (`failure_kind`).
    """

    dsc: float
    asd_mm: float | None
    hd95_mm: float | None
    nsd: float
    failure: FailureKind | None


@dataclass(frozen=True, kw_only=True)
class SurfaceScores:
    """What two surfaces are to each other."""

    asd_mm: float
    hd95_mm: float
    nsd: float


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


def surface_scores(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    *,
    tolerance_mm: float,
) -> SurfaceScores | None:
    """Distances between two surfaces, every surface element weighted by its area.

    Sampling is denser along the finer axes, so that plain means and percentiles would favour them.

    - ASD: the distances from each surface to the other, pooled,
      (sum d_A a_A + sum d_B a_B) / (sum a_A + sum a_B), with a the area of an element.
    - HD95: the larger of the two directions' 95th percentiles by area.
    - NSD: the share of both surfaces' area that lies within the tolerance of the other surface.

    Args:
        prediction: Mask, three axes.
        reference: Mask of the same shape.
        spacing_mm: Voxel edge of each axis, in the order of the masks' axes.
        tolerance_mm: Up to which a surface counts as met, at least 0.

    Returns:
        Distances in mm, at least 0; None where either mask is empty.

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
    box = bounding_box(prediction | reference, _MARGIN)
    surfaces = compute_surface_distances(reference[box], prediction[box], spacing_mm)
    areas = np.concatenate([surfaces["surfel_areas_gt"], surfaces["surfel_areas_pred"]])
    distances_mm = np.concatenate(
        [surfaces["distances_gt_to_pred"], surfaces["distances_pred_to_gt"]]
    )
    return SurfaceScores(
        asd_mm=float(np.sum(distances_mm * areas) / np.sum(areas)),
        hd95_mm=float(compute_robust_hausdorff(surfaces, 95)),
        nsd=float(compute_surface_dice_at_tolerance(surfaces, tolerance_mm)),
    )


def score_label_maps(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    organs: Mapping[str, int],
    *,
    tolerance_mm: float,
) -> dict[str, OrganScore]:
    """Scores of every organ of one case, whole volume.

    Args:
        prediction: Label map, three axes.
        reference: Label map of the same shape.
        spacing_mm: Voxel edge of each axis, in the order of the arrays' axes: for an array
            (z, y, x) that SimpleITK gave, `image.GetSpacing()[::-1]`.
        organs: Value of each organ, not 0; other values count as background.
        tolerance_mm: Of the surface Dice.

    Raises:
        ValueError: If shapes differ.
    """
    _check_shapes(prediction, reference)
    extent_mm = max(
        (n * edge for n, edge in zip(reference.shape, spacing_mm, strict=False)), default=0.0
    )
    # Once for all organs: away from their box every mask is empty, and no score looks there.
    box = bounding_box((prediction != 0) | (reference != 0), _MARGIN)
    prediction, reference = prediction[box], reference[box]
    return {
        organ: _organ_score(
            prediction == value, reference == value, spacing_mm, tolerance_mm, extent_mm
        )
        for organ, value in organs.items()
    }


def _organ_score(
    predicted: NDArray[np.bool_],
    true: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
    extent_mm: float,
) -> OrganScore:
    dsc = dice(predicted, true)
    surfaces = surface_scores(predicted, true, spacing_mm, tolerance_mm=tolerance_mm)
    if surfaces is None:
        # Two empty masks agree wholly, as for the DSC; one alone is a failure.
        return OrganScore(
            dsc=dsc,
            asd_mm=None,
            hd95_mm=None,
            nsd=dsc,
            failure=None if dsc else "missed" if true.any() else "made_up",
        )
    far = dsc == 0 or surfaces.asd_mm > FAR_OFF * extent_mm
    return OrganScore(dsc=dsc, **vars(surfaces), failure="far_off" if far else None)


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
