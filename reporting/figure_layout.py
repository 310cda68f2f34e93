"""What stands around the planes of a picture: title, directions, legend, colours."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

# After Okabe and Ito, light enough for a grey scan: apart for the colour-blind.
_COLOURS = ("#56B4E9", "#F0E442", "#FF7F50", "#CC79A7", "#00C896", "#FFFFFF", "#E69F00", "#9D8CFF")
VEIL = "#FF00DC"  # no organ's
_PAPER, _INK = (0, 0, 0), (235, 235, 235)
_GAP_PX, _PAD_PX = 6, 8


def organ_colours(organs: Mapping[str, int]) -> dict[str, str]:
    """Each organ's colour, by the order of their values; colours recur after eight."""
    ordered = sorted(organs, key=lambda organ: organs[organ])
    return {organ: _COLOURS[number % len(_COLOURS)] for number, organ in enumerate(ordered)}


def lettered(plane: Image.Image, letters: tuple[str, str, str, str]) -> Image.Image:
    """Patient directions in the middle of each edge: left, right, top, bottom."""
    draw = ImageDraw.Draw(plane)
    font = _font(_letter_px(plane.width, plane.height))
    width, height = plane.size
    for letter, place, anchor in zip(
        letters,
        ((3, height // 2), (width - 4, height // 2), (width // 2, 3), (width // 2, height - 4)),
        ("lm", "rm", "mt", "mb"),
        strict=True,
    ):
        draw.text(place, letter, _INK, font, anchor, stroke_width=1, stroke_fill=_PAPER)
    return plane


def _letter_px(width: int, height: int) -> int:
    return max(9, min(14, min(width, height) // 8))


def side_by_side(
    planes: Sequence[Image.Image], height_px: int, title: str, legend: Mapping[str, str]
) -> Image.Image:
    """The planes in a row of this height, a title above, and a legend of names and colours."""
    font = _font(13)
    head = 22 if title else 0
    width = sum(plane.width for plane in planes) + _GAP_PX * (len(planes) - 1)
    width = max(width, 240, round(font.getlength(title)) + 2 * _PAD_PX if title else 0)
    lines = _legend_lines(legend, width, font)
    sheet = Image.new("RGB", (width, head + height_px + 20 * len(lines) + 4), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_PAD_PX, head // 2), title, _INK, font, "lm")
    left = 0
    for plane in planes:
        sheet.paste(plane, (left, head + (height_px - plane.height) // 2))
        left += plane.width + _GAP_PX
    for number, line in enumerate(lines):
        middle = head + height_px + 12 + 20 * number
        for at, name, colour in line:
            draw.rectangle((at, middle - 5, at + 10, middle + 5), fill=rgb(colour))
            draw.text((at + 16, middle), name, _INK, font, "lm")
    return sheet


def _legend_lines(
    entries: Mapping[str, str], width: int, font: Any
) -> list[list[tuple[int, str, str]]]:
    """Entries as (left edge, name, colour), broken into lines that fit the width."""
    lines: list[list[tuple[int, str, str]]] = [[]]
    at = _PAD_PX
    for name, colour in entries.items():
        needed = 16 + round(font.getlength(name)) + 16
        if lines[-1] and at + needed > width:
            lines.append([])
            at = _PAD_PX
        lines[-1].append((at, name, colour))
        at += needed
    return lines


@cache
def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of #RRGGBB."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One below the other."""
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures)
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet
