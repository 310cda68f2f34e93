"""Scores against values worked out by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from asdnet_models.metrics import FAR_OFF, OrganScore, dice, score_label_maps, surface_scores
from asdnet_models.sums import ScoreSum

SPACING_MM = (3.0, 0.5, 0.8)


def voxels(*corners: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros((8, 8, 8), bool)
    for corner in corners:
        mask[corner] = True
    return mask


def average_surface_distance_mm(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> float | None:
    scores = surface_scores(prediction, reference, spacing_mm, tolerance_mm=1.0)
    return None if scores is None else scores.asd_mm


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


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_hd95_and_surface_dice_of_voxels_one_voxel_apart(axis: int) -> None:
    # Each has four corners that lie one edge off the other, and four two edges off.
    other = [3, 3, 3]
    other[axis] += 2
    pair, edge = (voxels((3, 3, 3)), voxels(tuple(other))), SPACING_MM[axis]
    for tolerance_mm, nsd in ((0.99 * edge, 0.0), (edge, 0.5), (2 * edge, 1.0)):
        scores = surface_scores(*pair, SPACING_MM, tolerance_mm=tolerance_mm)
        assert scores is not None
        assert (scores.hd95_mm, scores.nsd) == (pytest.approx(2 * edge), pytest.approx(nsd))


def test_hd95_does_not_see_a_stray_voxel_of_a_large_organ() -> None:
    reference = np.zeros((40, 40, 40), bool)
    reference[5:30, 5:30, 5:30] = True
    stray = reference.copy()
    stray[38, 38, 38] = True
    scores = surface_scores(stray, reference, (1.0, 1.0, 1.0), tolerance_mm=1.0)
    assert scores is not None
    assert scores.hd95_mm == 0
    assert scores.asd_mm > 0
    assert 0.99 < scores.nsd < 1


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
    scores = score_label_maps(prediction, reference, SPACING_MM, organs, tolerance_mm=0.5)
    bladder = scores.pop("bladder")
    assert (bladder.dsc, bladder.failure) == (0.0, "far_off")
    assert bladder.asd_mm == pytest.approx(0.4)
    assert (bladder.hd95_mm, bladder.nsd) == (pytest.approx(0.8), pytest.approx(0.5))
    nothing = {"asd_mm": None, "hd95_mm": None}
    assert scores == {
        "prostate": OrganScore(dsc=0.0, nsd=0.0, failure="missed", **nothing),
        "rectum": OrganScore(dsc=0.0, nsd=0.0, failure="made_up", **nothing),
        "liver": OrganScore(dsc=1.0, nsd=1.0, failure=None, **nothing),
    }


@pytest.mark.parametrize(("surplus", "failure"), [(4, None), (50, "far_off")])
def test_far_off_is_over_a_tenth_of_the_scans_longest_edge(
    surplus: int, failure: str | None
) -> None:
    """The organ is found, and so many voxels beyond it."""
    reference = np.zeros((4, 4, 60), np.uint8)
    reference[:, :, :4] = 1
    prediction = reference.copy()
    prediction[:, :, : 4 + surplus] = 1
    scores = score_label_maps(
        prediction, reference, (1.0, 1.0, 2.0), {"bladder": 1}, tolerance_mm=1.0
    )["bladder"]
    assert scores.dsc > 0
    assert scores.asd_mm is not None
    assert (scores.asd_mm > FAR_OFF * 120) == (failure is not None)
    assert scores.failure == failure


def test_label_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="resample the prediction"):
        score_label_maps(
            np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), SPACING_MM, {"bladder": 1}, tolerance_mm=1.0
        )


def test_sums_add_up_and_leave_out_what_is_undefined() -> None:
    total = ScoreSum.of([1.0, None, 2.0]) + ScoreSum.of([6.0])
    assert total.count == 3
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
