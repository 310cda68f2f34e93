"""A conditional random field that cleans a segmentation by the image under it.

Mean-field inference of Krähenbühl & Koltun (NeurIPS 2011) with the pairs of a small window alone,
as in the ConvCRF of Teichmann & Cipolla (BMVC 2019; arXiv:1805.04777, 2018).
"""

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

_WINDOW_VOXELS = 5
_ITERATIONS = 5
# Our choice: a whole neighbourhood that agrees is worth 3 logits, two of them by the image.
_SMOOTHNESS_WEIGHT, _SMOOTHNESS_MM = 1.0, 1.5
_APPEARANCE_WEIGHT, _APPEARANCE_MM, _APPEARANCE_SD = 2.0, 3.0, 0.5
_TINY = 1e-12

Slices = tuple[slice, ...]


@torch.no_grad()
def refine(probabilities: Tensor, image: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Mean field: each voxel hears what its neighbours believe, those of like intensity louder.

    Q <- softmax(log P + w_1 sum_j k_1 Q_j / sum_j k_1 + w_2 sum_j k_2 Q_j / sum_j k_2), where
    k_1 = exp(-d^2 / 2 (1.5 mm)^2) smooths and k_2 = exp(-d^2 / 2 (3 mm)^2 - dI^2 / 2 0.5^2) follows
    the image, d in mm.  Compatibility is Potts.  Kernels are divided by their sums, so that the
    weights mean the same at every spacing and at the rim of the scan.  A kernel is made anew for
    each pair of offsets: stored whole it would be 125 times the scan.

    Args:
        probabilities: Softmax of S, (C, X, Y, Z), in [0, 1].
        image: Z-scored intensities, (X, Y, Z).
        spacing_mm: Of the grid, (X, Y, Z).

    Returns:
        Refined probabilities, (C, X, Y, Z), classes summing to 1.

    Raises:
        ValueError: If the image is not on the probabilities' grid.
    """
    if image.shape != probabilities.shape[1:]:
        raise ValueError(
            f"image is {tuple(image.shape)}, must be {tuple(probabilities.shape[1:])} as the maps"
        )
    unary = probabilities.float().clamp_min(1e-6).log()
    beliefs = probabilities.float()
    for _ in range(_ITERATIONS):
        beliefs = torch.softmax(unary + _messages(beliefs, image.float(), spacing_mm), dim=0)
    return beliefs


def _messages(beliefs: Tensor, image: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """The two weighted means of the neighbours' beliefs, added up; (C, X, Y, Z)."""
    # The channel of ones adds up the kernels themselves.
    counted = torch.cat((beliefs, torch.ones_like(beliefs[:1])))
    smooth, alike = torch.zeros_like(counted), torch.zeros_like(counted)
    for offset, here, there in _pairs(image.shape):
        distance2 = sum((n * s) ** 2 for n, s in zip(offset, spacing_mm, strict=True))
        near = math.exp(-distance2 / (2 * _SMOOTHNESS_MM**2))
        contrast2 = (image[here] - image[there]).square() / (2 * _APPEARANCE_SD**2)
        likeness = torch.exp(-contrast2 - distance2 / (2 * _APPEARANCE_MM**2))
        for to, source in ((here, there), (there, here)):
            smooth[:, *to].add_(counted[:, *source], alpha=near)
            alike[:, *to].addcmul_(counted[:, *source], likeness)
    return _SMOOTHNESS_WEIGHT * _mean(smooth) + _APPEARANCE_WEIGHT * _mean(alike)


def _mean(sums: Tensor) -> Tensor:
    """Weighted sums by the sum of the weights, which is the last channel; 0 of nothing."""
    return sums[:-1] / sums[-1:].clamp_min(_TINY)


def _pairs(shape: torch.Size) -> Iterator[tuple[tuple[int, ...], Slices, Slices]]:
    """Half the window's offsets (the other half is their mirror) and the two ends of each."""
    reach = _WINDOW_VOXELS // 2
    offsets = list(product(range(-reach, reach + 1), repeat=len(shape)))
    for offset in offsets[len(offsets) // 2 + 1 :]:
        if all(abs(n) < size for n, size in zip(offset, shape, strict=True)):
            moved = list(zip(offset, shape, strict=True))
            here = tuple(slice(max(0, -n), size - max(0, n)) for n, size in moved)
            there = tuple(slice(max(0, n), size - max(0, -n)) for n, size in moved)
            yield offset, here, there
