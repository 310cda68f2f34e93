"""Intensities of strong views: another scanner, coil, contrast or noise.

Source: nnU-Net's trainer (Isensee et al., Nature Methods 2021), and before its changes the shading
of a surface coil: the exponential of a polynomial of third order (Sudre et al., Medical Image
Analysis 2017; RandomBiasField of TorchIO).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import interpolate, pad

_SHADED = 0.5  # probability of a shading
_SHADING = 0.5  # the largest coefficient of its polynomial
_ORDER = 3  # of it


def intensities_changed(image: Tensor, fine: Sequence[int], rng: np.random.Generator) -> Tensor:
    """(X, Y, Z), shaded, and as nnU-Net changes it, in its order; each with its probability."""
    if rng.random() < _SHADED:
        image = shaded(image, rng.uniform(-_SHADING, _SHADING, (_ORDER + 1,) * 3))
    if rng.random() < 0.1:
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), np.float32))
        image = image + rng.uniform(0, 0.1) * noise
    if rng.random() < 0.2:
        image = blurred(image, rng.uniform(0.5, 1.0), fine)
    if rng.random() < 0.15:
        image = image * either_side(rng, 0.75, 1.25)
    if rng.random() < 0.15:
        image = contrasted(image, either_side(rng, 0.75, 1.25))
    if rng.random() < 0.25:
        image = coarsened(image, rng.uniform(0.5, 1.0), fine)
    if rng.random() < 0.1:
        image = -gamma_changed(-image, either_side(rng, 0.7, 1.5))
    if rng.random() < 0.3:
        image = gamma_changed(image, either_side(rng, 0.7, 1.5))
    return image


def shaded(image: Tensor, coefficients: NDArray[np.float64]) -> Tensor:
    """Brighter near a coil and darker far from it; at the mean and SD that there were.

    Args:
        image: (X, Y, Z), least in air.
        coefficients: (4, 4, 4), by the powers of x, y and z, which are -1 to 1 over the patch;
            those over third order are left out.  The polynomial is the gain's logarithm.
    """
    order = np.indices(coefficients.shape).sum(axis=0)
    field = torch.from_numpy(np.where(order <= _ORDER, coefficients, 0.0)).float()
    powers = torch.arange(_ORDER + 1)[:, None]
    for edge in image.shape:
        # The first axis is summed over, and the scan's comes last: after three, x, y, z.
        field = torch.tensordot(field, torch.linspace(-1, 1, edge) ** powers, ([0], [0]))
    return _as_spread((image - image.min()).mul_(field.exp_()), image)


def blurred(image: Tensor, sd_voxels: float, axes: Sequence[int]) -> Tensor:
    """Gaussian along these axes of (X, Y, Z), cut at three SD; the rim is continued."""
    reach = math.ceil(3 * sd_voxels)
    weights = [math.exp(-((n / sd_voxels) ** 2) / 2) for n in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in axes:
        widths = [reach if a == axis else 0 for a in (2, 1, 0) for _ in range(2)]
        padded = pad(image[None, None], widths, mode="replicate")[0, 0]
        length = image.shape[axis]
        image = padded.narrow(axis, reach, length) * (weights[0] / total)
        for n in range(1, reach + 1):
            sides = padded.narrow(axis, reach - n, length) + padded.narrow(axis, reach + n, length)
            image.add_(sides, alpha=weights[n] / total)
    return image


def contrasted(image: Tensor, factor: float) -> Tensor:
    """Away from the mean or to it, within the range that there was."""
    low, high = torch.aminmax(image)
    return torch.lerp(image.mean(), image, factor).clamp_(low, high)


def coarsened(image: Tensor, zoom: float, axes: Sequence[int]) -> Tensor:
    """As if taken with voxels 1 / zoom as large along these axes of (X, Y, Z)."""
    edges = [max(1, round(n * zoom)) if a in axes else n for a, n in enumerate(image.shape)]
    few = interpolate(image[None, None], size=edges, mode="nearest-exact")
    full = interpolate(few, size=list(image.shape), mode="trilinear", align_corners=False)
    return full[0, 0]


def gamma_changed(image: Tensor, gamma: float) -> Tensor:
    """The power of the range's fraction, at the mean and SD that there were."""
    low, high = torch.aminmax(image)
    return _as_spread(((image - low) / (high - low).clamp_min(1e-6)).pow_(gamma), image)


def _as_spread(changed: Tensor, image: Tensor) -> Tensor:
    """In place: at the mean and SD of the image."""
    changed -= changed.mean()
    mean = image.mean()
    # Of norms, which PyTorch has faster than standard deviations.
    spread = vector_norm(image - mean) / vector_norm(changed).clamp_min(1e-6)
    return changed.mul_(spread).add_(mean)


def either_side(rng: np.random.Generator, low: float, high: float) -> float:
    """Under and over 1 equally often."""
    return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
