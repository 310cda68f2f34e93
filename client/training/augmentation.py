"""Random views of a patch: what a scanner or a patient's pose could change, and nothing else.

The weak ones, here: flips (left-right alone, where the study names no other: no patient is built
upside down), rotation in the axial plane, isotropic scale, gamma, noise.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from client.training.strong_views import (
    Edges,
    draw_moves,
    edges_of,
    in_other_intensities,
    moved_views,
    strong_views,
)
from protocol.config.study import StudyProtocol
from protocol.config.training import FLIPS, Flip, Views

_ROTATION_DEG = 10.0
_SCALE = (0.9, 1.1)
_LOG_GAMMA = 0.3
_NOISE_SD = 0.1
_LEFT_RIGHT: tuple[Flip, ...] = ("left-right",)


class RandomViews:
    """Views of the patches of one batch, as the study asks for them.

    Args:
        protocol: The study.
        count: Patches of the batch.
        rng: The only source of randomness; what decides how much of the scans is cut is drawn now.
    """

    def __init__(self, protocol: StudyProtocol, count: int, rng: np.random.Generator) -> None:
        self._protocol, self._rng = protocol, rng
        self._moves = draw_moves(protocol, count, rng) if self._kind == "strong" else []

    @property
    def _kind(self) -> Views:
        return self._protocol.training.views

    @property
    def edges(self) -> Edges | None:
        """Voxels of the cuts that `of` takes; None: the patch's."""
        return edges_of(self._moves, self._protocol.patch_voxels) if self._moves else None

    def of(self, image: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The views of cuts (B, 1, X, Y, Z), z-scored, and of their labels, in the patch's size."""
        if self._kind == "none":
            return image, label
        if self._kind == "strong":
            return strong_views(image, label, self._protocol, self._moves, self._rng)
        training = self._protocol.training
        return augment(image, label, self._protocol.spacing_mm, self._rng, training.flips)

    def with_plain(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The views of cuts, and the same ones in the scans' own intensities, moved alike."""
        if self._kind == "none":
            return image, image
        if self._kind == "strong":
            plain = moved_views(image, self._moves)
            return in_other_intensities(plain, self._protocol, self._rng), plain
        training, spacing = self._protocol.training, self._protocol.spacing_mm
        plain = _linear(image, _random_moves(image, spacing, self._rng, training.flips))
        return _intensity(plain, self._rng), plain


def augment(
    image: Tensor,
    label: Tensor | None,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    flips: Sequence[Flip] = _LEFT_RIGHT,
) -> tuple[Tensor, Tensor | None]:
    """One random view of each sample.

    Args:
        image: (B, 1, X, Y, Z), z-scored; X runs from the patient's right to left (LPS).
        label: Same shape, integers, or None.
        spacing_mm: Of the patch; a rotation is one in mm, not in voxels.
        rng: The only source of randomness.
        flips: Along which axes a view may be a mirror image.

    Returns:
        Image and label, moved alike.
    """
    theta = _random_moves(image, spacing_mm, rng, flips)
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


def _random_moves(
    image: Tensor,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    flips: Sequence[Flip],
) -> Tensor:
    """(B, 3, 4), one of each sample."""
    extent_mm = [n * s for n, s in zip(image.shape[2:], spacing_mm, strict=True)]
    return torch.stack([_random_affine(extent_mm, rng, flips) for _ in image]).to(image)


def _random_affine(
    extent_mm: list[float], rng: np.random.Generator, flips: Sequence[Flip] = _LEFT_RIGHT
) -> Tensor:
    """(3, 4) for `affine_grid`, whose coordinates run over (Z, Y, X) in [-1, 1]."""
    angle = math.radians(rng.uniform(-_ROTATION_DEG, _ROTATION_DEG))
    scale = 1.0 / rng.uniform(*_SCALE)
    x, y, z = (-1.0 if axis in flips and rng.random() < 0.5 else 1.0 for axis in FLIPS)
    x_mm, y_mm, _ = extent_mm
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    return torch.tensor(
        [
            [scale * z, 0.0, 0.0, 0.0],
            [0.0, cos * y, -sin * x * x_mm / y_mm, 0.0],
            [0.0, sin * y * y_mm / x_mm, cos * x, 0.0],
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
