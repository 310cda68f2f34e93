"""Strong random views: what another scanner, protocol or pose could make of a patch.

How a sample is moved is drawn before its patch is cut, so that the cut holds all that the view
shows: no rim is made up where the scan has an image.  Two samples in three are not interpolated.

Source: the transforms, ranges and probabilities of nnU-Net's trainer (Isensee et al., Nature
Methods 2021), written anew for one channel on a CPU.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from client.training.intensities import either_side, intensities_changed
from protocol.config.study import StudyProtocol
from protocol.config.training import FLIPS, TrainingConfig, is_flat

Edges = NDArray[np.int_]  # voxels along x, y, z

_MOVED = 0.2  # probability of a turn, and of a scale
_SCALE = (0.7, 1.4)
# Axes whose voxels are at most so many times as long as the shortest are blurred and coarsened.
_FINE = 2.0


@dataclass(frozen=True, kw_only=True)
class Move:
    """How the voxels of one view come from the scan.

    Attributes:
        matrix: (3, 3); offsets from the view's centre to offsets from the cut's, both in voxels.
        kept: The axis whose slices stay slices; None where the view is turned out of all of them.
        mirrored: The axes of a mirror image that is not moved otherwise; None of any other view.
        patch: Voxels of the view.
    """

    matrix: NDArray[np.float64]
    kept: int | None
    mirrored: list[int] | None
    patch: Edges

    @cached_property
    def edges(self) -> Edges:
        """What the view shows of the scan, voxels; odd where the patch is, so that centres meet."""
        if self.mirrored is not None:
            return self.patch
        needed = np.abs(self.matrix) @ (self.patch - 1) + 1
        shown: Edges = self.patch + 2 * np.ceil((needed - self.patch) / 2 - 1e-6).astype(int)
        return shown


def draw_moves(protocol: StudyProtocol, count: int, rng: np.random.Generator) -> list[Move]:
    """A turn, a scale and mirror images for each of `count` views."""
    turned, patch = turned_about(protocol), np.array(protocol.patch_voxels)
    spacing, training = np.array(protocol.spacing_mm), protocol.training
    return [_draw_move(turned, spacing, training, patch, rng) for _ in range(count)]


def turned_about(protocol: StudyProtocol) -> list[int]:
    """The axes of turns: all, or the short one of a flat patch."""
    patch = protocol.patch_voxels
    return [patch.index(min(patch))] if is_flat(patch) else [0, 1, 2]


def _draw_move(
    turned: Sequence[int],
    spacing_mm: NDArray[np.float64],
    training: TrainingConfig,
    patch: Edges,
    rng: np.random.Generator,
) -> Move:
    """A turn about the axes `turned`, in mm."""
    is_turned, is_scaled = rng.random() < _MOVED, rng.random() < _MOVED
    scale = either_side(rng, *_SCALE) if is_scaled else 1.0
    flipped = [
        axis for axis, flip in enumerate(FLIPS) if flip in training.flips and rng.random() < 0.5
    ]
    matrix = np.eye(3) / scale
    matrix[:, flipped] *= -1
    if is_turned:
        for axis in turned:
            angle = math.radians(rng.uniform(-1, 1) * training.turn_deg)
            matrix = _turn(axis, angle) * spacing_mm / spacing_mm[:, None] @ matrix
    return Move(
        matrix=matrix,
        kept=None if is_turned and len(turned) > 1 else turned[-1],
        mirrored=None if is_turned or is_scaled else flipped,
        patch=patch,
    )


def _turn(axis: int, angle: float) -> NDArray[np.float64]:
    one, other = (a for a in range(3) if a != axis)
    matrix = np.eye(3)
    matrix[[one, other], [one, other]] = math.cos(angle)
    matrix[one, other], matrix[other, one] = -math.sin(angle), math.sin(angle)
    return matrix


def edges_of(moves: Sequence[Move], patch_voxels: Sequence[int]) -> Edges:
    """What must be cut for all of these views, at least the patch."""
    patch = np.array(patch_voxels)
    cut: Edges = np.maximum.reduce([patch, *(move.edges for move in moves)])
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
    views = in_other_intensities(moved_views(image, moves), protocol, rng)
    if label is None:
        return views, None
    pairs = zip(label[:, 0], moves, strict=True)
    labels = torch.stack([_moved_label(cut, move) for cut, move in pairs])
    return views, labels[:, None]


def moved_views(image: Tensor, moves: Sequence[Move]) -> Tensor:
    """Cuts (B, 1, X, Y, Z) as their views show them, in their own intensities."""
    return torch.stack([_moved(cut, move) for cut, move in zip(image[:, 0], moves, strict=True)])[
        :, None
    ]


def in_other_intensities(
    image: Tensor, protocol: StudyProtocol, rng: np.random.Generator
) -> Tensor:
    """Patches (B, 1, X, Y, Z), each as another scanner could have it."""
    spacing = np.array(protocol.spacing_mm)
    fine = [axis for axis in range(3) if spacing[axis] <= _FINE * spacing.min()]
    return torch.stack([intensities_changed(view, fine, rng) for view in image[:, 0]])[:, None]


# ---- geometry -----------------------------------------------------------------------------------


def _moved(image: Tensor, move: Move) -> Tensor:
    """(X, Y, Z) of a cut to the patch that the view shows, linear."""
    image = _centre(image, move.edges)
    if move.mirrored is not None:
        return image.flip(move.mirrored) if move.mirrored else image
    if move.kept is None:
        return _sampled(image[None], move.matrix, move)[0]
    planes = image.movedim(move.kept, 0)
    matrix = np.delete(np.delete(move.matrix, move.kept, 0), move.kept, 1)
    # Within slices, which share a grid, and between them: what leaves less for the other first.
    if move.patch[move.kept] < move.edges[move.kept]:
        planes = _sampled(_between(planes, move), matrix, move)
    else:
        planes = _between(_sampled(planes, matrix, move), move)
    return planes.movedim(0, move.kept)


def _moved_label(label: Tensor, move: Move) -> Tensor:
    """The nearest voxel's class."""
    label = _centre(label, move.edges)
    if move.mirrored is not None:
        return label.flip(move.mirrored) if move.mirrored else label
    index = np.zeros((1, 1, 1), np.int32)
    for edge, places in zip(move.edges.tolist(), _places(move.matrix, move.patch), strict=True):
        index = index * np.int32(edge) + (places + np.float32(edge / 2)).astype(np.int32)
    return torch.from_numpy(label.contiguous().numpy().ravel()[index])


def _centre(cut: Tensor, edges: Edges) -> Tensor:
    """The middle of a cut, no larger than it."""
    for axis, need in enumerate(edges.tolist()):
        low = max(0, (cut.shape[axis] - need) // 2)
        cut = cut.narrow(axis, low, cut.shape[axis] - 2 * low)
    return cut


def _places(matrix: NDArray[np.float64], patch: Edges) -> Iterator[NDArray[np.float32]]:
    """By axis of a cut, where each voxel of a patch lies, voxels from the middle."""
    count = len(patch)
    lines = [np.arange(edge, dtype=np.float32) - (edge - 1) / 2 for edge in patch.tolist()]
    for row in matrix.astype(np.float32):
        place = np.zeros((1,) * count, np.float32)
        for axis, line in enumerate(lines):
            place = place + (line * row[axis]).reshape(
                [-1 if a == axis else 1 for a in range(count)]
            )
        yield place


def _sampled(planes: Tensor, matrix: NDArray[np.float64], move: Move) -> Tensor:
    """(N, *edges) to (N, *patch), of all three axes or of the two within slices.

    PyTorch's grid runs from -1 to 1 over the whole of a cut, its last axis first.
    """
    rest = [axis for axis in range(3) if len(matrix) == 3 or axis != move.kept]
    edges, patch = move.edges[rest], move.patch[rest]
    grid = np.empty((1, *patch, len(rest)), np.float32)
    for row, places in enumerate(_places(2 * matrix / edges[:, None], patch)):
        grid[0, ..., -1 - row] = places
    return grid_sample(
        planes[None], torch.from_numpy(grid), padding_mode="border", align_corners=False
    )[0]


def _between(planes: Tensor, move: Move) -> Tensor:
    """The view's slices from those of the cut, (N, ...), linear."""
    assert move.kept is not None
    count, last = move.patch[move.kept], len(planes) - 1
    step = move.matrix[move.kept, move.kept]
    places = ((np.arange(count) - (count - 1) / 2) * step + last / 2).clip(0, last)
    below = places.astype(int)
    share = torch.from_numpy((places - below).astype(np.float32))[:, None, None]
    upper = planes.index_select(0, torch.from_numpy(np.minimum(below + 1, last)))
    return planes.index_select(0, torch.from_numpy(below)).lerp_(upper, share)
