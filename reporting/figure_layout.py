"""The layout around the planes of a picture: title, directions, legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from PIL import Image, ImageDraw, ImageFont

from reporting.palette import rgb

Style = Literal["solid", "dashed"]

DASH_PX = 4
_PAPER, _INK = (0, 0, 0), (235, 235, 235)
_GAP_PX, _PAD_PX = 6, 8


@dataclass(frozen=True, kw_only=True)
class LegendEntry:
    """A name with its colour, or where that is empty with the style of its lines."""

    name: str
    colour: str = ""
    style: Style = "solid"


def lettered(plane: Image.Image, letters: tuple[str, str, str, str]) -> Image.Image:
    """Patient directions in the middle of each edge: left, right, top, bottom."""
    draw = ImageDraw.Draw(plane)
    font = _font(_letter_px(plane.width, plane.height))
    width, height = plane.size
    for letter, position, anchor in zip(
        letters,
        ((3, height // 2), (width - 4, height // 2), (width // 2, 3), (width // 2, height - 4)),
        ("lm", "rm", "mt", "mb"),
        strict=True,
    ):
        draw.text(position, letter, _INK, font, anchor, stroke_width=1, stroke_fill=_PAPER)
    return plane


def _letter_px(width: int, height: int) -> int:
    return max(9, min(14, min(width, height) // 8))


def side_by_side(
    planes: Sequence[Image.Image], height_px: int, title: str, legend: Sequence[LegendEntry]
) -> Image.Image:
    """The planes in a row of this height, a title above, and a legend below."""
    font = _font(13)
    head = 22 if title else 0
    width = sum(plane.width for plane in planes) + _GAP_PX * (len(planes) - 1)
    width = max(width, 240, round(font.getlength(title)) + 2 * _PAD_PX if title else 0)
    lines = _legend_lines(legend, width, font)
    figure = Image.new("RGB", (width, head + height_px + 20 * len(lines) + 4), _PAPER)
    draw = ImageDraw.Draw(figure)
    if title:
        draw.text((_PAD_PX, head // 2), title, _INK, font, "lm")
    left = 0
    for plane in planes:
        figure.paste(plane, (left, head + (height_px - plane.height) // 2))
        left += plane.width + _GAP_PX
    for number, line in enumerate(lines):
        middle = head + height_px + 12 + 20 * number
        for at, entry in line:
            _draw_sign(draw, at, middle, entry)
            draw.text((at + 16, middle), entry.name, _INK, font, "lm")
    return figure


def _draw_sign(draw: Any, left: int, middle: int, entry: LegendEntry) -> None:
    if entry.colour:
        draw.rectangle((left, middle - 5, left + 10, middle + 5), fill=rgb(entry.colour))
    else:
        for column in range(left, left + 12):
            if entry.style == "solid" or column // DASH_PX % 2 == 0:
                draw.line((column, middle - 1, column, middle), fill=_INK)


def _legend_lines(
    legend: Sequence[LegendEntry], width: int, font: Any
) -> list[list[tuple[int, LegendEntry]]]:
    """Entries with their left edges, broken into lines that fit the width."""
    lines: list[list[tuple[int, LegendEntry]]] = [[]]
    at = _PAD_PX
    for entry in legend:
        needed = 16 + round(font.getlength(entry.name)) + 16
        if lines[-1] and at + needed > width:
            lines.append([])
            at = _PAD_PX
        lines[-1].append((at, entry))
        at += needed
    return lines if legend else []


@cache
def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One below the other."""
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures)
    figure = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for picture in pictures:
        figure.paste(picture, (0, top))
        top += picture.height
    return figure
