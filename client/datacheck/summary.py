"""Statistics of all cases of a site."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from client.data.grid_size import prediction_bytes
from client.datacheck.inspection import CaseReport
from client.datacheck.site import SiteCheck
from protocol.config.rules import Rule
from protocol.config.study import StudyProtocol

# Iglewicz & Hoaglin 1993: a modified z-score over 3.5 is an outlier; here of log-volumes.
_OUTLYING = 3.5
_CONSISTENT = 0.6745
_LEAST_FOR_OUTLIERS = 5


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    low: float
    middle: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A case whose organ is far larger or smaller than the site's others."""

    report: CaseReport
    organ: str
    volume_ml: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All cases together; nothing of it leaves the site.

    Attributes:
        used: Cases by part.
        refused: By rule.
        excluded: By the site's file.
        annotated: Labelled training cases in which each organ is drawn.
        volumes_ml: By organ, where it is there.
        outliers: Volumes to look at.
        formats, orientations, sizes, spacings: How often each is seen.
        intensity: Spread of the bodies' medians.
        identified: How many cases' headers hold each telling field.
        cache_bytes: What all cases take in the cache, estimated.
        memory_bytes: What predicting the largest case takes without the networks, estimated.
    """

    used: Mapping[str, int]
    refused: Mapping[Rule, int]
    excluded: int
    annotated: Mapping[str, int]
    volumes_ml: Mapping[str, Spread]
    outliers: Sequence[Outlier]
    formats: Mapping[str, int]
    orientations: Mapping[str, int]
    sizes: Mapping[str, int]
    spacings: Mapping[str, int]
    intensity: Spread | None
    identified: Mapping[str, int]
    cache_bytes: int
    memory_bytes: int


def summarise(check: SiteCheck, protocol: StudyProtocol) -> Summary:
    """Of the cases that are used; refusals are counted by rule."""
    used = [report for report in check.reports if report.status == "used"]
    measures = [report.measures for report in used if report.measures]
    volumes = {
        organ: [m.volumes_ml[organ] for m in measures if m.volumes_ml.get(organ, 0) > 0]
        for organ in protocol.organ_names
    }
    largest = max((m.study_voxels for m in measures), default=0)
    return Summary(
        used=Counter(str(report.part) for report in used),
        refused=check.facts.refused,
        excluded=check.facts.excluded,
        annotated=check.facts.annotated,
        volumes_ml={organ: spread for organ in volumes if (spread := _spread(volumes[organ]))},
        outliers=[o for organ in protocol.organ_names for o in _outliers(used, organ)],
        formats=_often(m.format for m in measures),
        orientations=_often(m.orientation for m in measures),
        sizes=_often(" x ".join(str(n) for n in m.size_xyz) for m in measures),
        spacings=_often(" x ".join(f"{mm:.3g}" for mm in m.spacing_mm_xyz) for m in measures),
        intensity=_spread([m.intensity[1] for m in measures]),
        identified=_often(name for m in measures for name in m.identifiers),
        cache_bytes=sum(m.cache_bytes for m in measures),
        memory_bytes=prediction_bytes(largest, protocol.classes),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(low=min(values), middle=median(values), high=max(values), count=len(values))


def _often(things: Iterable[str]) -> dict[str, int]:
    return dict(Counter(things).most_common())


def _outliers(used: Sequence[CaseReport], organ: str) -> list[Outlier]:
    """Volumes are skewed, so their logarithms are looked at; few or equal ones say nothing."""
    logs = {
        index: math.log(report.measures.volumes_ml[organ])
        for index, report in enumerate(used)
        if report.measures and report.measures.volumes_ml.get(organ, 0) > 0
    }
    if len(logs) < _LEAST_FOR_OUTLIERS:
        return []
    middle = median(logs.values())
    deviation = median(abs(value - middle) for value in logs.values())
    return [
        Outlier(report=used[index], organ=organ, volume_ml=math.exp(value))
        for index, value in logs.items()
        if _CONSISTENT * abs(value - middle) > _OUTLYING * deviation > 0
    ]
