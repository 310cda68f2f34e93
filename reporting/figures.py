"""Figures of a report: one style, colours for the colour-blind, no state of pyplot."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from reporting.blocks import Picture
from reporting.palette import FAINT, ON_PAPER

_STROKES = ("-", "--", "-.", ":")
_CSS_PX, _DPI = 96, 160
# A figure of this width fills a telephone, and three of them a screen.
CARD_INCHES = 4.0
_LEGEND_ROWS, _LEGEND_ROW_INCHES = 2, 0.18  # a longer legend makes a figure higher
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

# Points (x, y) by the name of their line.
Lines = Mapping[str, Sequence[tuple[float, float]]]


def report_style() -> AbstractContextManager[None]:
    """Within it, whatever is drawn is drawn in the report's style."""
    style: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return style


def new_figure(rows: int, columns: int, size: tuple[float, float], **how: Any) -> tuple[Any, Any]:
    """A figure and its axes, a 2-D array, in the report's style; `size` in inches."""
    with report_style():
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **how)


def to_picture(figure: Any, name: str, alt: str, caption: str) -> Picture:
    """The figure as a PNG of 256 colours, sharp on a screen of two dots a pixel."""
    drawn = io.BytesIO()
    with report_style():
        figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None})
    with Image.open(drawn) as image:
        png = small_png(image.convert("RGB"))
    width_px = round(figure.get_size_inches()[0] * _CSS_PX)
    return Picture(name=name, alt=alt, caption=caption, png=png, width_px=width_px)


def small_png(image: Image.Image) -> bytes:
    """A PNG of 256 colours: a report has dozens of figures and must be small enough for mail."""
    stream = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()


def line_panels(
    panels: Mapping[str, Lines],
    *,
    name: str,
    alt: str,
    caption: str,
    order: Sequence[str] = (),
    background: Lines | None = None,
    y_limits: tuple[float, float] | None = None,
) -> Picture:
    """One panel below the other, with the same lines in the same colours in each.

    Args:
        panels: By title; a line without points is left out.
        order: Names of lines that keep their colours in all pictures of a report; others follow.
        background: Lines that every panel has too, thin and grey, to compare with.
        y_limits: The same for all panels; None: each its own.
        name: Of the picture's file.
        alt: What it shows, in words.
        caption: The text below it.
    """
    there = {line: None for lines in panels.values() for line in lines}
    strokes = {line: stroke(number) for number, line in enumerate(dict.fromkeys([*order, *there]))}
    legend_rows = math.ceil(len(there) / _legend_columns(there))
    further = _LEGEND_ROW_INCHES * max(0, legend_rows - _LEGEND_ROWS)
    size = (CARD_INCHES, 1.6 * len(panels) + 0.75 + further)
    figure, axes = new_figure(len(panels), 1, size, sharex=True)
    with report_style():
        for axis, (title, lines) in zip(axes[:, 0], panels.items(), strict=True):
            axis.set_title(title)
            for points in (background or {}).values():
                axis.plot(*zip(*sorted(points), strict=True), color=FAINT, linewidth=0.7)
            for line, points in lines.items():
                _plot(axis, points, strokes[line])
            if y_limits:
                axis.set_ylim(*y_limits)
            _tick(axis)
        axes[-1, 0].set_xlabel("round")
        _legend(figure, {line: how for line, how in strokes.items() if line in there})
    return to_picture(figure, name, alt, caption)


def stroke(number: int) -> dict[str, Any]:
    """Colour and dashes of the n-th line: no two of 28 are alike."""
    dashes = _STROKES[number // len(ON_PAPER) % len(_STROKES)]
    return {"color": ON_PAPER[number % len(ON_PAPER)], "linestyle": dashes}


def _tick(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.tick_params(labelbottom=True)


def _plot(axis: Axes, points: Sequence[tuple[float, float]], how: Mapping[str, Any]) -> None:
    if points:
        x, y = zip(*sorted(points), strict=True)
        # A dot each where they are few: a single one is no line.
        marker = "o" if len(x) <= 12 else None
        axis.plot(x, y, marker=marker, markersize=3, linewidth=1.4, **how)


def _legend(figure: Any, strokes: Mapping[str, Mapping[str, Any]]) -> None:
    handles = [Line2D([], [], linewidth=1.8, label=name, **how) for name, how in strokes.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(strokes))


def _legend_columns(names: Collection[str]) -> int:
    longest = max((len(name) for name in names), default=1)
    return max(1, min(len(names), int(46 / (longest + 6))))
