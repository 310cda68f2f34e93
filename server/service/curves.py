"""Curves over rounds as what an inline SVG needs: points and ticks in its own units."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.service.views import Curve

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 22
COLOURS = 7
# Points of a line that are drawn; more are no finer on a screen.
_POINTS = 150


@dataclass(frozen=True, kw_only=True)
class Line:
    """One site's; `look` is its number among the sites, for colour and dashes."""

    site: str
    look: int
    points: str
    last: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A place on an axis and its number."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot."""

    title: str
    spoken: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def panel(
    title: str, curves: Sequence[Curve], looks: Mapping[str, int], rounds: int, *, unit: bool
) -> Panel:
    """Lines of several sites over the rounds of a study.

    Args:
        title: What is drawn.
        curves: A line each, not empty.
        looks: Number of each site.
        rounds: Of the whole study: the axis does not move while it goes on.
        unit: Values are in [0, 1], and so is the axis; else it begins at 0.
    """
    top = 1.0 if unit else _rounded_up(max(max(curve.values) for curve in curves))
    last = max(rounds, 2, *(curve.rounds[-1] for curve in curves))

    def x(number: float) -> float:
        return round(_LEFT + (number - 1) / (last - 1) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        share = min(1.0, max(0.0, value / top))
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    lines = [
        Line(
            site=curve.site,
            look=looks[curve.site],
            points=" ".join(f"{x(n)},{y(v)}" for n, v in _thinned(curve)),
            last=f"{curve.last:.3f}",
        )
        for curve in curves
    ]
    spoken = ", ".join(f"{line.site} {line.last}" for line in lines)
    return Panel(
        title=title,
        spoken=f"{title} by round; last values: {spoken}",
        lines=tuple(lines),
        x_ticks=tuple(Tick(at=x(n), text=str(n)) for n in sorted({1, (1 + last) // 2, last})),
        y_ticks=tuple(Tick(at=y(top * s), text=f"{top * s:.2g}") for s in (0.0, 0.5, 1.0)),
    )


def _thinned(curve: Curve) -> list[tuple[int, float]]:
    points = list(zip(curve.rounds, curve.values, strict=True))
    step = math.ceil(len(points) / _POINTS)
    # The last one always: counted from there.
    return points[::-1][::step][::-1]


def _rounded_up(value: float) -> float:
    """To one or two digits, at least a little over 0."""
    unit = 10.0 ** math.floor(math.log10(max(value, 1e-6)))
    return float(f"{math.ceil(value / unit * 2) / 2 * unit:.6g}") or unit
