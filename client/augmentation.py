"""Random views of a patch: what a scanner or a patient's pose could change, and nothing else.

Left-right flip, rotation in the axial plane, isotropic scale, gamma, noise.  Never up-down or
front-back flips: no patient is built so.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

_ROTATION_DEG = 10.0
_SCALE = (0.9, 1.1)
_LOG_GAMMA = 0.3
_NOISE_SD = 0.1


def augment(
    image: Tensor,
    label: Tensor | None,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor | None]:
    """One random view of each sample.

    Args:
        image: (B, 1, X, Y, Z), z-scored; X runs from the patient's right to left (LPS).
        label: Same shape, integers, or None.
        spacing_mm: Of the patch; a rotation is one in mm, not in voxels.
        rng: The only source of randomness.

    Returns:
        Image and label, moved alike.
    """
    extent_mm = [n * s for n, s in zip(image.shape[2:], spacing_mm, strict=True)]
    theta = torch.stack([_random_affine(extent_mm, rng) for _ in range(len(image))])
    grid = affine_grid(theta, list(image.shape), align_corners=False).to(image.device)
    image = grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if label is not None:
        moved = grid_sample(
            label.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
        )
        label = moved.to(label.dtype)
    return _intensity(image, rng), label


def _random_affine(extent_mm: list[float], rng: np.random.Generator) -> Tensor:
    """(3, 4) for `affine_grid`, whose coordinates run over (Z, Y, X) in [-1, 1]."""
    angle = math.radians(rng.uniform(-_ROTATION_DEG, _ROTATION_DEG))
    scale = 1.0 / rng.uniform(*_SCALE)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    x_mm, y_mm, _ = extent_mm
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    return torch.tensor(
        [
            [scale, 0.0, 0.0, 0.0],
            [0.0, cos, -sin * flip * x_mm / y_mm, 0.0],
            [0.0, sin * y_mm / x_mm, cos * flip, 0.0],
        ]
    )


def _intensity(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gamma over each sample's own range, then white noise."""
    size = (len(image), 1, 1, 1, 1)
    gamma = torch.from_numpy(np.exp(rng.uniform(-_LOG_GAMMA, _LOG_GAMMA, size))).to(image)
    low, high = image.amin((1, 2, 3, 4), True), image.amax((1, 2, 3, 4), True)
    span = (high - low).clamp_min(1e-6)
    image = ((image - low) / span).pow(gamma) * span + low
    sd = torch.from_numpy(rng.uniform(0, _NOISE_SD, size)).to(image)
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), np.float32)).to(image)
    return image + sd * noise
