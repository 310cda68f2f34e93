"""Sliding-window inference on a selection of MONAI's windows.

MONAI's `sliding_window_inference` can neither leave windows out nor do with the memory of one
result.  Windows are never larger than the training patch: the networks' GroupNorm takes its
statistics over the window, and a trained network lost .126 of its mean DSC when it was shown whole
scans (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

# Two, because at one window and one thread PyTorch takes a slow convolution; more gain nothing.
WINDOWS_AT_ONCE = 2
# A block of this edge is air where its mean is not over a tenth of the bright level, as in
# `asdnet_models.preprocessing.body_mask`.  A mean, so that noise in the air is no body.
_BLOCK = 4
_BODY_FRACTION, _LEAST_BODY, _BRIGHT_QUANTILE = 0.1, 0.05, 0.995
# A voxel whose largest class is an organ's has less background than this.
ORGAN_BELOW = 0.5
_SLAB = 8 * _BLOCK  # voxels along x
# Of the Gaussian weights, over the window's edge: MONAI's default.
_SIGMA = 0.125

Triple = tuple[int, int, int]
Place = tuple[slice, ...]


def slide(
    network: Callable[..., Tensor],
    volume: Tensor,
    patch_voxels: Triple,
    *,
    overlap: float,
    in_air: int,
    background: Tensor | Literal["in_air"] | None = None,
    beside: Tensor | None = None,
    at_once: int = WINDOWS_AT_ONCE,
) -> Tensor:
    """Mean of a network's windows with Gaussian weights; windows without body are not computed.

    A voxel of the body has the value that it would have if no window were left out: a window that
    holds any of the body is computed.  With `background`, this holds for organs' voxels alone:
    first come as few windows as hold the body, then every other one with such a voxel, until none
    is left; other voxels have the mean of fewer windows.  Memory, except the result: a map of the
    weights, and one pass of the network.

    Args:
        network: Windows (B, 1, x, y, z) to (B, C, x, y, z); its result may be written over.
        volume: (1, 1, X, Y, Z), the normalised image, in which air is lowest.
        patch_voxels: The window; a shorter edge of the volume is padded with its lowest value.
        overlap: Least fraction of a window that the next one shares, [0, 1).
        in_air: The channel that is 1 where no window was computed; the others are 0 there.
        background: (1, 1, X, Y, Z) in [0, 1], under `ORGAN_BELOW` where a voxel is an organ's;
            "in_air": what the result has so far in that channel.
        beside: (1, K, X, Y, Z), whose windows the network is given too; not put together with the
            volume, which would hold both a second time.
        at_once: Windows in one pass.

    Returns:
        (1, C, X, Y, Z); where there is no body at all, every voxel counts as body.
    """
    padded, inside = _padded(volume, patch_voxels, volume)
    volumes = [padded]
    if beside is not None:
        volumes.append(_padded(beside, patch_voxels, volume)[0])
    from monai.data.utils import compute_importance_map  # seconds, which training need not wait for

    edges = list(zip(padded.shape[2:], patch_voxels, strict=True))
    axes = [_starts(n, edge, overlap) for n, edge in edges]
    waiting = list(_places(axes, patch_voxels))
    first = waiting
    if background is not None:
        first = list(_places(map(_fewest, axes, patch_voxels), patch_voxels))
    weight = compute_importance_map(
        patch_voxels, mode="gaussian", sigma_scale=_SIGMA, device=volume.device
    )
    mean = _WeightedMean(padded.shape[2:], weight)
    blocks, wanted = body_blocks(volume), first
    while wanted := [at for at in wanted if _holds(blocks, at, inside)]:
        for number in range(0, len(wanted), at_once):
            places = wanted[number : number + at_once]
            shown = (torch.stack([_cut(part, at) for at in places]) for part in volumes)
            mean.add(places, network(*shown))
        if background is None:
            break
        done = {_corner(at) for at in wanted}
        waiting = [at for at in waiting if _corner(at) not in done]
        if isinstance(background, Tensor):
            blocks = _organ_blocks(background[0, 0], None)
        else:
            blocks = _organ_blocks(*mean.sums(in_air, inside))
        wanted = waiting
    return mean.result(in_air, inside)


class _WeightedMean:
    """The mean of overlapping windows, kept as two sums: of weighted values, and of weights.

    Args:
        size: Voxels of the volume that the windows lie in.
        weight: Of a window's voxels, (x, y, z).
    """

    def __init__(self, size: Sequence[int], weight: Tensor) -> None:
        self._size, self._weight = size, weight
        self._total: Tensor | None = None
        self._counts = weight.new_zeros((1, *size))

    def add(self, places: Sequence[Place], windows: Tensor) -> None:
        """Windows (B, C, x, y, z), which are written over, at as many places."""
        if self._total is None:
            self._total = windows.new_zeros((1, windows.shape[1], *self._size))
        for at, window in zip(places, windows.mul_(self._weight), strict=True):
            _cut(self._total, at).add_(window)
            _cut(self._counts[None], at).add_(self._weight)

    def sums(self, channel: int, inside: Place) -> tuple[Tensor, Tensor]:
        """One channel's sum so far and that of the weights, (X, Y, Z) each."""
        assert self._total is not None
        return _cut(self._total, inside)[channel], _cut(self._counts[None], inside)[0]

    def result(self, in_air: int, inside: Place) -> Tensor:
        """(1, C, X, Y, Z); where there was no window channel `in_air` is 1, the others are 0."""
        assert self._total is not None
        self._total /= self._counts
        nowhere = self._counts[0] == 0
        self._total[0, :, nowhere] = 0
        self._total[0, in_air, nowhere] = 1
        return _cut(self._total, inside)[None]


def _corner(at: Place) -> tuple[int, ...]:
    return tuple(axis.start for axis in at)


def _cut(volume: Tensor, at: Place) -> Tensor:
    """A view of the first sample, (C, x, y, z)."""
    x, y, z = at
    return volume[0, :, x, y, z]


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


def _organ_blocks(background: Tensor, counts: Tensor | None) -> Tensor:
    """Where a voxel of a block is an organ's, in the shape of `body_blocks`.

    Args:
        background: (X, Y, Z).
        counts: What to divide it by, where it is a sum; None where it is a mean.
    """
    blocks = []
    block = [min(_BLOCK, n) for n in background.shape]
    for x in range(0, len(background), _SLAB):  # so that no second volume is held
        part = -background[x : x + _SLAB]
        if counts is not None:
            part /= counts[x : x + _SLAB]
        part.nan_to_num_(-1.0)
        blocks.append(functional.max_pool3d(part[None], block, _BLOCK, ceil_mode=True)[0])
    return torch.cat(blocks) > -ORGAN_BELOW


def _holds(blocks: Tensor, at: Place, inside: Place) -> bool:
    """Whether any block under a window is set."""
    under = tuple(
        slice(max(0, s.start - i.start) // _BLOCK, math.ceil((s.stop - i.start) / _BLOCK))
        for s, i in zip(at, inside, strict=True)
    )
    return bool(blocks[under].any())


def _places(axes: Iterable[Sequence[int]], patch_voxels: Triple) -> Iterator[Place]:
    for corner in product(*axes):
        yield tuple(slice(a, a + edge) for a, edge in zip(corner, patch_voxels, strict=True))


def _padded(
    volume: Tensor, patch_voxels: Triple, image: Tensor
) -> tuple[Tensor, tuple[slice, ...]]:
    """The volume, nowhere shorter than a window, and where in it the volume lies.

    Padded with the image's lowest value.
    """
    missing = [max(0, e - n) for e, n in zip(patch_voxels, volume.shape[2:], strict=True)]
    inside = tuple(
        slice(m // 2, m // 2 + n) for m, n in zip(missing, volume.shape[2:], strict=True)
    )
    if not any(missing):
        return volume, inside
    sides = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    return functional.pad(volume, sides, value=float(image.min())), inside


def _starts(length: int, edge: int, overlap: float) -> list[int]:
    """Where MONAI's windows begin along one axis; the last one ends with the volume."""
    step = max(1, int(edge * (1 - overlap)))
    return [*range(0, length - edge, step), length - edge]


def _fewest(starts: Sequence[int], edge: int) -> list[int]:
    """Those of the windows' beginnings along one axis that are needed to leave no gap."""
    kept = [starts[0]]
    for start, following in pairwise([*starts[1:], starts[-1] + edge + 1]):
        if following > kept[-1] + edge:
            kept.append(start)
    return kept
