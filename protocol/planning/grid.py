"""The spacing of a study, and what its grid must keep of scans and organs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protocol.planning.budget import PlanError
from protocol.planning.fingerprint import AXES, Fingerprint, pooled, quantile_over
from protocol.planning.rules import ANISOTROPY, COARSE_QUANTILE, COVERED_QUANTILE, ORGAN_EDGE
from protocol.planning.topology import Millimetres


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The cohort's scans, over all sites' cases.

    Attributes:
        spacing_mm: Finest grid that is worth its voxels.
        extent_mm: Of the median scan.
        covered_mm: What a patch is to cover: the largest organ.
        thinnest_mm: Of the smallest organ; the grid is no coarser than a part of it.
        coarse: The coarse axis, where there is one.
    """

    spacing_mm: Millimetres
    extent_mm: Millimetres
    covered_mm: Millimetres
    thinnest_mm: Millimetres
    coarse: int | None

    def coarser(self, factor: float) -> Millimetres:
        """The grid with its finest edges raised, by `factor` at most, and by no more than allowed.

        Coarse axes stay as they are, so that voxels become more nearly cubes.
        """
        floor = min(self.spacing_mm) * factor
        x, y, z = (
            round(max(own, min(floor, thin / ORGAN_EDGE)), 4)
            for own, thin in zip(self.spacing_mm, self.thinnest_mm, strict=True)
        )
        return (x, y, z)

    @property
    def spacing_reason(self) -> str:
        """Why the grid is as it is, before any budget."""
        if self.coarse is None:
            return "median spacing of the sites' scans"
        return (
            f"median spacing of the sites' scans; along {AXES[self.coarse]}, which is coarse (over"
            f" {ANISOTROPY:g} times the others), their tenth percentile"
        )


def geometry_of(fingerprints: Mapping[str, Fingerprint]) -> Geometry:
    """What the cohort's scans are like.

    Raises:
        PlanError: No site has enough training cases, or none has labels.
    """
    spacing, size, extent = (
        quantile_over(fingerprints, field, 0.5)
        for field in ("spacing_mm", "size_voxels", "extent_mm")
    )
    if spacing is None or size is None or extent is None:
        counts = ", ".join(f"{s} {f.labelled + f.unlabelled}" for s, f in fingerprints.items())
        raise PlanError(
            f"fingerprints: no site says anything of its scans (training cases: {counts}); a site"
            " needs min_cases_reported of its own file; plan when there are more cases"
        )
    covered = [_organs(fingerprints, axis, COVERED_QUANTILE) for axis in range(3)]
    thin = [_organs(fingerprints, axis, 0.5) for axis in range(3)]
    if not all(covered):
        counts = ", ".join(f"{site} {f.labelled}" for site, f in fingerprints.items())
        raise PlanError(
            f"fingerprints: no site says anything of its organs (labelled cases: {counts}); a site"
            " needs min_cases_reported of them; plan when there are more labels"
        )
    coarse = _coarse_axis(spacing, size)
    own = list(spacing)
    if coarse is not None:
        fine = quantile_over(fingerprints, "spacing_mm", COARSE_QUANTILE) or spacing
        others = max(mm for axis, mm in enumerate(spacing) if axis != coarse)
        own[coarse] = max(fine[coarse], others)
    x, y, z = (round(mm, 4) for mm in own)
    return Geometry(
        spacing_mm=(x, y, z),
        extent_mm=extent,
        covered_mm=(max(covered[0]), max(covered[1]), max(covered[2])),
        thinnest_mm=(min(thin[0]), min(thin[1]), min(thin[2])),
        coarse=coarse,
    )


def _coarse_axis(spacing: Millimetres, size: Millimetres) -> int | None:
    """The axis whose voxels are much longer and whose size is much smaller than the others'."""
    axis = int(np.argmax(spacing))
    longer = spacing[axis] > ANISOTROPY * max(np.delete(spacing, axis))
    smaller = size[axis] * ANISOTROPY < min(np.delete(size, axis))
    return axis if longer and smaller else None


def _organs(fingerprints: Mapping[str, Fingerprint], axis: int, level: float) -> list[float]:
    """By organ that any site says something of, a quantile of its extent along an axis, mm."""
    names = dict.fromkeys(name for f in fingerprints.values() for name in f.organs)
    extents = (
        pooled(
            (f.organs[name].extent_mm[axis] for f in fingerprints.values() if name in f.organs),
            level,
        )
        for name in names
    )
    return [extent for extent in extents if extent is not None]
