"""From scan to study grid and back, checked on shapes whose place is known."""

from itertools import permutations

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.preprocessing import (
    body_mask,
    normalise,
    preprocess_image,
    preprocess_label,
    probabilities_to_grid,
)

SPACING = (1.5, 2.0, 3.0)


def smooth_scan() -> sitk.Image:
    """Every axis has a size and a spacing of its own, and no symmetry."""
    z, y, x = np.mgrid[:8, :10, :14].astype(np.float32)
    image = sitk.GetImageFromArray(100 + 9 * x + 5 * y + 3 * z + 20 * np.sin(x + y / 2))
    image.SetSpacing(SPACING)
    image.SetOrigin((-12.0, 7.0, 30.0))
    return image


def body_in_air() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    _, y, x = np.mgrid[:20, :30, :30]
    inside = (x - 15) ** 2 + (y - 15) ** 2 < 120
    array = np.where(inside, 500 + rng.normal(0, 60, inside.shape), rng.uniform(0, 8, inside.shape))
    return array.astype(np.float32)


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, True)])
def test_storage_order_does_not_matter(
    order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    stored = sitk.Flip(sitk.PermuteAxes(smooth_scan(), order), flips)
    expected = preprocess_image(smooth_scan(), (2.0, 2.0, 2.0))
    found = preprocess_image(stored, (2.0, 2.0, 2.0))
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected), atol=2e-3
    )
    np.testing.assert_allclose(found.GetOrigin(), expected.GetOrigin(), atol=1e-5)


def test_spacing_and_extent() -> None:
    found = preprocess_image(smooth_scan(), (3.0, 2.0, 1.0))
    assert found.GetSpacing() == (3.0, 2.0, 1.0)
    assert found.GetSize() == (7, 10, 24)
    # The outer faces stay: -12 - 1.5 / 2 and 30 - 3 / 2 mm.
    faces = np.array(found.GetOrigin()) - np.array(found.GetSpacing()) / 2
    np.testing.assert_allclose(faces, [-12.75, 6.0, 28.5], atol=1e-6)


def test_the_same_spacing_is_not_resampled() -> None:
    found = sitk.GetArrayFromImage(preprocess_image(smooth_scan(), SPACING))
    expected = normalise(sitk.GetArrayFromImage(smooth_scan()))
    np.testing.assert_array_equal(found, expected)


def test_a_label_keeps_its_values_and_volume() -> None:
    array = np.zeros((10, 12, 14), np.uint8)
    array[2:8, 2:6, 2:8], array[2:8, 6:10, 2:8] = 3, 7
    label = sitk.GetImageFromArray(array)
    label.SetSpacing((1.0, 1.0, 2.0))
    found = sitk.GetArrayFromImage(preprocess_label(label, (0.5, 0.5, 0.5)))
    assert set(np.unique(found)) == {0, 3, 7}
    for value in (3, 7):
        assert (found == value).sum() / 8 == pytest.approx(2 * (array == value).sum(), rel=0.1)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 1.5)])
def test_round_trip_moves_no_border_by_over_a_voxel(spacing: tuple[float, float, float]) -> None:
    scan = smooth_scan()
    truth = np.zeros((8, 10, 14), np.uint8)
    truth[2:6, 3:8, 4:11] = 1
    label = sitk.GetImageFromArray(truth)
    label.CopyInformation(scan)
    stored, stored_label = (sitk.Flip(i, (True, True, False)) for i in (scan, label))
    on_grid = preprocess_label(stored_label, spacing)
    classes_xyz = sitk.GetArrayFromImage(on_grid).transpose(2, 1, 0)
    maps = np.stack([classes_xyz == 0, classes_xyz == 1]).astype(np.float32)
    back = probabilities_to_grid(maps, on_grid, stored)
    expected = sitk.GetArrayFromImage(stored_label)
    assert back.shape == expected.shape
    box = np.argwhere(back == 1)
    box_expected = np.argwhere(expected == 1)
    assert np.abs(box.min(0) - box_expected.min(0)).max() <= 1
    assert np.abs(box.max(0) - box_expected.max(0)).max() <= 1
    assert 2 * ((back == 1) & (expected == 1)).sum() / (back.sum() + expected.sum()) > 0.75


def test_outside_the_study_grid_is_background() -> None:
    scan = sitk.Image([6, 6, 6], sitk.sitkFloat32)
    grid = sitk.Image([2, 6, 6], sitk.sitkUInt8)
    maps = np.stack([np.zeros((2, 6, 6)), np.ones((2, 6, 6))]).astype(np.float32)
    found = probabilities_to_grid(maps, grid, scan)
    assert (found[:, :, :2] == 1).all()
    assert (found[:, :, 3:] == 0).all()


def test_the_body_has_mean_0_and_sd_1() -> None:
    array = body_in_air()
    normalised = normalise(array)
    body = normalised[body_mask(array)]
    assert normalised.dtype == np.float32
    assert float(body.mean()) == pytest.approx(0, abs=1e-4)
    assert float(body.std()) == pytest.approx(1, abs=1e-4)
    # Clipped at the 1st and 99.5th percentile; air has the lowest value of all.
    low, high = np.percentile(body, (1, 99.5))
    assert (normalised.min(), normalised.max()) == pytest.approx((low, high), abs=0.02)
    assert normalised[:, 0, 0] == pytest.approx(float(normalised.min()))


def test_scale_and_offset_of_a_scanner_do_not_matter() -> None:
    array = body_in_air()
    np.testing.assert_allclose(normalise(3 * array), normalise(array), atol=1e-3)


@pytest.mark.parametrize("spike", [1.0, 1e6])
def test_an_almost_constant_scan_stays_finite(spike: float) -> None:
    array = np.full((8, 8, 8), 5.0, np.float32)
    array[4, 4, 4] += spike
    assert np.isfinite(normalise(array)).all()


def test_body_mask_leaves_air_out_and_fills_holes() -> None:
    array = body_in_air()
    array[8:12, 13:18, 13:18] = 1.0  # gas
    mask = body_mask(array)
    assert not mask[:, :3, :3].any()
    assert mask[10, 15, 15]
    assert mask.mean() == pytest.approx(np.pi * 120 / 900, rel=0.05)


def test_body_mask_ignores_a_bright_spot_in_the_air() -> None:
    array = body_in_air()
    array[3:5, 1:3, 1:3] = 700.0
    assert not body_mask(array)[3:5, 1:3, 1:3].any()


def test_without_air_all_is_body() -> None:
    rng = np.random.default_rng(1)
    assert body_mask(rng.normal(500, 3, (12, 12, 12)).astype(np.float32)).mean() > 0.8
    sparse = np.zeros((12, 12, 12), np.float32)
    sparse[3, 3, 3:8] = 100.0
    assert body_mask(sparse).all()
