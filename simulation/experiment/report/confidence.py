"""What the confidence map is worth: does it tell right voxels from wrong ones?"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

from reporting.blocks import Section, Table, Text
from simulation.experiment.report.formatting import (
    groups,
    mean_sd,
    records,
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


@dataclass(frozen=True, kw_only=True)
class ConfidenceLine:
    """One map of one method in one region, over withheld cases."""

    region: Region
    method: str
    map: Map
    auroc_undefined: int
    auroc: Summary
    calibration_error: Summary


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
                )
            )
    return lines


def confidence_section(results: Results) -> Section:
    """AUROC and calibration error of both maps, by method."""
    lines = confidence_lines(results)
    if not lines:
        text = f"No complete {results.setting} run has figures of a confidence map."
        return Section(title=TITLE, blocks=(Text(text=text),))
    table = Table(
        name="confidence",
        caption="How well a map tells right voxels from wrong ones, on withheld scans",
        header=(
            "method",
            "map",
            "AUROC",
            "interval",
            "M minus softmax",
            "interval",
            "calibration error",
            "interval",
            "scans",
        ),
        groups=groups(lines, "region", lambda line: _cells(results, line), REGIONS),
        note="Mean (SD) over scans, 95% interval by bootstrap over scans. The calibration error "
        "is the expected one in ten equal bins. In the paper's form M was trained to tell maps "
        "from labels, so it is no probability of being right: its calibration error says how far "
        "it is from one. A form that learns correctness is meant to be one.",
        records=records(lines),
    )
    text = (
        f"{results.setting.capitalize()} runs. AUROC .5: the map knows nothing of where the "
        "segmentation is right; 1: all. M is the confidence network's map; the maximum softmax "
        "costs nothing to have. Scans are unlabelled training scans whose labels the study alone "
        "knows."
    )
    return Section(title=TITLE, blocks=(Text(text=text), table))


def _cells(results: Results, line: ConfidenceLine) -> tuple[str, ...]:
    gap = m_against_softmax(results, line.method, line.region) if line.map == "confidence" else None
    return (
        line.method,
        MAP_NAMES[line.map],
        mean_sd(line.auroc),
        span(line.auroc.interval),
        signed(gap.mean) if gap else "",
        signed_span(gap.interval) if gap else "",
        mean_sd(line.calibration_error),
        span(line.calibration_error.interval),
        str(line.calibration_error.n),
    )
