"""Which unlabelled scans a reader should draw next: those that are doubted, and unlike the others.

The order is greedy: next is the scan whose expected error times the distance to the nearest scan
that is labelled or listed before is largest.  Of two that are alike the second has no distance
left, so that the list is not ten times the same kind of scan.

Sources: Sener and Savarese, ICLR 2018 (core-sets: the distance alone); Nath et al., IEEE TMI 2021
(doubt and diversity in 3D medical scans).  What makes two scans alike is ours, and so is that the
error is what M expects.  docs/results/next-to-label.md has other rules beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from asdnet_models.expected_dice import expected_dsc

# A feature so many standard deviations off says "odd"; how much odder is no matter.
_ODDEST = 3.0
# So far from an organ a doubted voxel may be its own.
_NEAR_MM = 3.0
# What a large value of a feature is called, and a small one.
Feature = tuple[str, str]
_OF_ORGAN: tuple[Feature, ...] = (
    ("large", "small"),
    ("wide", "narrow"),
    ("deep", "flat"),
    ("tall", "short"),
    ("bright", "dark"),
    ("uneven", "even"),
)
_OF_SCAN: tuple[Feature, ...] = (
    ("wide field of view", "narrow field of view"),
    ("deep field of view", "flat field of view"),
    ("tall field of view", "short field of view"),
    ("grainy from left to right", "smooth from left to right"),
    ("grainy from front to back", "smooth from front to back"),
    ("grainy from top to bottom", "smooth from top to bottom"),
)


@dataclass(frozen=True, kw_only=True)
class SegmentedScan:
    """What the model makes of one scan.

    Attributes:
        name: The case's; no two alike.
        expected_dsc: By organ that a reader of this site would draw, one at least.
        features: As `scan_features` has them, of the same organs in every scan.
    """

    name: str
    expected_dsc: Mapping[str, float]
    features: Mapping[Feature, float]

    @property
    def expected_error(self) -> float:
        """1 less the mean expected DSC."""
        return 1 - sum(self.expected_dsc.values()) / len(self.expected_dsc)


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One line of the list.

    Attributes:
        scan: To be labelled.
        why: In words, for the reader.
    """

    scan: SegmentedScan
    why: str


def segmented_scan(
    name: str,
    image_xyz: NDArray[np.float32],
    probabilities: Tensor,
    trust: Tensor,
    spacing_mm: Sequence[float],
    organs: Sequence[str],
    *,
    drawn: Collection[str],
) -> SegmentedScan:
    """A scan as the model sees it.

    Args:
        name: The case's.
        image_xyz: Normalised, on the study's grid.
        probabilities: S's, (1, C, X, Y, Z).
        trust: M, or the maximum softmax, (1, 1, X, Y, Z).
        spacing_mm: Of the grid.
        organs: The study's, in the order of the channels.
        drawn: Those that this site annotates; one at least.
    """
    predicted = probabilities.argmax(1)[0].cpu().numpy()
    near = torch.from_numpy(surroundings(predicted > 0, spacing_mm)).to(trust.device)
    # Far from every organ there is much background, and a map that doubts it a little would count
    # more missed voxels than an organ has.
    scores = expected_dsc(probabilities, torch.where(near, trust, 1)).tolist()
    return SegmentedScan(
        name=name,
        expected_dsc={o: s for o, s in zip(organs, scores, strict=True) if o in drawn},
        features=scan_features(image_xyz, predicted, spacing_mm, organs),
    )


def surroundings(
    predicted_xyz: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.bool_]:
    """What is predicted and 3 mm around it, a voxel at least; all where nothing is predicted."""
    if not predicted_xyz.any():
        return np.ones_like(predicted_xyz)
    size = [2 * max(1, round(_NEAR_MM / mm)) + 1 for mm in spacing_mm]
    near: NDArray[np.bool_] = ndimage.maximum_filter(predicted_xyz, size)
    return near


def scan_features(
    image_xyz: NDArray[np.float32],
    predicted_xyz: NDArray[np.integer],
    spacing_mm: Sequence[float],
    organs: Sequence[str],
) -> dict[Feature, float]:
    """Size and intensity of each predicted organ, then size and grain of the scan.

    Args:
        image_xyz: Normalised.
        predicted_xyz: Class numbers, 0 is background.
        spacing_mm: Of the grid.
        organs: Names of the classes 1, 2, ...

    Returns:
        For each organ the edge of a cube of its volume, its extents along x, y and z (mm), mean
        and SD of the intensity; for the scan its extents (mm) and the mean absolute difference of
        neighbours along x, y and z.  Intensities of an organ that is nowhere are NaN.
    """
    spacing = np.asarray(spacing_mm, float)
    found: dict[Feature, float] = {}
    for number, organ in enumerate(organs, 1):
        places = np.argwhere(predicted_xyz == number)
        values = [0.0, 0.0, 0.0, 0.0, np.nan, np.nan]
        if len(places):
            inside = image_xyz[tuple(places.T)].astype(float)
            extents = (np.ptp(places, axis=0) + 1) * spacing
            edge = (len(places) * float(np.prod(spacing))) ** (1 / 3)
            values = [edge, *extents.tolist(), float(inside.mean()), float(inside.std())]
        words = [(f"{more} {organ}", f"{less} {organ}") for more, less in _OF_ORGAN]
        found |= dict(zip(words, values, strict=True))
    extents = np.array(image_xyz.shape) * spacing
    grain = [float(np.abs(np.diff(image_xyz, axis=axis)).mean(dtype=float)) for axis in range(3)]
    return found | dict(zip(_OF_SCAN, [*extents.tolist(), *grain], strict=True))


def suggest(
    unlabelled: Sequence[SegmentedScan],
    labelled: Sequence[SegmentedScan],
    *,
    doubters: str = "S and D doubt",
) -> list[Suggestion]:
    """Every unlabelled scan, in the order in which labels should teach most.

    Args:
        unlabelled: In any order, which changes nothing; equals are in the order of their names.
        labelled: What the model has learnt from; may be empty.
        doubters: Whose doubt it is, for the words.

    Returns:
        As many as `unlabelled`.
    """
    scans = sorted(unlabelled, key=lambda scan: scan.name)
    known = sorted(labelled, key=lambda scan: scan.name)
    if not scans:
        return []
    z = standardised([*scans, *known])
    new, old = z[: len(scans)], z[len(scans) :]
    errors = np.array([scan.expected_error for scan in scans])
    # Without any label all are as far from one, and the most doubted scan is the first.
    to_labels = distances(new, old).min(1) if known else np.ones(len(scans))
    nearest, left, listed = to_labels, list(range(len(scans))), []
    while left:
        one = max(left, key=lambda at: (errors[at] * nearest[at], errors[at], -at))
        left.remove(one)
        reasons = [
            _doubt(scans[one], doubters) if errors[one] >= np.median(errors) else "",
            _unlike(scans[one], new[one], old) if to_labels[one] >= np.median(to_labels) else "",
        ]
        why = "; ".join(filter(None, reasons)) or "like what is labelled or listed before"
        listed.append(Suggestion(scan=scans[one], why=why))
        to_one = distances(new, new[one, None])[:, 0]
        nearest = np.minimum(nearest, to_one) if known or len(listed) > 1 else to_one
    return listed


def standardised(scans: Sequence[SegmentedScan]) -> NDArray[np.float64]:
    """Features in standard deviations from their mean over these scans, at most 3 to each side.

    Returns:
        (scans, features); 0 where a feature is NaN, or the same in all scans.
    """
    table = np.array([list(scan.features.values()) for scan in scans])
    known = np.isfinite(table)
    counts = np.maximum(known.sum(0), 1)
    mean = np.where(known, table, 0).sum(0) / counts
    off = np.where(known, table - mean, 0)
    spread = np.sqrt((off**2).sum(0) / counts)
    # What differs by rounding alone does not differ.
    same = spread <= 1e-9 * np.maximum(np.abs(mean), 1e-9)
    off = np.where(same, 0, off / np.where(same, 1, spread))
    return np.clip(off, -_ODDEST, _ODDEST)


def distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square of the differences of two sets of scans, (scans of a, scans of b)."""
    root: NDArray[np.float64] = np.sqrt(((a[:, None] - b[None]) ** 2).mean(2))
    return root


def _doubt(scan: SegmentedScan, doubters: str) -> str:
    worst = min(scan.expected_dsc, key=scan.expected_dsc.__getitem__)
    if scan.expected_dsc[worst] == 0:
        return f"no {worst} found"
    return f"{doubters} the {worst} (expected DSC {scan.expected_dsc[worst]:.2f})"


def _unlike(scan: SegmentedScan, own: NDArray[np.float64], labelled: NDArray[np.float64]) -> str:
    """The two things that set it apart from the labelled scans most."""
    if not len(labelled):
        return ""
    off = own - labelled.mean(0)
    most = np.argsort(-np.abs(off), kind="stable")[:2]
    words = list(scan.features)
    return f"unlike the labelled scans ({', '.join(words[i][int(off[i] < 0)] for i in most)})"
