"""Stacked sparse auto-encoder features with sparse patch matching over atlases.

After Guo, Gao, Shen, "Deformable MR Prostate Segmentation via Deep Feature Learning and Sparse
Patch Matching", IEEE TMI 2016: learned features of a voxel's patch are rebuilt from those of
nearby atlas patches with sparse non-negative weights, and the atlas voxels' labels are added up
with these weights. The paper's last step, a deformable surface model, is replaced here by a
Gaussian over the class probabilities and the largest component of each organ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from torch import Tensor

from asdnet_models.inference.predictor import largest_components
from protocol.wire.weights import Weights
from simulation.baselines.encoder import EncoderOptions, dense_features, load_encoder
from simulation.baselines.malf import most_similar, on_whole_grid
from simulation.baselines.registration import crop, warp_image, warp_votes
from simulation.baselines.volumes import Atlas, Volume, to_xyz


@dataclass(frozen=True, kw_only=True)
class SsaeOptions:
    """Settings; the defaults were chosen on training cases of the phantom.

    Attributes:
        encoder: Of the features.
        atlases: How many of the most similar atlases are matched; fewer where there are fewer.
        search: Radius of the cube that candidates come from, voxels.
        nearest: Candidates with which a patch is rebuilt.
        sparsity: L1 weight on them, as a share of the target's squared norm.
        iterations: Of the multiplicative updates.
        smoothing_mm: Standard deviation of the Gaussian.
        margin_mm: Around the aligned atlases' organs; outside all is background.
    """

    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    atlases: int = 7
    search: int = 2
    nearest: int = 12
    sparsity: float = 0.01
    iterations: int = 40
    smoothing_mm: float = 2.0
    margin_mm: float = 16.0


def class_probabilities(
    target: Volume, atlases: Sequence[Atlas], classes: int, weights: Weights, options: SsaeOptions
) -> NDArray[np.float32]:
    """Matched, smoothed, one piece an organ: (C, X, Y, Z) on the target's grid; sums to 1.

    Args:
        target: The scan to be segmented.
        atlases: Labelled scans, one at least; the target itself must not be among them.
        classes: Organs and background.
        weights: Of the encoder.
        options: Settings.

    Raises:
        ValueError: If there is no atlas.
    """
    chosen, box = most_similar(target, atlases, options.atlases, options.margin_mm)
    region = crop(target.image, box)
    encoder, patch = load_encoder(weights, options.encoder), options.encoder.patch
    images = [to_xyz(warp_image(one.atlas, region, one.affine)) for one in chosen]
    votes = np.stack([warp_votes(one.atlas, region, one.affine, classes) for one in chosen])
    matched = match(
        dense_features(encoder, to_xyz(region), patch),
        np.stack([dense_features(encoder, image, patch) for image in images]),
        votes,
        options,
    )
    sigmas = [options.smoothing_mm / mm for mm in region.GetSpacing()]
    smooth = np.stack([gaussian_filter(channel, sigmas) for channel in matched])
    return on_whole_grid(largest_component_per_organ(smooth), target, box)


def match(
    target: NDArray[np.float32],
    atlases: NDArray[np.float32],
    votes: NDArray[np.float32],
    options: SsaeOptions,
) -> NDArray[np.float32]:
    """Class probabilities by sparse patch matching.

    Args:
        target: Features, (X, Y, Z, F), not negative.
        atlases: Those of the aligned atlases, (A, X, Y, Z, F).
        votes: The atlases' classes, (A, C, X, Y, Z), which sum to 1.
        options: Search radius, candidates, sparsity.

    Returns:
        (C, X, Y, Z), sums to 1; background where no organ is within reach.
    """
    near = binary_dilation(1 - votes[:, 0].min(axis=0) > 0, iterations=options.search + 1)
    places = np.argwhere(near)
    matched = np.zeros(votes.shape[1:], np.float32)
    matched[0] = 1
    if not len(places):
        return matched
    wanted = torch.from_numpy(target[near])
    table = torch.from_numpy(atlases.reshape(-1, atlases.shape[-1]))
    candidates = _nearest(wanted, table, places, atlases.shape[:-1], options)
    weights = sparse_weights(wanted, table[candidates], options.sparsity, options.iterations)
    by_voxel = torch.from_numpy(np.moveaxis(votes, 1, -1).reshape(-1, votes.shape[1]))
    matched[:, near] = torch.einsum("nk,nkc->cn", weights, by_voxel[candidates]).numpy()
    return matched


def sparse_weights(wanted: Tensor, candidates: Tensor, sparsity: float, iterations: int) -> Tensor:
    r"""Approximately argmin over w >= 0 of 1/2 |t - D w|^2 + sparsity |t|^2 sum w, scaled to sum 1.

    Multiplicative updates w <- w D't / (D'D w + lambda), which keep w from below zero for
    features that are not negative (Hoyer, Non-negative sparse coding, 2002).

    Args:
        wanted: t, (n, F).
        candidates: D, (n, k, F).
        sparsity: In [0, 1).
        iterations: Of the updates, from equal weights.

    Returns:
        (n, k); at least 0.
    """
    gram = candidates @ candidates.transpose(1, 2)
    product = (candidates @ wanted[:, :, None]).squeeze(2)
    penalty = sparsity * (wanted**2).sum(1, keepdim=True)
    weights = torch.full_like(product, 1 / product.shape[1])
    for _ in range(iterations):
        weights = weights * product / ((gram @ weights[:, :, None]).squeeze(2) + penalty + 1e-12)
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-12)


def largest_component_per_organ(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """All but the largest piece of an organ become background, (C, X, Y, Z)."""
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    dropped = largest_components(labels, range(1, len(probabilities))) != labels
    cleaned = probabilities.copy()
    cleaned[:, dropped] = 0
    cleaned[0, dropped] = 1
    return cleaned


def _nearest(
    wanted: Tensor,
    table: Tensor,
    places: NDArray[np.int64],
    shape: tuple[int, ...],
    options: SsaeOptions,
) -> Tensor:
    """Rows of the table: the nearest features within the search cube of every position, (n, k).

    The best of the earlier atlases are kept with each atlas's own, so memory is that of one.
    """
    reach = range(-options.search, options.search + 1)
    offsets = [(x, y, z) for x in reach for y in reach for z in reach]
    size = np.array(shape[1:])
    best_distance = torch.empty(len(places), 0)
    best_row = torch.empty(len(places), 0, dtype=torch.long)
    for atlas in range(shape[0]):
        distances, rows = [best_distance], [best_row]
        for offset in offsets:
            voxel = np.clip(places + offset, 0, size - 1)
            flat = np.ravel_multi_index(tuple(voxel.T), tuple(size)) + atlas * int(size.prod())
            row = torch.from_numpy(flat)
            distances.append(((table[row] - wanted) ** 2).sum(1, keepdim=True))
            rows.append(row[:, None])
        distance, row_of = torch.cat(distances, 1), torch.cat(rows, 1)
        count = min(options.nearest, distance.shape[1])
        best_distance, order = distance.topk(count, dim=1, largest=False)
        best_row = row_of.gather(1, order)
    return best_row
