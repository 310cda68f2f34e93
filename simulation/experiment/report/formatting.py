"""Numbers as a reader sees them, and tables of lines that hold summaries and differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from reporting.blocks import Group
from simulation.experiment.report.statistics import Difference, Interval, Summary

_Line = TypeVar("_Line")

NONE = "-"
# Columns of CSV files that older results have under these names.
_COLUMNS = {"method": "row", "setting": "way"}


def number(value: float | None, decimals: int = 3) -> str:
    """Rounded, or a dash."""
    return NONE if value is None else f"{value:.{decimals}f}"


def signed(value: float | None, decimals: int = 3) -> str:
    """With its sign, or a dash."""
    return NONE if value is None else f"{value:+.{decimals}f}"


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
    return f"{interval.low:+.{decimals}f} to {interval.high:+.{decimals}f}"


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
    return f"{difference.mean:+.{decimals}f} (95% interval {ends}, n = {difference.n})"


def several(names: list[str]) -> str:
    """A, B and C."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def groups(
    lines: Sequence[_Line],
    column: str,
    cells: Callable[[_Line], tuple[str, ...]],
    titles: Mapping[Any, str] | None = None,
) -> tuple[Group, ...]:
    """Lines under a heading for each value of a column, in order of appearance."""
    values = dict.fromkeys(getattr(line, column) for line in lines)
    return tuple(
        Group(
            title=(titles or {}).get(value, value),
            rows=tuple(cells(line) for line in lines if getattr(line, column) == value),
        )
        for value in values
    )


def records(lines: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """Dataclass instances as lines of a CSV; a summary or a difference takes several columns."""
    return tuple(
        {
            column: value
            for field in fields(line)
            for column, value in _columns(field.name, getattr(line, field.name)).items()
        }
        for line in lines
    )


def _columns(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Summary | Difference):
        return {_COLUMNS.get(name, name): value}
    ends = value.interval
    columns = {"n": value.n, "mean": value.mean}
    columns |= {"sd": value.sd} if isinstance(value, Summary) else {}
    columns |= {"low": ends.low if ends else None, "high": ends.high if ends else None}
    columns |= {"p": value.p} if isinstance(value, Difference) else {}
    return {f"{name}_{column}": content for column, content in columns.items()}
