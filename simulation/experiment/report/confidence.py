"""What the confidence map is worth: does it tell right voxels from wrong ones?"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from reporting.blocks import Group, Section, Table, Text
from simulation.experiment.report.formatting import mean_sd, signed, signed_span, span
from simulation.experiment.report.published import summary_record
from simulation.experiment.report.results import Book
from simulation.experiment.report.statistics import (
    Difference,
    Place,
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


class TrustLine(BaseModel):
    """One map of one row in one region, over withheld cases."""

    model_config = ConfigDict(frozen=True)

    region: Region
    row: str
    map: Map
    auroc: Summary
    auroc_undefined: int
    calibration_error: Summary


def map_values(book: Book, row: str, which: Map, region: Region, value: Value) -> Scores:
    """AUROC or calibration error by place, in the book's way; None where AUROC is undefined."""
    found: dict[Place, float | None] = {}
    for run in book.runs_of(row, book.way):
        key = run.info.key
        for item in run.confidence:
            if (item.score, item.region) == (which, region):
                found[Place(key.fold, key.seed, item.site, item.case)] = getattr(item, value)
    return found


def m_against_softmax(book: Book, row: str, region: Region) -> Difference:
    """AUROC of M minus that of the maximum softmax on the same cases."""
    one, other = (map_values(book, row, which, region, "auroc") for which in MAPS)
    return difference(one, other, over_folds=True)


def trust_lines(book: Book) -> list[TrustLine]:
    """Every row that has such figures."""
    lines = []
    for region in REGIONS:
        for row in book.rows:
            for which in MAPS:
                auroc = map_values(book, row, which, region, "auroc")
                error = map_values(book, row, which, region, "calibration_error")
                if error:
                    lines.append(
                        TrustLine(
                            region=region,
                            row=row,
                            map=which,
                            auroc=summarise(case_means(auroc, over_folds=True)),
                            auroc_undefined=sum(v is None for v in auroc.values()),
                            calibration_error=summarise(case_means(error, over_folds=True)),
                        )
                    )
    return lines


def trust_section(book: Book) -> Section:
    """AUROC and calibration error of both maps, by row."""
    lines = trust_lines(book)
    if not lines:
        text = f"No complete {book.way} run has figures of a confidence map."
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
        groups=tuple(
            Group(
                title=name,
                rows=tuple(_cells(book, line) for line in lines if line.region == region),
            )
            for region, name in REGIONS.items()
        ),
        note="Mean (SD) over scans, 95% interval by bootstrap over scans. The calibration error "
        "is the expected one in ten equal bins. In the paper's form M was trained to tell maps "
        "from labels, so it is no probability of being right: its calibration error says how far "
        "it is from one. A form that learns correctness is meant to be one.",
        records=tuple(_record(line) for line in lines),
    )
    text = (
        f"{book.way.capitalize()} runs. AUROC .5: the map knows nothing of where the segmentation "
        "is right; 1: all. M is the confidence network's map; the maximum softmax costs nothing "
        "to have. Scans are unlabelled training scans whose labels the study alone knows."
    )
    return Section(title=TITLE, blocks=(Text(text=text), table))


def _cells(book: Book, line: TrustLine) -> tuple[str, ...]:
    gap = m_against_softmax(book, line.row, line.region) if line.map == "confidence" else None
    return (
        line.row,
        MAP_NAMES[line.map],
        mean_sd(line.auroc),
        span(line.auroc.interval),
        signed(gap.mean) if gap else "",
        signed_span(gap.interval) if gap else "",
        mean_sd(line.calibration_error),
        span(line.calibration_error.interval),
        str(line.calibration_error.n),
    )


def _record(line: TrustLine) -> dict[str, object]:
    content: dict[str, object] = {"region": line.region, "row": line.row, "map": line.map}
    content["auroc_undefined"] = line.auroc_undefined
    for name, summary in (("auroc", line.auroc), ("calibration_error", line.calibration_error)):
        content |= summary_record(summary, name)
    return content
