"""Numbers as a reader sees them."""

from simulation.experiment.report.statistics import Difference, Interval, Summary

NONE = "-"


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


def gap(found: Difference, decimals: int = 3) -> str:
    """A difference for a sentence."""
    if found.mean is None:
        return "no case in common"
    ends = signed_span(found.interval, decimals)
    return f"{found.mean:+.{decimals}f} (95% interval {ends}, n = {found.n})"


def several(names: list[str]) -> str:
    """A, B and C."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
