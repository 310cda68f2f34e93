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
    theta = torch.stack([_random_affine(extent_mm, rng) for _ in range(len(image))]).to(image)
    image = _linear(image, theta)
    if label is not None:
        label = _nearest(label.float(), theta).to(label.dtype)
    return _intensity(image, rng), label


def _linear(image: Tensor, theta: Tensor) -> Tensor:
    """Trilinear, the rim continued: in the axial plane, slices as channels, then between slices.

    As `grid_sample` on five axes, to rounding, in a third of its time: rotations are in the plane,
    so that all slices share the plane's weights and all voxels of a slice its weight.
    """
    planes = _in_plane(image, theta, "bilinear", "border")
    last = planes.shape[1] - 1
    position = _slices(theta, last + 1).clamp(0, last)
    below = position.floor().long()
    upper = _picked(planes, (below + 1).clamp_max(last))
    moved = torch.lerp(_picked(planes, below), upper, (position - below)[:, :, None, None])
    return moved.permute(0, 2, 3, 1)[:, None].contiguous()


def _nearest(label: Tensor, theta: Tensor) -> Tensor:
    """The nearest voxel's class; background beyond the rim."""
    planes = _in_plane(label, theta, "nearest", "zeros")
    position = _slices(theta, planes.shape[1]).round().long()
    inside = (position >= 0) & (position < planes.shape[1])
    picked = _picked(planes, position.clamp(0, planes.shape[1] - 1))
    moved = picked * inside[:, :, None, None]
    return moved.permute(0, 2, 3, 1)[:, None].contiguous()


def _in_plane(image: Tensor, theta: Tensor, mode: str, padding: str) -> Tensor:
    """(B, 1, X, Y, Z) to (B, Z, X, Y), moved within each slice."""
    planes = image[:, 0].permute(0, 3, 1, 2).contiguous()
    grid = affine_grid(theta[:, 1:, 1:], list(planes.shape), align_corners=False)
    return grid_sample(planes, grid, mode=mode, padding_mode=padding, align_corners=False)


def _picked(planes: Tensor, slices: Tensor) -> Tensor:
    """Of each sample of (B, Z, X, Y) the slices (B, Z'), in that order; whole rows are copied."""
    samples = torch.arange(len(planes), device=planes.device)[:, None] * planes.shape[1]
    rows = planes.flatten(0, 1).index_select(0, (samples + slices).flatten())
    return rows.view(*slices.shape, *planes.shape[2:])


def _slices(theta: Tensor, count: int) -> Tensor:
    """Which slice, with fractions, each of the view's slices shows, (B, Z)."""
    centres = (2 * torch.arange(count, device=theta.device) + 1) / count - 1
    return ((theta[:, :1, 0] * centres + 1) * count - 1) / 2


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
