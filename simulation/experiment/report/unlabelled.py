"""What unlabelled scans and the confidence network add to the supervised method, in every way."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from reporting.blocks import Group, Section, Table, Text
from simulation.experiment.methods import ROWS
from simulation.experiment.report.formatting import mean_sd, p_value, signed, signed_span
from simulation.experiment.report.published import difference_record, summary_record
from simulation.experiment.report.results import Book, Part
from simulation.experiment.report.statistics import (
    Difference,
    Summary,
    case_means,
    difference,
    summarise,
)
from simulation.experiment.store import WAYS, Way

TITLE = "What the unlabelled scans add"
SUPERVISED = "AttSVNet"
# Rows that differ from the supervised one in more than what they learn without labels.
_OTHER_NETWORKS = {"VNet", "SVNet", SUPERVISED}
_PARTS: dict[Part, str] = {
    "test": "test scans",
    "withheld": "unlabelled training scans",
}


class GainLine(BaseModel):
    """One row against the supervised one, trained in the same way, on one part."""

    model_config = ConfigDict(frozen=True)

    part: Part
    way: Way
    row: str
    score: Summary
    gain: Difference


def gain_lines(book: Book) -> Iterator[GainLine]:
    """Every row that has a supervised counterpart; mean DSC over organs, one value a case."""
    rows = [
        row
        for row in book.rows
        if row not in _OTHER_NETWORKS and (row not in ROWS or ROWS[row].tables != (1,))
    ]
    for part in _PARTS:
        over_folds = part == "withheld"
        for way in WAYS:
            supervised = book.scores("dsc", SUPERVISED, way, part=part)
            for row in rows:
                scores = book.scores("dsc", row, way, part=part)
                gain = difference(scores, supervised, over_folds=over_folds)
                if gain.n:
                    score = summarise(case_means(scores, over_folds=over_folds))
                    yield GainLine(part=part, way=way, row=row, score=score, gain=gain)


def unlabelled_section(book: Book) -> Section:
    """Gains over the supervised method, on test scans and on the unlabelled ones."""
    lines = list(gain_lines(book))
    if not lines:
        text = f"No way has complete runs of {SUPERVISED} and of a method beside it yet."
        return Section(title=TITLE, blocks=(Text(text=text),))
    table = Table(
        name="unlabelled",
        caption=f"Mean DSC over organs against {SUPERVISED}, the same without unlabelled scans",
        header=("method", "way", "DSC", f"minus {SUPERVISED}", "interval", "p", "scans"),
        groups=tuple(
            Group(title=name, rows=tuple(_cells(line) for line in lines if line.part == part))
            for part, name in _PARTS.items()
            if any(line.part == part for line in lines)
        ),
        note="Labels of unlabelled scans are known to the study alone. Paired by case, seeds "
        "averaged; 95% interval by bootstrap over cases, Wilcoxon's p, not corrected.",
        records=tuple(_record(line) for line in lines),
    )
    return Section(title=TITLE, blocks=(table,))


def _cells(line: GainLine) -> tuple[str, ...]:
    return (
        line.row,
        line.way,
        mean_sd(line.score),
        signed(line.gain.mean),
        signed_span(line.gain.interval),
        p_value(line.gain.p),
        str(line.gain.n),
    )


def _record(line: GainLine) -> dict[str, Any]:
    return {
        "part": line.part,
        "way": line.way,
        "row": line.row,
        **summary_record(line.score, "dsc"),
        **difference_record(line.gain, "gain"),
    }
