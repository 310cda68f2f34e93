"""Multi-atlas label fusion: register labelled scans to a new one and let them vote.

A baseline of the paper's Table 1 without anything to train, so without anything to average:
its atlases are patients, and stay at their site.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from simulation.baselines.fusion import locally_weighted_vote, majority_vote, staple
from simulation.baselines.registration import (
    Box,
    Deformation,
    align,
    crop,
    deform,
    organ_region,
    warp_image,
    warp_votes,
)
from simulation.baselines.volumes import Atlas, Volume, to_xyz


@dataclass(frozen=True, kw_only=True)
class MalfOptions:
    """Settings; the defaults were chosen on training cases of the phantom.

    Attributes:
        atlases: How many of the most similar atlases vote; fewer where there are fewer.
        deformation: After the affine transform. A B-spline takes tens of times as long as Demons.
        bspline_grid_mm: Edge of the B-spline's control grid.
        fusion: How votes are counted.
        radius: Of the cube that local weights look at, voxels.
        power: Of the local weights; 0 weighs all atlases alike.
        margin_mm: Around the aligned atlases' organs; outside all is background.
    """

    atlases: int = 7
    deformation: Deformation = "demons"
    bspline_grid_mm: float = 8.0
    fusion: Literal["local", "staple", "majority"] = "local"
    radius: int = 2
    power: float = 2.0
    margin_mm: float = 16.0


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """One atlas with its affine transform to a target."""

    atlas: Atlas
    affine: sitk.Transform
    similarity: float


def class_probabilities(
    target: Volume, atlases: Sequence[Atlas], classes: int, options: MalfOptions
) -> NDArray[np.float32]:
    """The fused votes, (C, X, Y, Z) on the target's grid; sums to 1.

    Args:
        target: The scan to be segmented.
        atlases: Labelled scans, one at least; the target itself must not be among them.
        classes: Organs and background.
        options: Settings.

    Raises:
        ValueError: If there is no atlas.
    """
    chosen, box = most_similar(target, atlases, options.atlases, options.margin_mm)
    region = crop(target.image, box)
    images, votes = [], []
    for aligned in chosen:
        transform = deform(
            target,
            aligned.atlas,
            aligned.affine,
            box,
            options.deformation,
            options.bspline_grid_mm,
        )
        images.append(to_xyz(warp_image(aligned.atlas, region, transform)))
        votes.append(warp_votes(aligned.atlas, region, transform, classes))
    fused = _fuse(to_xyz(region), np.stack(images), np.stack(votes), options)
    return on_whole_grid(fused, target, box)


def most_similar(
    target: Volume, atlases: Sequence[Atlas], count: int, margin_mm: float
) -> tuple[list[Aligned], Box]:
    """The atlases most like the target after affine registration, best first, and where to look.

    Similarity is the correlation of intensities in the box around all aligned atlases' organs;
    ties keep the order given.

    Raises:
        ValueError: If there is no atlas.
    """
    if not atlases:
        raise ValueError("atlases: there is none; give one labelled scan at least")
    affines = [align(target, atlas) for atlas in atlases]
    box = organ_region(target, atlases, affines, margin_mm)
    region = crop(target.image, box)
    voxels = to_xyz(region)
    aligned = [
        Aligned(
            atlas=atlas,
            affine=affine,
            similarity=_correlation(voxels, to_xyz(warp_image(atlas, region, affine))),
        )
        for atlas, affine in zip(atlases, affines, strict=True)
    ]
    return sorted(aligned, key=lambda one: -one.similarity)[:count], box


def on_whole_grid(
    probabilities: NDArray[np.float32], target: Volume, box: Box
) -> NDArray[np.float32]:
    """Probabilities of a box on the target's full grid, background around it."""
    whole = np.zeros((len(probabilities), *target.image.GetSize()), np.float32)
    whole[0] = 1
    whole[(slice(None), *box)] = probabilities
    return whole


def _fuse(
    target: NDArray[np.float32],
    images: NDArray[np.float32],
    votes: NDArray[np.float32],
    options: MalfOptions,
) -> NDArray[np.float32]:
    if options.fusion == "majority" or (options.fusion == "staple" and len(votes) == 1):
        return majority_vote(votes)
    if options.fusion == "staple":
        return staple(votes)
    return locally_weighted_vote(target, images, votes, radius=options.radius, power=options.power)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's, 0 where either is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
