"""The windows of MONAI's `sliding_window_inference`, but none in air, and without a map of counts.

For what MONAI's cannot do: leave windows out, and do with the memory of one result.  Windows are
never larger than the training patch: the networks' GroupNorm takes its statistics over the window,
and a trained network lost .126 of its mean DSC when it was shown whole scans (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn import functional

# Two, because at one window and one thread PyTorch takes a slow convolution; more gain nothing.
WINDOWS_AT_ONCE = 2
# A block of this edge is air where its mean is not over a tenth of the bright level, as in
# `client.preprocessing.body_mask`.  A mean, so that noise in the air is no body.
_BLOCK = 4
_BODY_FRACTION, _LEAST_BODY, _BRIGHT_QUANTILE = 0.1, 0.05, 0.995
# Of the Gaussian weights, over the window's edge: MONAI's default.
_SIGMA = 0.125

Triple = tuple[int, int, int]


def slide_over_body(
    network: Callable[[Tensor], Tensor],
    volume: Tensor,
    patch_voxels: Triple,
    *,
    overlap: float,
    in_air: int,
    at_once: int = WINDOWS_AT_ONCE,
) -> Tensor:
    """Mean of a network's windows with Gaussian weights; windows without body are not computed.

    A voxel of the body has the value that it would have if no window were left out: a window that
    holds any of the body is computed.  Memory beside the result: one pass of the network.

    Args:
        network: Windows (B, K, x, y, z) to (B, C, x, y, z); its result may be written over.
        volume: (1, K, X, Y, Z); the last channel is the normalised image, in which air is lowest.
        patch_voxels: The window; a shorter edge of the volume is padded with its lowest value.
        overlap: Least fraction of a window that the next one shares, [0, 1).
        in_air: The channel that is 1 in a window of air; the others are 0.
        at_once: Windows in one pass.

    Returns:
        (1, C, X, Y, Z); where there is no body at all, every voxel counts as body.
    """
    padded, inside = _padded(volume, patch_voxels)
    axes = [
        _starts(n, edge, overlap) for n, edge in zip(padded.shape[2:], patch_voxels, strict=True)
    ]
    weight = compute_importance_map(
        patch_voxels, mode="gaussian", sigma_scale=_SIGMA, device=volume.device
    )
    body = body_blocks(volume[:, -1:])
    total: Tensor | None = None
    air: list[tuple[slice, ...]] = []
    for places in _batches(product(*axes), patch_voxels, inside, body, air, at_once):
        found = network(torch.stack([_cut(padded, at) for at in places]))
        if total is None:
            total = found.new_zeros((1, found.shape[1], *padded.shape[2:]))
        for at, window in zip(places, found.mul_(weight), strict=True):
            _cut(total, at).add_(window)
    assert total is not None
    for at in air:
        _cut(total, at)[in_air].add_(weight)
    _divide_by_counts(total, weight, axes)
    return _cut(total, inside)[None]


def _cut(volume: Tensor, at: tuple[slice, ...]) -> Tensor:
    """A view of the first sample, (C, x, y, z)."""
    x, y, z = at
    return volume[0, :, x, y, z]


def _divide_by_counts(total: Tensor, weight: Tensor, axes: Sequence[Sequence[int]]) -> None:
    """Divide by the sum of the weights of all windows over each voxel, in place.

    Windows lie on a grid, so that the sum over those of one place along x is the same at every
    place: one slab, as thick as a window, stands for MONAI's map of the whole volume.
    """
    edge_x, edge_y, edge_z = weight.shape
    slab = weight.new_zeros((edge_x, *total.shape[3:]))
    for y, z in product(axes[1], axes[2]):
        slab[:, y : y + edge_y, z : z + edge_z] += weight
    for x in range(total.shape[2]):
        over = [slab[x - start] for start in axes[0] if start <= x < start + edge_x]
        total[:, :, x] /= torch.stack(over).sum(0)


def body_blocks(image: Tensor) -> Tensor:
    """Where the patient is, in blocks of 4^3 voxels; all of them where that is under 5 %.

    Args:
        image: (1, 1, X, Y, Z), normalised: air is lowest.

    Returns:
        Booleans, each edge a quarter of the image's, rounded up.
    """
    # The last block of an edge is averaged over the voxels that it has.
    block = [min(_BLOCK, n) for n in image.shape[2:]]
    means = functional.avg_pool3d(
        image.float(), block, _BLOCK, ceil_mode=True, count_include_pad=False
    )
    low, values = means.min(), means.flatten()
    bright = values.kthvalue(math.ceil(_BRIGHT_QUANTILE * len(values))).values
    body = means[0, 0] > low + _BODY_FRACTION * (bright - low)
    return body if body.float().mean() >= _LEAST_BODY else torch.ones_like(body)


def _batches(
    corners: Iterator[tuple[int, ...]],
    patch_voxels: Triple,
    inside: tuple[slice, ...],
    body: Tensor,
    air: list[tuple[slice, ...]],
    at_once: int,
) -> Iterator[list[tuple[slice, ...]]]:
    """Windows that hold any of the body, some at a time; the others are put into `air`."""
    with_body: list[tuple[slice, ...]] = []
    for corner in corners:
        at = tuple(slice(a, a + edge) for a, edge in zip(corner, patch_voxels, strict=True))
        blocks = tuple(
            slice(max(0, s.start - i.start) // _BLOCK, math.ceil((s.stop - i.start) / _BLOCK))
            for s, i in zip(at, inside, strict=True)
        )
        (with_body if bool(body[blocks].any()) else air).append(at)
    for first in range(0, len(with_body), at_once):
        yield with_body[first : first + at_once]


def _padded(volume: Tensor, patch_voxels: Triple) -> tuple[Tensor, tuple[slice, ...]]:
    """The volume, nowhere shorter than a window, and where in it the volume lies."""
    missing = [max(0, e - n) for e, n in zip(patch_voxels, volume.shape[2:], strict=True)]
    inside = tuple(
        slice(m // 2, m // 2 + n) for m, n in zip(missing, volume.shape[2:], strict=True)
    )
    if not any(missing):
        return volume, inside
    sides = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    return functional.pad(volume, sides, value=float(volume[:, -1].min())), inside


def _starts(length: int, edge: int, overlap: float) -> list[int]:
    """Where MONAI's windows begin along one axis; the last one ends with the volume."""
    step = max(1, int(edge * (1 - overlap)))
    return [*range(0, length - edge, step), length - edge]
