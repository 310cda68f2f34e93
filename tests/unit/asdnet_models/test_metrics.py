"""Scores against values worked out by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from asdnet_models.metrics import OrganScore, average_surface_distance_mm, dice, score_label_maps
from asdnet_models.sums import ScoreSum

SPACING_MM = (3.0, 0.5, 0.8)


def voxels(*corners: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros((8, 8, 8), bool)
    for corner in corners:
        mask[corner] = True
    return mask


def test_dice_of_two_of_three_voxels_shared() -> None:
    a = voxels((1, 1, 1), (1, 1, 2), (1, 1, 3))
    b = voxels((1, 1, 2), (1, 1, 3))
    assert dice(a, b) == pytest.approx(4 / 5)
    assert type(dice(a, b)) is float  # numpy's float is not JSON everywhere


def test_dice_of_empty_masks() -> None:
    empty, full = voxels(), voxels((1, 1, 1))
    assert dice(empty, empty) == 1.0
    assert dice(empty, full) == 0.0
    assert dice(full, empty) == 0.0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_asd_of_touching_voxels(axis: int) -> None:
    # Each has 8 corners of one area; 4 are shared, 4 lie one edge away: half an edge.
    other = [3, 3, 3]
    other[axis] += 1
    asd = average_surface_distance_mm(voxels((3, 3, 3)), voxels(tuple(other)), SPACING_MM)
    assert asd == pytest.approx(SPACING_MM[axis] / 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_asd_of_voxels_one_voxel_apart(axis: int) -> None:
    # Facing corners lie one edge apart, the others two.
    other = [3, 3, 3]
    other[axis] += 2
    asd = average_surface_distance_mm(voxels((3, 3, 3)), voxels(tuple(other)), SPACING_MM)
    assert asd == pytest.approx(1.5 * SPACING_MM[axis])


def test_asd_of_voxels_touching_at_an_edge() -> None:
    z, y, _ = SPACING_MM
    asd = average_surface_distance_mm(voxels((3, 3, 3)), voxels((4, 4, 3)), SPACING_MM)
    assert asd == pytest.approx((0 + z + y + math.hypot(z, y)) / 4)


def test_asd_is_weighted_by_area() -> None:
    # A voxel against a bar of two along x: of both surfaces, the bar's 4 far corners alone lie
    # off the other one, by an edge. A corner's element is the triangle through the middles of
    # three edges, that of a point between two voxels a cut across the bar's edge.
    z, y, x = SPACING_MM
    corner = math.sqrt((x * y) ** 2 + (y * z) ** 2 + (x * z) ** 2) / 8
    edge = x * math.hypot(y / 2, z / 2)
    asd = average_surface_distance_mm(voxels((3, 3, 3)), voxels((3, 3, 3), (3, 3, 4)), SPACING_MM)
    assert asd == pytest.approx(4 * corner * x / (16 * corner + 4 * edge))


def test_asd_at_the_border_of_the_array() -> None:
    asd = average_surface_distance_mm(voxels((0, 0, 0)), voxels((7, 0, 0)), SPACING_MM)
    assert asd == pytest.approx(6.5 * SPACING_MM[0])


def test_asd_of_empty_masks_is_undefined() -> None:
    empty, full = voxels(), voxels((1, 1, 1))
    assert average_surface_distance_mm(empty, empty, SPACING_MM) is None
    assert average_surface_distance_mm(empty, full, SPACING_MM) is None
    assert average_surface_distance_mm(full, empty, SPACING_MM) is None


def test_wrong_masks_are_refused() -> None:
    mask = voxels((1, 1, 1))
    with pytest.raises(ValueError, match=r"shape \(8, 8, 8\), reference \(8, 8, 7\)"):
        dice(mask, mask[..., :7])
    with pytest.raises(ValueError, match="must be boolean, not uint8"):
        dice(mask.astype(np.uint8), mask)
    with pytest.raises(ValueError, match="not positive"):
        average_surface_distance_mm(mask, mask, (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="3-D"):
        average_surface_distance_mm(mask[0], mask[0], SPACING_MM)


def test_label_maps_are_scored_by_organ() -> None:
    prediction, reference = np.zeros((2, 6, 6, 6), np.uint8)
    prediction[1, 1, 1], reference[1, 1, 2] = 1, 1  # beside it
    reference[4, 4, 4] = 2  # missed
    prediction[5, 5, 5] = 3  # made up
    organs = {"bladder": 1, "prostate": 2, "rectum": 3, "liver": 9}
    scores = score_label_maps(prediction, reference, SPACING_MM, organs)
    bladder = scores.pop("bladder")
    assert (bladder.dsc, bladder.failure) == (0.0, False)
    assert bladder.asd_mm == pytest.approx(0.4)
    assert scores == {
        "prostate": OrganScore(dsc=0.0, asd_mm=None, failure=True),
        "rectum": OrganScore(dsc=0.0, asd_mm=None, failure=True),
        "liver": OrganScore(dsc=1.0, asd_mm=None, failure=False),
    }


def test_label_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="resample the prediction"):
        score_label_maps(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), SPACING_MM, {"bladder": 1})


def test_sums_add_up_and_leave_out_what_is_undefined() -> None:
    total = ScoreSum.of([1.0, None, 2.0], failures=1) + ScoreSum.of([6.0])
    assert (total.count, total.failures) == (3, 1)
    assert total.mean == pytest.approx(3.0)
    assert total.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_sums_of_few_values() -> None:
    nothing = ScoreSum.of([None])
    assert (nothing.mean, nothing.sd) == (None, None)
    one = ScoreSum.of([0.7])
    assert (one.mean, one.sd) == (0.7, None)


def test_equal_values_have_no_spread_in_spite_of_rounding() -> None:
    # Without the guard the variance is some -1e-17 here, and its root NaN.
    for value in np.linspace(0.1, 0.99, 50):
        sd = ScoreSum.of([float(value)] * 7).sd
        assert sd is not None
        assert 0 <= sd < 1e-7
