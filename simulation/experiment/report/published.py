"""Tables 1 and 2 of the paper beside ours."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from reporting.blocks import Block, Group, Section, Table, Text
from simulation.experiment.methods import ROWS
from simulation.experiment.report.formatting import mean_sd, number, p_value, span
from simulation.experiment.report.results import Book, Score
from simulation.experiment.report.statistics import (
    Difference,
    Summary,
    case_means,
    difference,
    holm,
    summarise,
)
from simulation.experiment.store import WAYS, Way

TABLES = (1, 2)
_SCORES: tuple[Score, ...] = ("dsc", "asd_mm")


class Line(BaseModel):
    """One row and organ of a table; `p` are Holm-corrected, None for the reference itself."""

    model_config = ConfigDict(frozen=True)

    organ: str
    row: str
    paper_dsc: float | None
    paper_asd_mm: float | None
    dsc: Summary
    asd_mm: Summary
    p_dsc: float | None
    p_asd_mm: float | None
    failures: int
    asd_undefined: int
    segmentations: int


def table_rows(book: Book, table: int, way: Way) -> tuple[str, ...]:
    """Rows of a paper's table with a complete run; rows that it has not come with Table 2."""

    def tables(row: str) -> tuple[int, ...]:
        return (ROWS[row].tables if row in ROWS else ()) or (2,)

    return tuple(row for row in book.rows_of(way) if table in tables(row))


def table_lines(book: Book, rows: tuple[str, ...], way: Way, reference: str) -> list[Line]:
    """By organ and row; Holm's correction over all comparisons of one score in the table."""
    pairs = [(organ, row) for organ in book.info.organs for row in rows]
    p_values = {score: _corrected(book, pairs, way, reference, score) for score in _SCORES}
    lines = []
    for number_, (organ, row) in enumerate(pairs):
        published = ROWS[row].published.get(organ) if row in ROWS else None
        dsc, asd = (summarise(case_means(book.scores(score, row, way, organ))) for score in _SCORES)
        failures, undefined, segmentations = book.failures(row, way, organ)
        lines.append(
            Line(
                organ=organ,
                row=row,
                paper_dsc=published[0] if published else None,
                paper_asd_mm=published[1] if published else None,
                dsc=dsc,
                asd_mm=asd,
                p_dsc=p_values["dsc"][number_],
                p_asd_mm=p_values["asd_mm"][number_],
                failures=failures,
                asd_undefined=undefined,
                segmentations=segmentations,
            )
        )
    return lines


def _corrected(
    book: Book, pairs: list[tuple[str, str]], way: Way, reference: str, score: Score
) -> list[float | None]:
    """Wilcoxon against the reference, by organ and row."""
    return holm(
        [
            None
            if row == reference
            else difference(
                book.scores(score, reference, way, organ), book.scores(score, row, way, organ)
            ).p
            for organ, row in pairs
        ]
    )


def published_section(book: Book, reference: str) -> Section:
    """Both tables, federated first; pooled and local for the rows that have them."""
    blocks: list[Block] = [
        Text(
            text="Mean (SD) over test cases, seeds of a case averaged first. Interval: 95%, "
            "bootstrap over cases. p: paired Wilcoxon signed-rank test against "
            f"{reference}, Holm-corrected over all rows and organs of the table, for each score "
            "on its own. A failure is a segmentation where the organ was missed, or "
            "found where there is none; its ASD is undefined and in no mean."
        )
    ]
    if book.is_synthetic():
        blocks.append(
            Text(
                text="The paper's figures are of clinical scans, ours of synthetic phantoms: "
                "compare the order of the rows, never the values.",
                tone="caution",
            )
        )
    for way in WAYS:
        for table in TABLES:
            rows = table_rows(book, table, way)
            if rows:
                blocks.append(_table(book, table, way, reference, rows))
            elif way == "federated":
                blocks.append(Text(text=f"Table {table}: no federated run is complete yet."))
    return Section(title="The paper's tables beside ours", blocks=tuple(blocks))


def _table(book: Book, table: int, way: Way, reference: str, rows: tuple[str, ...]) -> Table:
    lines = table_lines(book, rows, way, reference)
    missing = [r for r, row in ROWS.items() if table in row.tables and r not in rows]
    notes = [] if reference in rows else [f"{reference} has no {way} run, so there are no p."]
    if missing and way == "federated":
        notes.append(f"Not run or not complete: {', '.join(missing)}.")
    groups = tuple(
        Group(title=organ, rows=tuple(_cells(line) for line in lines if line.organ == organ))
        for organ in book.info.organs
    )
    return Table(
        name=f"table{table}_{way}",
        caption=f"Table {table}, {way}",
        header=(
            "method",
            "paper DSC",
            "our DSC",
            "interval",
            "p",
            "paper ASD, mm",
            "our ASD, mm",
            "interval, mm",
            "p",
            "failures",
        ),
        groups=groups,
        note=" ".join(notes),
        records=tuple(_record(line) for line in lines),
    )


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.row,
        number(line.paper_dsc),
        mean_sd(line.dsc),
        span(line.dsc.interval),
        p_value(line.p_dsc),
        number(line.paper_asd_mm),
        mean_sd(line.asd_mm, 2),
        span(line.asd_mm.interval, 2),
        p_value(line.p_asd_mm),
        f"{line.failures} of {line.segmentations}",
    )


def _record(line: Line) -> dict[str, Any]:
    content = line.model_dump(exclude={"dsc", "asd_mm"})
    for score, summary in (("dsc", line.dsc), ("asd_mm", line.asd_mm)):
        content |= summary_record(summary, score)
    return content


def summary_record(summary: Summary, prefix: str) -> dict[str, Any]:
    """The columns of a summary in a CSV."""
    ends = summary.interval
    return {
        f"{prefix}_n": summary.n,
        f"{prefix}_mean": summary.mean,
        f"{prefix}_sd": summary.sd,
        f"{prefix}_low": ends.low if ends else None,
        f"{prefix}_high": ends.high if ends else None,
    }


def difference_record(found: Difference, prefix: str) -> dict[str, Any]:
    """The columns of a difference in a CSV."""
    ends = found.interval
    return {
        f"{prefix}_n": found.n,
        f"{prefix}_mean": found.mean,
        f"{prefix}_low": ends.low if ends else None,
        f"{prefix}_high": ends.high if ends else None,
        f"{prefix}_p": found.p,
    }
