"""Fuses the labels of registered atlases into class probabilities."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

_LEAST_DIFFERENCE = 1e-3


def majority_vote(votes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of the atlases whose largest vote a class is.

    Args:
        votes: (A, C, X, Y, Z) of A atlases.

    Returns:
        (C, X, Y, Z), sums to 1.
    """
    chosen = votes.argmax(axis=1)
    shares = [(chosen == value).mean(axis=0) for value in range(votes.shape[1])]
    return np.stack(shares).astype(np.float32)


def staple(votes: NDArray[np.float32]) -> NDArray[np.float32]:
    """STAPLE of each organ by itself: every atlas weighs by its estimated accuracy.

    Background is what the organs leave, 0 at least.

    Args:
        votes: (A, C, X, Y, Z) of A atlases; two or more, for one has no other to be judged by.

    Source: Warfield, Zou, Wells, IEEE TMI 2004; SimpleITK's filter.
    """
    chosen = votes.argmax(axis=1)
    organs = [_staple_one([mask == value for mask in chosen]) for value in range(1, votes.shape[1])]
    background = np.clip(1 - np.sum(organs, axis=0), 0, 1)
    return np.stack([background, *organs]).astype(np.float32)


def locally_weighted_vote(
    target: NDArray[np.float32],
    images: NDArray[np.float32],
    votes: NDArray[np.float32],
    *,
    radius: int,
    power: float,
) -> NDArray[np.float32]:
    r"""Sum of w_a(v) vote_a(v), w_a(v) = MSD_a(v)^-power, scaled to sum to 1.

    MSD_a(v) is the mean squared difference of target and atlas in the cube around v.

    Args:
        target: The scan, (X, Y, Z), normalised.
        images: Registered atlases, (A, X, Y, Z), normalised.
        votes: Their classes, (A, C, X, Y, Z).
        radius: Of the cube, voxels.
        power: 0 is the unweighted vote.

    Returns:
        (C, X, Y, Z), sums to 1 where votes do.

    Source: Artaechevarria, Munoz-Barrutia, Ortiz-de-Solorzano, IEEE TMI 2009.
    """
    differences = np.stack(
        [uniform_filter((image - target) ** 2, size=2 * radius + 1) for image in images]
    )
    weights = np.maximum(differences, _LEAST_DIFFERENCE) ** -power
    weights /= weights.sum(axis=0)
    fused: NDArray[np.float32] = np.einsum("axyz,acxyz->cxyz", weights, votes).astype(np.float32)
    return fused


def _staple_one(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    total = np.sum(masks, axis=0)
    if not total.any() or total.min() == len(masks):
        unanimous: NDArray[np.float64] = (total > 0).astype(np.float64)
        return unanimous
    probability = sitk.STAPLE([sitk.GetImageFromArray(m.astype(np.uint8)) for m in masks], 1.0)
    probabilities: NDArray[np.float64] = np.nan_to_num(sitk.GetArrayFromImage(probability))
    return probabilities
