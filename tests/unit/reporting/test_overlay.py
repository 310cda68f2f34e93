"""Pictures of three planes: sides, scale, colours and speed."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reporting.figure_layout import Style, stacked
from reporting.overlay import Contours, UncertaintyOverlay, organ_centre, three_planes
from reporting.palette import organ_colours, rgb

ORGANS = {"ball": 2, "rod": 5}
GAP = 6


def volume(shape: tuple[int, int, int] = (20, 40, 40)) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(100, 5, shape).astype(np.float32)


def planes(picture: Image.Image, widths: list[int], height: int) -> list[NDArray[Any]]:
    """The three planes of a picture without title, each cut at the top of its middle rows."""
    found, left = [], 0
    for width in widths:
        found.append(np.asarray(picture)[:height, left : left + width].astype(int))
        left += width + GAP
    return found


def pixels_of(plane: NDArray[Any], colour: str) -> NDArray[np.int_]:
    """(row, column) of every pixel of a colour."""
    return np.argwhere((plane == rgb(colour)).all(-1))


def test_the_patient_s_left_anterior_and_head_are_where_they_belong() -> None:
    image = np.zeros((40, 40, 40), np.float32)
    image[30:34, 4:8, 28:32] = 1000  # superior, anterior, left
    picture = three_planes(image, (1, 1, 1), [], ORGANS, height_px=80, centre_zyx=(32, 6, 30))
    for plane, (row, column) in zip(
        planes(picture, [80] * 3, 80), [(12, 60), (14, 60), (14, 12)], strict=True
    ):
        # The letters are drawn at the edges; the middle of the bright cube is beyond them.
        assert plane[row, column].min() > 200
        assert plane[row, 79 - column].max() < 60 or abs(column - 40) < 8
        assert plane[79 - row, column].max() < 60


def test_display_is_isotropic_whatever_the_voxels() -> None:
    picture = three_planes(volume((10, 50, 60)), (2, 2, 5), [], ORGANS, height_px=100)
    # 120 x 100 mm axial, 120 x 50 mm coronal, 100 x 50 mm sagittal at 1 mm a pixel.
    assert picture.width == 120 + GAP + 120 + GAP + 100
    assert np.asarray(picture)[10, 126:].max() == 0  # the lower planes stand in the middle
    assert np.asarray(picture)[50, 130:].max() > 0


def test_contours_are_one_pixel_wide_in_each_organ_s_own_colour() -> None:
    label = np.zeros((20, 40, 40), np.uint8)
    label[5:15, 10:20, 10:20] = 2
    label[5:15, 10:20, 25:35] = 5
    contours = [Contours(label_zyx=label)]
    picture = three_planes(
        volume(), (1, 1, 1), contours, ORGANS, height_px=160, centre_zyx=(10, 15, 15)
    )
    axial = planes(picture, [160, 160, 160], 160)[0]
    for organ, (low, high) in {"ball": (40, 79), "rod": (100, 139)}.items():
        drawn = pixels_of(axial, organ_colours(ORGANS)[organ])
        assert drawn[:, 1].min() == pytest.approx(low, abs=1)
        assert drawn[:, 1].max() == pytest.approx(high, abs=1)
        assert len(drawn) == pytest.approx(4 * 39, abs=12)  # a frame of one pixel, 40 wide


def test_dashed_contours_leave_half_away() -> None:
    label = np.zeros((20, 40, 40), np.uint8)
    label[5:15, 10:30, 10:30] = 2
    colour = organ_colours(ORGANS)["ball"]
    styles: tuple[Style, Style] = ("solid", "dashed")
    pictures = (
        three_planes(volume(), (1, 1, 1), [Contours(label_zyx=label, style=style)], ORGANS)
        for style in styles
    )
    solid, dashed = (len(pixels_of(np.asarray(picture), colour)) for picture in pictures)
    assert 0.4 * solid < dashed < 0.8 * solid  # the legend's swatch is whole in both


def test_planes_go_through_the_organs_centre_or_the_middle() -> None:
    label = np.zeros((20, 40, 40), np.uint8)
    assert organ_centre(label) == (10, 20, 20)
    assert organ_centre(np.zeros((21, 5, 7), np.uint8)) == (10, 2, 3)
    label[3, 7, 35] = 5  # on odd places alone, which every second voxel does not see
    assert organ_centre(label) == (3, 7, 35)
    label[:] = 0
    label[4:8, 10:20, 30:40] = 2
    centre = organ_centre(label)
    assert np.abs(np.array(centre) - (5.5, 14.5, 34.5)).max() <= 1


def test_a_margin_shows_the_organs_alone() -> None:
    label = np.zeros((20, 40, 40), np.uint8)
    label[8:12, 10:20, 10:30] = 2
    picture = three_planes(
        volume(), (1, 1, 2), [Contours(label_zyx=label)], ORGANS, height_px=100, margin_mm=5.0
    )
    # 30 x 20 mm axial, 30 x 16 mm coronal (a margin of two slices), 20 x 16 mm sagittal.
    assert picture.width == 150 + GAP + 150 + GAP + 100


def test_uncertainty_is_drawn_where_confidence_is_low_and_it_matters() -> None:
    confidence = np.ones((20, 40, 40), np.float32)
    confidence[:, :, :20] = 0.1
    near = np.zeros(confidence.shape, bool)
    near[:, 20:] = True
    image = np.full(confidence.shape, 100.0, np.float32)
    picture = three_planes(
        image,
        (1, 1, 1),
        [],
        ORGANS,
        height_px=160,
        uncertainty=UncertaintyOverlay(confidence_zyx=confidence, near_zyx=near, below=0.8),
    )
    axial = planes(picture, [160] * 3, 160)[0]
    coloured = (axial.max(-1) - axial.min(-1)) > 30
    assert coloured[100:150, 20:60].all()
    assert not coloured[:60].any()
    assert not coloured[:, 100:].any()


def test_no_text_but_the_title_and_nothing_hidden() -> None:
    with io.BytesIO() as file:
        three_planes(volume(), (1, 1, 1), [], ORGANS, title="case-12").save(file, "PNG")
        file.seek(0)
        assert Image.open(file).info == {}
        assert all(kind not in file.getvalue() for kind in (b"tEXt", b"iTXt", b"zTXt", b"eXIf"))


def test_a_constant_or_extreme_scan_is_drawn() -> None:
    for image in (np.zeros((4, 5, 6), np.int16), np.full((4, 5, 6), 3.4e38, np.float32)):
        assert three_planes(image, (1, 1, 1), [], ORGANS).height > 320
    sparse = np.zeros((20, 40, 40), np.float32)
    sparse[10, 20, 20] = 9  # below the 99.5th percentile, but all there is to see
    assert np.asarray(three_planes(sparse, (1, 1, 1), [], ORGANS)).max() > 240


def test_many_organs_with_long_names_stay_within_the_picture() -> None:
    organs = {f"organ_with_a_long_name_{n}": n for n in range(1, 12)}
    picture = three_planes(volume(), (1, 1, 1), [], organs, height_px=60)
    few = three_planes(volume(), (1, 1, 1), [], ORGANS, height_px=60)
    assert picture.width == few.width
    assert picture.height > few.height + 60


def test_another_grid_is_refused() -> None:
    other = Contours(label_zyx=np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(3, 3, 3\) is not the image's"):
        three_planes(volume(), (1, 1, 1), [other], ORGANS)


def test_a_legend_names_organs_and_styles_or_is_left_out() -> None:
    label = np.zeros((20, 40, 40), np.uint8)
    named = Contours(label_zyx=label, style="dashed", name="automatic")
    colours = [rgb(colour) for colour in organ_colours(ORGANS).values()]

    def drawn(contours: Sequence[Contours], legend: bool) -> tuple[int, int, int]:
        picture = three_planes(volume(), (1, 1, 1), contours, ORGANS, legend=legend)
        pixels = np.asarray(picture)[322:]
        swatches = sum(int((pixels == colour).all(-1).any()) for colour in colours)
        return picture.height, swatches, int((pixels > 200).all(-1).sum())

    plain, styled = drawn([Contours(label_zyx=label)], True), drawn([named], True)
    assert plain[:2] == styled[:2] == (344, 2)
    assert styled[2] > plain[2]  # one more name
    assert drawn([named], False) == (324, 0, 0)


def test_pictures_are_stacked() -> None:
    one, other = Image.new("RGB", (10, 20)), Image.new("RGB", (30, 5), (255, 0, 0))
    both = stacked([one, other])
    assert both.size == (30, 25)
    assert both.getpixel((29, 24)) == (255, 0, 0)
