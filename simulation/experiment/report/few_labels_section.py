"""The report's section on few labels: rows, sites, and what has been published."""

from collections.abc import Sequence
from typing import Any

from protocol.wording import counted
from reporting.blocks import Block, Group, Section, Table, Text
from simulation.experiment.benchmarks import BENCHMARKS
from simulation.experiment.report.all_labels import AllLabels
from simulation.experiment.report.few_labels import (
    FewLine,
    few_lines,
    labels_words,
    of_all_words,
    site_lines,
)
from simulation.experiment.report.formatting import (
    NONE,
    Column,
    line_table,
    mean_sd,
    number,
    p_value,
    signed,
    signed_span,
)
from simulation.experiment.report.results import Results
from simulation.experiment.store import SETTINGS, ExperimentInfo

_HOW = (
    "Mean DSC over organs on the test scans. A gain is the row minus {reference} on the same "
    "scans, with the same labels. Another seed labels other scans, so the 95% interval is over "
    "scans and seeds, as for many readers and many cases (Dorfman, Berbaum and Metz 1992; Hillis "
    "2007), and p is Holm-corrected over the rows of a setting. With one seed both are over scans "
    "alone, and say nothing of other labels."
)


def few_labels_section(
    results: Results, reference: str, all_labels: AllLabels | None = None
) -> Section:
    """All settings, the sites of the one that rows are compared in, and published figures."""
    lines = [line for way in SETTINGS for line in few_lines(results, reference, way, all_labels)]
    blocks: list[Block] = [
        Text(text=_HOW.format(reference=reference))
        if lines
        else Text(text=f"{reference} has no complete run yet, so nothing is held against it.")
    ]
    if lines:
        blocks.append(
            line_table(
                "few_labels",
                f"{labels_words(results.info)}: each row against {reference}",
                lines,
                _columns(reference, all_labels),
                by="setting",
                note=_all_labels_note(all_labels),
            )
        )
    at_sites = [
        line
        for method in results.methods_of(results.setting)
        for line in site_lines(results, method, reference, results.setting)
    ]
    if at_sites:
        blocks.append(_sites_table(results, reference, at_sites))
    published = _published(results.info)
    return Section(title="Few labels", blocks=(*blocks, *([published] if published else [])))


def _gain_columns(reference: str) -> tuple[Column, ...]:
    """What both tables say of a row."""
    return (
        ("DSC", lambda line: mean_sd(line.dsc)),
        (f"minus {reference}", lambda line: signed(line.gain.mean)),
        ("interval", lambda line: signed_span(line.gain.interval)),
        ("p", lambda line: p_value(line.p)),
        ("by seed", lambda line: line.by_seed or NONE),
    )


def _columns(reference: str, all_labels: AllLabels | None) -> tuple[Column, ...]:
    """Of the table of rows; the last only where it is known."""
    columns: list[Column] = [
        ("method", lambda line: line.method),
        *_gain_columns(reference),
        ("sites with a gain", lambda line: f"{line.higher} of {line.sites}" if line.sites else ""),
        ("above 0", lambda line: f"{line.clearly_higher} of {line.sites}" if line.sites else ""),
        ("scans", lambda line: str(line.dsc.n)),
    ]
    if all_labels:
        columns.append(("of all labels", of_all_words))
    return tuple(columns)


def _all_labels_note(all_labels: AllLabels | None) -> str:
    note = "Above 0: sites whose own interval is. "
    if all_labels is None:
        return note.rstrip()
    seeds = len(all_labels.results.info.seeds)
    return (
        f"{note}Of all labels: as a share of {all_labels.reference} trained with every label, "
        f"{counted(seeds, 'seed')}, in the same setting; 95% interval over scans."
    )


def _sites_table(results: Results, reference: str, lines: Sequence[FewLine]) -> Table:
    free = _label_free(results)
    columns: tuple[Column, ...] = (
        ("site", lambda line: f"{line.site}, no label" if line.site in free else line.site),
        *_gain_columns(reference),
        ("scans", lambda line: str(line.gain.n)),
    )
    return line_table(
        "few_labels_sites",
        f"{results.setting.capitalize()}, by site: each row against {reference}",
        lines,
        columns,
        by="method",
        note="p of one site and row is not corrected.",
    )


def _label_free(results: Results) -> frozenset[str]:
    """The sites whose labels were all withheld: the last ones in name order."""
    sites = sorted(results.cases.site.unique())
    count = int(results.info.cohort.get("label_free") or 0)
    return frozenset(sites[len(sites) - count :])


def _published(info: ExperimentInfo) -> Table | None:
    """The benchmark's published figures with so many labels and with all."""
    benchmark = BENCHMARKS.get(str(info.cohort.get("benchmark")))
    if benchmark is None:
        return None
    every = benchmark.published.get(benchmark.training, {})
    labels = int(info.cohort.get("training_labels") or benchmark.training)
    shown = {labels: benchmark.published.get(labels, {}), benchmark.training: every}
    best = max(every.values(), default=None)
    records: list[dict[str, Any]] = [
        {"labels": n, "row": method, "dsc": dsc, "of_all_labels": dsc / best if best else None}
        for n, figures in shown.items()
        for method, dsc in figures.items()
    ]
    if not records:
        return None
    return Table(
        name="few_labels_published",
        caption=f"As published: {benchmark.about}",
        header=("method", "DSC", "of all labels"),
        groups=tuple(
            Group(
                title=counted(n, "label"),
                rows=tuple(_published_row(record) for record in records if record["labels"] == n),
            )
            for n in dict.fromkeys(record["labels"] for record in records)
        ),
        note=benchmark.source,
        records=records,
    )


def _published_row(record: dict[str, Any]) -> tuple[str, ...]:
    share = record["of_all_labels"]
    return record["row"], number(record["dsc"]), f"{100 * share:.1f}%" if share else NONE
