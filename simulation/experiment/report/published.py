"""Tables 1 and 2 of the paper compared with ours."""

from dataclasses import dataclass

from asdnet_models.sums import FAILURE_KINDS, FailureCount
from reporting.blocks import Block, Section, Table, Text
from simulation.experiment.methods import METHODS
from simulation.experiment.report.formatting import (
    Column,
    line_table,
    mean_sd,
    number,
    p_value,
    span,
)
from simulation.experiment.report.results import Results, Score
from simulation.experiment.report.statistics import Summary, holm
from simulation.experiment.store import SETTINGS, Setting

TABLES = (1, 2)
_SCORES: tuple[Score, ...] = ("dsc", "asd_mm")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method and organ of a table; `p` are Holm-corrected, None for the reference itself."""

    organ: str
    method: str
    paper_dsc: float | None
    paper_asd_mm: float | None
    p_dsc: float | None
    p_asd_mm: float | None
    failures: int
    missed: int
    made_up: int
    far_off: int
    asd_undefined: int
    segmentations: int
    dsc: Summary
    asd_mm: Summary
    hd95_mm: Summary
    nsd: Summary


_COLUMNS: tuple[Column, ...] = (
    ("method", lambda line: line.method),
    ("paper DSC", lambda line: number(line.paper_dsc)),
    ("our DSC", lambda line: mean_sd(line.dsc)),
    ("interval", lambda line: span(line.dsc.interval)),
    ("p", lambda line: p_value(line.p_dsc)),
    ("paper ASD, mm", lambda line: number(line.paper_asd_mm)),
    ("our ASD, mm", lambda line: mean_sd(line.asd_mm, 2)),
    ("interval, mm", lambda line: span(line.asd_mm.interval, 2)),
    ("p", lambda line: p_value(line.p_asd_mm)),
    ("HD95, mm", lambda line: number(line.hd95_mm.mean, 2)),
    ("NSD", lambda line: number(line.nsd.mean)),
    ("failures", lambda line: f"{_failures(line)} of {line.segmentations}"),
)


def _failures(line: Line) -> str:
    """How many by kind; of older results, which do not say how, only how many."""
    kinds = {kind: getattr(line, kind) for kind in FAILURE_KINDS}
    told = FailureCount(cases=line.segmentations, **kinds)
    return str(told) if told.total and told.total == line.failures else str(line.failures)


def table_methods(results: Results, table: int, setting: Setting) -> tuple[str, ...]:
    """Methods of a paper's table with a complete run; those it has not come with Table 2."""

    def tables(method: str) -> tuple[int, ...]:
        return (METHODS[method].tables if method in METHODS else ()) or (2,)

    return tuple(method for method in results.methods_of(setting) if table in tables(method))


def table_lines(
    results: Results, methods: tuple[str, ...], setting: Setting, reference: str
) -> list[Line]:
    """By organ and method; Holm's correction over all comparisons of one score in the table."""
    pairs = [(organ, method) for organ in results.info.organs for method in methods]
    p_values = {score: _corrected(results, pairs, setting, reference, score) for score in _SCORES}
    lines = []
    for (organ, method), p_dsc, p_asd_mm in zip(pairs, *p_values.values(), strict=True):
        published = METHODS[method].published.get(organ) if method in METHODS else None
        cases = results.cases_of(method, setting, organ)
        lines.append(
            Line(
                organ=organ,
                method=method,
                paper_dsc=published[0] if published else None,
                paper_asd_mm=published[1] if published else None,
                p_dsc=p_dsc,
                p_asd_mm=p_asd_mm,
                failures=int(cases.failure.notna().sum()),
                **{kind: int((cases.failure == kind).sum()) for kind in FAILURE_KINDS},
                asd_undefined=int(cases.asd_mm.isna().sum()),
                segmentations=len(cases),
                dsc=results.summary("dsc", method, setting, organ),
                asd_mm=results.summary("asd_mm", method, setting, organ),
                hd95_mm=results.summary("hd95_mm", method, setting, organ),
                nsd=results.summary("nsd", method, setting, organ),
            )
        )
    return lines


def _corrected(
    results: Results, pairs: list[tuple[str, str]], setting: Setting, reference: str, score: Score
) -> list[float | None]:
    """Wilcoxon against the reference, by organ and method."""
    return holm(
        [
            None
            if method == reference
            else results.difference(score, (reference, setting), (method, setting), organ).p
            for organ, method in pairs
        ]
    )


def published_section(results: Results, reference: str) -> Section:
    """Both tables, federated first; the other settings for the methods that have them."""
    blocks: list[Block] = [
        Text(
            text="Mean (SD) over test cases, seeds of a case averaged first. Interval: 95%, "
            "bootstrap over cases. p: paired Wilcoxon signed-rank test against "
            f"{reference}, Holm-corrected over all rows and organs of the table, for each score "
            "on its own. A failure is a segmentation where the organ was missed, or made up "
            "where there is none (then its distances are undefined and in no mean), or misplaced: "
            "it overlaps by nothing, or its ASD is over a tenth of the scan's longest edge. HD95 "
            "is the 95th percentile of the surface distances, NSD the surface Dice"
            f"{_at(results)}."
        )
    ]
    if results.is_synthetic():
        blocks.append(
            Text(
                text="The paper's figures are of clinical scans, ours of synthetic phantoms: "
                "compare the order of the rows, never the values.",
                tone="caution",
            )
        )
    for setting in SETTINGS:
        for table in TABLES:
            methods = table_methods(results, table, setting)
            if methods:
                blocks.append(_table(results, table, setting, reference, methods))
            elif setting == "federated":
                blocks.append(Text(text=f"Table {table}: no federated run is complete yet."))
    return Section(title="The paper's tables and ours", blocks=tuple(blocks))


def _at(results: Results) -> str:
    tolerance_mm = results.info.protocol.get("evaluation", {}).get("nsd_tolerance_mm")
    return f" at {tolerance_mm:g} mm" if tolerance_mm else ""


def _table(
    results: Results, table: int, setting: Setting, reference: str, methods: tuple[str, ...]
) -> Table:
    lines = table_lines(results, methods, setting, reference)
    missing = [m for m, row in METHODS.items() if table in row.tables and m not in methods]
    notes = []
    if reference not in methods:
        notes.append(f"{reference} has no {setting} run, so there are no p.")
    if missing and setting == "federated":
        notes.append(f"Not run or not complete: {', '.join(missing)}.")
    return line_table(
        f"table{table}_{setting}",
        f"Table {table}, {setting}",
        lines,
        _COLUMNS,
        by="organ",
        note=" ".join(notes),
    )
