"""Strong random views: what another scanner, protocol or pose could make of a patch.

How a sample is moved is drawn before its patch is cut, so that the cut holds all that the view
shows: no rim is made up where the scan has an image.  Two samples in three are not interpolated.

Source: the transforms, ranges and probabilities of nnU-Net's trainer (Isensee et al., Nature
Methods 2021), written anew for one channel on a CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from protocol.config.study import StudyProtocol
from protocol.config.training import FLIPS

Edges = NDArray[np.int_]  # voxels along x, y, z

_MOVED = 0.2  # probability of a turn, and of a scale
_ROTATION_DEG = 30.0
_SCALE = (0.7, 1.4)
# So flat a patch has its slices far apart: a turn out of them would mix what does not touch.
_FLAT = 3.0
# Axes whose voxels are at most so many times as long as the shortest are blurred and coarsened.
_FINE = 2.0


@dataclass(frozen=True, kw_only=True)
class Move:
    """How the voxels of one view come from the scan.

    Attributes:
        matrix: (3, 3); offsets from the view's centre to offsets from the cut's, both in voxels.
        kept: The axis whose slices stay slices; None where the view is turned out of all of them.
    """

    matrix: NDArray[np.float64]
    kept: int | None

    def edges(self, patch: Edges) -> Edges:
        """What the view shows of the scan, voxels; odd where the patch is, so that centres meet."""
        needed = np.abs(self.matrix) @ (patch - 1) + 1
        shown: Edges = patch + 2 * np.ceil((needed - patch) / 2 - 1e-6).astype(int)
        return shown


def draw_moves(protocol: StudyProtocol, count: int, rng: np.random.Generator) -> list[Move]:
    """A turn, a scale and mirror images for each of `count` views."""
    turned, spacing = turned_about(protocol), np.array(protocol.spacing_mm)
    return [_draw_move(turned, spacing, protocol.training.flips, rng) for _ in range(count)]


def turned_about(protocol: StudyProtocol) -> list[int]:
    """The axes of turns: all, or the short one of a flat patch."""
    patch = protocol.patch_voxels
    return [patch.index(min(patch))] if max(patch) > _FLAT * min(patch) else [0, 1, 2]


def _draw_move(
    turned: Sequence[int],
    spacing_mm: NDArray[np.float64],
    flips: Sequence[str],
    rng: np.random.Generator,
) -> Move:
    """About the axes `turned`, in mm."""
    rotation, kept = np.eye(3), 2 if len(turned) > 1 else turned[0]
    if mixed := rng.random() < _MOVED:
        for axis in turned:
            rotation = rotation @ _turn(axis, math.radians(rng.uniform(-1, 1) * _ROTATION_DEG))
    scale = _either_side(rng, *_SCALE) if rng.random() < _MOVED else 1.0
    mirror = [-1.0 if flip in flips and rng.random() < 0.5 else 1.0 for flip in FLIPS]
    matrix = rotation * spacing_mm / spacing_mm[:, None] / scale * mirror
    return Move(matrix=matrix, kept=None if mixed and len(turned) > 1 else kept)


def _turn(axis: int, angle: float) -> NDArray[np.float64]:
    one, other = (a for a in range(3) if a != axis)
    matrix = np.eye(3)
    matrix[[one, other], [one, other]] = math.cos(angle)
    matrix[one, other], matrix[other, one] = -math.sin(angle), math.sin(angle)
    return matrix


def _either_side(rng: np.random.Generator, low: float, high: float) -> float:
    """Under and over 1 equally often."""
    return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)


def edges_of(moves: Sequence[Move], patch_voxels: Sequence[int]) -> Edges:
    """What must be cut for all of these views, at least the patch."""
    patch = np.array(patch_voxels)
    cut: Edges = np.maximum.reduce([patch, *(move.edges(patch) for move in moves)])
    return cut


def strong_views(
    image: Tensor,
    label: Tensor | None,
    protocol: StudyProtocol,
    moves: Sequence[Move],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor | None]:
    """The views that were drawn, in other intensities.

    Args:
        image: (B, 1, X, Y, Z), z-scored, cut with `edges_of` the moves.
        label: Same shape, integers, or None; the nearest voxel's class is taken.
        protocol: The study, for the patch's size in voxels and mm.
        moves: One a sample.
        rng: The only source of randomness.

    Returns:
        Image and label of the patch's size, moved alike.
    """
    patch, spacing = np.array(protocol.patch_voxels), np.array(protocol.spacing_mm)
    fine = [axis for axis in range(3) if spacing[axis] <= _FINE * spacing.min()]
    views = [
        _intensities(_moved(sample[0], move, patch, "bilinear"), fine, rng)
        for sample, move in zip(image, moves, strict=True)
    ]
    labels = None
    if label is not None:
        pairs = zip(label, moves, strict=True)
        moved = [_moved(sample[0], move, patch, "nearest") for sample, move in pairs]
        labels = torch.stack(moved)[:, None]
    return torch.stack(views)[:, None], labels


# ---- geometry -----------------------------------------------------------------------------------


def _moved(cut: Tensor, move: Move, patch: Edges, mode: str) -> Tensor:
    """(X, Y, Z) of a cut to the patch that the view shows."""
    cut = _centre(cut, move.edges(patch))
    diagonal = np.diag(np.diag(move.matrix))
    if np.array_equal(np.abs(move.matrix), np.eye(3)):
        mirrored = [axis for axis in range(3) if diagonal[axis, axis] < 0]
        return cut.flip(mirrored) if mirrored else cut
    values = cut.float()
    if move.kept is None:
        moved = _sampled(values, move.matrix, patch, mode)
    else:
        moved = _by_slices(values, move, patch, mode)
    return moved.to(cut.dtype)


def _centre(cut: Tensor, edges: Edges) -> Tensor:
    """The middle of a cut, no larger than it."""
    low = [max(0, (have - need) // 2) for have, need in zip(cut.shape, edges, strict=True)]
    return cut[tuple(slice(n, have - n) for n, have in zip(low, cut.shape, strict=True))]


def _by_slices(cut: Tensor, move: Move, patch: Edges, mode: str) -> Tensor:
    """Within slices, and between them; whichever first leaves less for the other.

    A third of the time that `_sampled` takes: all slices share the plane's weights.
    """
    axis = move.kept
    assert axis is not None
    rest = [a for a in range(3) if a != axis]
    planes = cut.movedim(axis, 0)
    step = float(move.matrix[axis, axis])
    fewer = int(patch[axis]) < len(planes)
    if fewer:
        planes = _between(planes, step, int(patch[axis]), mode)
    planes = _sampled(planes, move.matrix[np.ix_(rest, rest)], patch[rest], mode)
    if not fewer:
        planes = _between(planes, step, int(patch[axis]), mode)
    return planes.movedim(0, axis).contiguous()


def _sampled(cut: Tensor, matrix: NDArray[np.float64], patch: Edges, mode: str) -> Tensor:
    """(*edges) or, within slices, (N, *edges) to the patch's edges, by PyTorch's grid."""
    count = len(patch)
    batch = cut.reshape(1, -1, *cut.shape[-count:])
    # The grid runs from -1 to 1 over the whole of each, its last axis first.
    scaled = matrix * patch / np.array(batch.shape[2:])[:, None]
    theta = torch.zeros(1, count, count + 1)
    theta[0, :, :count] = torch.from_numpy(np.ascontiguousarray(scaled[::-1, ::-1])).float()
    shape = [*batch.shape[:2], *(int(edge) for edge in patch)]
    grid = affine_grid(theta, shape, align_corners=False)
    moved = grid_sample(batch, grid, mode=mode, padding_mode="border", align_corners=False)
    return moved.reshape(*cut.shape[:-count], *moved.shape[2:])


def _between(planes: Tensor, step: float, count: int, mode: str) -> Tensor:
    """`count` slices, `step` apart, about the middle of these, (N, ...)."""
    last = len(planes) - 1
    places = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * step + last / 2
    places = places.clamp(0, last)
    if mode == "nearest":
        return planes[places.round().long()]
    below = places.floor().long()
    upper = planes[(below + 1).clamp_max(last)]
    return torch.lerp(planes[below], upper, (places - below).float()[:, None, None])


# ---- intensities --------------------------------------------------------------------------------


def _intensities(image: Tensor, fine: Sequence[int], rng: np.random.Generator) -> Tensor:
    """(X, Y, Z) as nnU-Net changes it, in its order; each change with its probability."""
    if rng.random() < 0.1:
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), np.float32))
        image = image + rng.uniform(0, 0.1) * noise
    if rng.random() < 0.2:
        image = blurred(image, rng.uniform(0.5, 1.0), fine)
    if rng.random() < 0.15:
        image = image * _either_side(rng, 0.75, 1.25)
    if rng.random() < 0.15:
        image = contrasted(image, _either_side(rng, 0.75, 1.25))
    if rng.random() < 0.25:
        image = coarsened(image, rng.uniform(0.5, 1.0), fine)
    if rng.random() < 0.1:
        image = -gamma_changed(-image, _either_side(rng, 0.7, 1.5))
    if rng.random() < 0.3:
        image = gamma_changed(image, _either_side(rng, 0.7, 1.5))
    return image


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
    sd, mean = torch.std_mean(image)
    changed = ((image - low) / (high - low).clamp_min(1e-6)).pow_(gamma)
    new_sd, new_mean = torch.std_mean(changed)
    return (changed - new_mean) * (sd / new_sd.clamp_min(1e-6)) + mean
