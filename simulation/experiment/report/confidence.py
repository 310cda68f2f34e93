"""How well the confidence map separates right voxels from wrong ones."""

from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from reporting.blocks import Section, Text
from simulation.experiment.report.formatting import (
    PAGE_ONLY,
    Column,
    line_table,
    mean_sd,
    signed,
    signed_span,
    span,
)
from simulation.experiment.report.results import Results, chosen
from simulation.experiment.report.statistics import (
    PLACE,
    Difference,
    Scores,
    Summary,
    case_means,
    difference,
    summarise,
)

Map = Literal["confidence", "softmax"]
Region = Literal["all", "organs"]
Value = Literal["auroc", "calibration_error"]
MAPS: tuple[Map, ...] = ("confidence", "softmax")
REGIONS: dict[Region, str] = {"all": "all voxels", "organs": "voxels predicted as an organ"}
MAP_NAMES: dict[Map, str] = {"confidence": "M", "softmax": "maximum softmax"}
TITLE = "The confidence map against correctness"
_COLUMNS: tuple[Column, ...] = (
    ("method", lambda line: line.method),
    ("map", lambda line: MAP_NAMES[line.map]),
    ("AUROC", lambda line: mean_sd(line.auroc)),
    ("interval", lambda line: span(line.auroc.interval)),
    ("M minus softmax", lambda line: signed(line.lead.mean) if line.lead else ""),
    ("interval", lambda line: signed_span(line.lead.interval) if line.lead else ""),
    ("calibration error", lambda line: mean_sd(line.calibration_error)),
    ("interval", lambda line: span(line.calibration_error.interval)),
    ("scans", lambda line: str(line.calibration_error.n)),
)


@dataclass(frozen=True, kw_only=True)
class ConfidenceLine:
    """One map of one method in one region, over withheld cases; `lead` is M's over the softmax."""

    region: Region
    method: str
    map: Map
    auroc_undefined: int
    auroc: Summary
    calibration_error: Summary
    lead: Difference | None = field(metadata=PAGE_ONLY)


def map_values(results: Results, method: str, which: Map, region: Region, value: Value) -> Scores:
    """AUROC or calibration error by place, in the results' setting; NaN: AUROC is undefined."""
    lines = chosen(
        results.confidence, method=method, setting=results.setting, score=which, region=region
    )
    return lines.set_index(PLACE)[value]


def m_against_softmax(results: Results, method: str, region: Region) -> Difference:
    """AUROC of M minus that of the maximum softmax on the same cases."""
    one, other = (map_values(results, method, which, region, "auroc") for which in MAPS)
    return difference(one, other, over_folds=True)


def confidence_lines(results: Results) -> list[ConfidenceLine]:
    """Every method that has such figures."""
    lines = []
    for region, method, which in product(REGIONS, results.methods, MAPS):
        auroc = map_values(results, method, which, region, "auroc")
        error = map_values(results, method, which, region, "calibration_error")
        if len(error):
            lines.append(
                ConfidenceLine(
                    region=region,
                    method=method,
                    map=which,
                    auroc_undefined=int(auroc.isna().sum()),
                    auroc=summarise(case_means(auroc, over_folds=True)),
                    calibration_error=summarise(case_means(error, over_folds=True)),
                    lead=m_against_softmax(results, method, region) if which == MAPS[0] else None,
                )
            )
    return lines


def confidence_section(results: Results) -> Section:
    """AUROC and calibration error of both maps, by method."""
    lines = confidence_lines(results)
    if not lines:
        text = f"No complete {results.setting} run has figures of a confidence map."
        return Section(title=TITLE, blocks=(Text(text=text),))
    table = line_table(
        "confidence",
        "How well a map separates right voxels from wrong ones, on withheld scans",
        lines,
        _COLUMNS,
        by="region",
        titles=REGIONS,
        note="Mean (SD) over scans, 95% interval by bootstrap over scans. The calibration error "
        "is the expected one in ten equal bins. In the paper's form M was trained to separate maps "
        "from labels, so it is no probability of being right: its calibration error shows how far "
        "it is from one. A form that learns correctness is meant to be one.",
    )
    text = (
        f"{results.setting.capitalize()} runs. AUROC .5: the map knows nothing of where the "
        "segmentation is right; 1: all. M is the confidence network's map; the maximum softmax "
        "costs nothing to have. Scans are unlabelled training scans whose labels only the "
        "experiment knows."
    )
    return Section(title=TITLE, blocks=(Text(text=text), table))
