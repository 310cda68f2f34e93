"""Curves of many sites with long names."""

import io
import warnings

from PIL import Image

from reporting.figures import line_panels

POINTS = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.3)]


def height(*names: str) -> int:
    with warnings.catch_warnings():
        # matplotlib warns, and draws the legend over the curves, where the figure is too low.
        warnings.simplefilter("error")
        picture = line_panels(
            {"loss": dict.fromkeys(names, POINTS)}, name="curves", alt="", caption=""
        )
    with Image.open(io.BytesIO(picture.png)) as image:
        return image.height


def test_a_long_legend_has_room_below_the_curves() -> None:
    few = height(*(f"site {letter}" for letter in "ABCDEF"))
    many = height(*(f"site Hospital_{number:02d}_of_a_long_name" for number in range(12)))
    assert few == height("site A")
    assert many > few + 200
