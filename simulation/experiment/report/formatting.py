"""Formats numbers and tables of summaries and differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from reporting.blocks import Group, Table
from simulation.experiment.report.statistics import Difference, Interval, Summary

NONE = "-"
PAGE_ONLY = {"csv": False}
# Its title, and its text for a line.
Column = tuple[str, Callable[[Any], str]]
# Columns of CSV files that older results have under these names.
_COLUMNS = {"method": "row", "setting": "way"}


def number(value: float | None, decimals: int = 3) -> str:
    """Rounded, or a dash."""
    return NONE if value is None else f"{value:.{decimals}f}"


def signed(value: float | None, decimals: int = 3) -> str:
    """With its sign, or a dash; nothing is a negative zero."""
    return NONE if value is None else f"{value:+z.{decimals}f}"


def mean_sd(summary: Summary, decimals: int = 3) -> str:
    """Mean (SD)."""
    if summary.mean is None:
        return NONE
    return f"{summary.mean:.{decimals}f} ({number(summary.sd, decimals)})"


def span(interval: Interval | None, decimals: int = 3) -> str:
    """The interval's ends."""
    if interval is None:
        return NONE
    return f"{interval.low:.{decimals}f} to {interval.high:.{decimals}f}"


def signed_span(interval: Interval | None, decimals: int = 3) -> str:
    """The ends of an interval of a difference."""
    if interval is None:
        return NONE
    return f"{signed(interval.low, decimals)} to {signed(interval.high, decimals)}"


def p_value(p: float | None) -> str:
    """Three decimals, or below them."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def gap(difference: Difference, decimals: int = 3) -> str:
    """A difference for a sentence."""
    if difference.mean is None:
        return "no case in common"
    ends = signed_span(difference.interval, decimals)
    return f"{signed(difference.mean, decimals)} (95% interval {ends}, n = {difference.n})"


def line_table(
    name: str,
    caption: str,
    lines: Sequence[Any],
    columns: Sequence[Column],
    *,
    by: str,
    titles: Mapping[Any, str] | None = None,
    note: str = "",
    csv: Sequence[Mapping[str, Any]] = (),
) -> Table:
    """A table of dataclass instances, and the same as records for a CSV.

    Args:
        name: Of the CSV.
        caption: Above the table.
        lines: In order.
        columns: What the reader sees of a line.
        by: The field whose values are headings, in order of appearance.
        titles: Headings instead of the values.
        note: Below the table.
        csv: Lines of the CSV, where they are not the lines themselves.
    """
    values = dict.fromkeys(getattr(line, by) for line in lines)
    groups = tuple(
        Group(
            title=(titles or {}).get(value, value),
            rows=tuple(
                tuple(text(line) for _, text in columns)
                for line in lines
                if getattr(line, by) == value
            ),
        )
        for value in values
    )
    return Table(
        name=name,
        caption=caption,
        header=tuple(title for title, _ in columns),
        groups=groups,
        note=note,
        records=csv or _records(lines),
    )


def _records(lines: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """Dataclass instances as lines of a CSV; a summary or a difference takes several columns.

    Fields that only the reader of the page sees are marked by `PAGE_ONLY`.
    """
    return tuple(
        {
            column: value
            for field in fields(line)
            if field.metadata != PAGE_ONLY
            for column, value in csv_columns(field.name, getattr(line, field.name)).items()
        }
        for line in lines
    )


def csv_columns(name: str, value: Any) -> dict[str, Any]:
    """A value as columns of a CSV, several for a summary or a difference."""
    if not isinstance(value, Summary | Difference):
        return {_COLUMNS.get(name, name): value}
    ends = value.interval
    columns = {"n": value.n, "mean": value.mean}
    columns |= {"sd": value.sd} if isinstance(value, Summary) else {}
    columns |= {"low": ends.low if ends else None, "high": ends.high if ends else None}
    columns |= {"p": value.p} if isinstance(value, Difference) else {}
    return {f"{name}_{column}": content for column, content in columns.items()}
