"""Several contours on a slice: holes, islands, pieces, doubles.  Areas by the shoelace formula."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.dicom.labels.nesting import excluded, nested
from client.data.dicom.labels.outlines import outlines

Outline = NDArray[np.float64]
SHAPE = (320, 360)
VOXEL_MM = (0.25, 0.25)


def circle(
    radius_mm: float, at_mm: tuple[float, float] = (45.0, 40.0), turn: float = 0.3
) -> Outline:
    angles = np.linspace(0, 2 * np.pi, 240, endpoint=False) + turn
    points_mm = np.column_stack([np.cos(angles), np.sin(angles)]) * radius_mm + at_mm
    return points_mm / VOXEL_MM


def shoelace_mm2(*drawn: Outline) -> float:
    area = 0.0
    for outline in drawn:
        x, y = (outline * VOXEL_MM).T
        area += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    return float(area)


def area_mm2(mask: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(mask)) * VOXEL_MM[0] * VOXEL_MM[1]


A, B = circle(20), circle(10, (61.0, 40.0))
# Two circles of 20 and 10 mm, 16 mm apart: their lens by the formula for two circles.
LENS_MM2 = (
    10**2 * np.arccos((16**2 + 10**2 - 20**2) / (2 * 16 * 10))
    + 20**2 * np.arccos((16**2 + 20**2 - 10**2) / (2 * 16 * 20))
    - 0.5 * np.sqrt((-16 + 10 + 20) * (16 + 10 - 20) * (16 - 10 + 20) * (16 + 10 + 20))
)

DRAWN: dict[str, tuple[Sequence[Outline], float, bool]] = {
    "one": ([A], shoelace_mm2(A), False),
    "counter-clockwise": ([A[::-1]], shoelace_mm2(A), False),
    "closed by a repeated point": ([np.concatenate([A, A[:1]])], shoelace_mm2(A), False),
    "twice": ([A, A], shoelace_mm2(A), True),
    "twice, from another point, the other way round": (
        [A, np.roll(A, 50, axis=0)[::-1]],
        shoelace_mm2(A),
        True,
    ),
    "three times": ([A, A, A], shoelace_mm2(A), True),
    "again, .6 mm aside": ([A, circle(20, (45.6, 40.0))], shoelace_mm2(A) + 0.6 * 40, True),
    "again, .6 mm within": ([circle(19.4), A], shoelace_mm2(A), True),
    "again, 2 mm aside": ([A, circle(20, (47.0, 40.0))], shoelace_mm2(A) + 2 * 40, True),
    "two pieces across each other": ([A, B], shoelace_mm2(A, B) - LENS_MM2, True),
    "two pieces apart": ([circle(8, (20, 40)), B], shoelace_mm2(circle(8), B), False),
    "a hole": ([A, circle(8)], shoelace_mm2(A) - shoelace_mm2(circle(8)), False),
    "a hole, drawn first": ([circle(8), A], shoelace_mm2(A) - shoelace_mm2(circle(8)), False),
    "a hole that touches the rim": (
        [A, circle(8, (57.0, 40.0))],
        shoelace_mm2(A) - shoelace_mm2(circle(8)),
        False,
    ),
    "a hole, twice": ([A, circle(8), circle(8)], shoelace_mm2(A) - shoelace_mm2(circle(8)), True),
    "a wall of 2 mm": ([A, circle(18)], shoelace_mm2(A) - shoelace_mm2(circle(18)), False),
    "a wall of 1 mm": ([A, circle(19)], shoelace_mm2(A) - shoelace_mm2(circle(19)), False),
    "a wall of 2 mm, its outer edge twice": (
        [A, A, circle(18)],
        shoelace_mm2(A) - shoelace_mm2(circle(18)),
        True,
    ),
    "an island in a hole": (
        [A, circle(12), circle(5)],
        shoelace_mm2(A, circle(5)) - shoelace_mm2(circle(12)),
        False,
    ),
    "smaller than a voxel": ([A, circle(0.05, (40.1, 40.1))], shoelace_mm2(A), False),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", DRAWN)
def test_area(name: str, order: int) -> None:
    drawn, expected_mm2, united = DRAWN[name]
    region = nested(drawn[::order], SHAPE, VOXEL_MM)
    assert area_mm2(region.mask) == pytest.approx(expected_mm2, rel=0.01)
    assert (region.united, region.unclear) == (united, False)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(circle(19.2), id="a hole with a wall of .8 mm, or a double"),
        pytest.param(circle(8, (58.2, 40.0)), id="a hole that sticks out, or a piece"),
    ],
)
def test_what_nobody_can_tell(second: Outline) -> None:
    assert nested([A, second], SHAPE, VOXEL_MM).unclear
    # Of the type XOR the file itself says that it is a hole.
    region = excluded([A, second], SHAPE)
    assert not region.unclear
    assert area_mm2(region.mask) < shoelace_mm2(A)


def test_of_the_type_xor_what_is_twice_undoes_itself() -> None:
    assert excluded([A, A], SHAPE).unclear
    assert excluded([A, circle(12), A[::-1]], SHAPE).unclear
    region = excluded([A, B], SHAPE)
    assert area_mm2(region.mask) == pytest.approx(shoelace_mm2(A, B) - 2 * LENS_MM2, rel=0.01)
    assert not region.unclear


def test_a_hole_in_two_pieces_across_each_other() -> None:
    region = nested([A, B, circle(2, (57.0, 40.0))], SHAPE, VOXEL_MM)
    expected = shoelace_mm2(A, B) - LENS_MM2 - shoelace_mm2(circle(2))
    assert area_mm2(region.mask) == pytest.approx(expected, rel=0.01)


def test_an_island_in_the_hole_of_a_keyhole() -> None:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(rows - 160, columns - 180)
    mask = (radius < 80) & (radius > 40) | (radius < 20)
    drawn = outlines(mask)
    assert len(drawn) == 2
    region = nested(drawn, SHAPE, VOXEL_MM)
    np.testing.assert_array_equal(region.mask, mask)
    assert not region.united


def test_many_contours_take_no_time() -> None:
    """A bone's trabeculae: what a threshold drew."""
    rng = np.random.default_rng(4)
    mask = rng.random((200, 200)) < 0.3
    drawn = outlines(mask)
    assert len(drawn) > 2000
    np.testing.assert_array_equal(nested(drawn, mask.shape, VOXEL_MM).mask, mask)
