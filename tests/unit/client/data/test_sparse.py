"""Label maps whose organs are on every few slices alone."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.case import Case
from client.data.errors import ScanError
from client.data.labels.sparse import check_sparse
from protocol.config.site import SiteConfig

ORGANS = {"a": 1, "b": 2}


def case(folder: Path, array: np.ndarray, **facts: str) -> tuple[Case, sitk.Image]:
    # A scan that shows something else than its label.
    noise = np.random.default_rng(5).normal(100, 20, array.shape)
    image = sitk.Cast(sitk.GetImageFromArray(noise), sitk.sitkFloat32)
    sitk.WriteImage(sitk.GetImageFromArray(array), folder / "label.nii.gz")
    site = SiteConfig(site="A", data=folder, cache=folder, state=folder, **facts)
    path = folder / "label.nii.gz"
    return Case(name="c", part="labelled", image=folder, label=path, site=site), image


def organs() -> np.ndarray:
    array = np.zeros((12, 14, 16), np.uint8)
    array[1:10, 2:6, 3:12], array[1:10, 8:12, 3:12] = 1, 2
    return array


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [2, 3])
def test_every_few_slices_along_any_axis(tmp_path: Path, axis: int, step: int) -> None:
    array = np.zeros((14, 14, 14), np.uint8)
    array[1:13, 1:13, 1:13] = 2
    np.moveaxis(array, axis, 0)[np.arange(14) % step != 1] = 0
    array[0] = 1
    one, scan = case(tmp_path, array)
    with pytest.raises(ScanError, match=f"holds b on one of {step} slices alone"):
        one.read_label(scan, ORGANS)
    one, scan = case(tmp_path, array, contour_gaps="keep")
    notes: list[str] = []
    label = one.read_label(scan, ORGANS, notes.append)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), array)
    assert notes == [f"b: is on one of {step} slices alone; those between stay empty"]


@pytest.mark.parametrize("left", [[5], [2, 7], [1, 2, 3, 4, 6, 7, 8, 9], [1, 2, 4, 5, 7, 8, 9]])
def test_a_slice_left_out_and_single_slices_are_nothing(tmp_path: Path, left: list[int]) -> None:
    array = organs()
    array[left] *= array[left] == 1
    one, scan = case(tmp_path, array)
    notes: list[str] = []
    label = one.read_label(scan, ORGANS, notes.append)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), array)
    assert notes == []


def lesions(seed: int, count: int) -> np.ndarray:
    """Balls of 6 to 10 mm, anywhere in voxels of 3 x 3 x 5 mm."""
    rng = np.random.default_rng(seed)
    array = np.zeros((30, 80, 80), np.uint8)
    places_mm = np.moveaxis(np.indices(array.shape), 0, -1) * (5.0, 3.0, 3.0)
    for _ in range(count):
        centre = rng.integers((4, 12, 12), (26, 68, 68)) * (5.0, 3.0, 3.0)
        array[np.sum((places_mm - centre) ** 2, -1) <= rng.uniform(3, 5) ** 2] = 1
    return array


@pytest.mark.parametrize("count", [5, 8, 12])
def test_small_lesions_on_single_thick_slices_are_used(tmp_path: Path, count: int) -> None:
    for seed in range(20):
        notes: list[str] = []
        label = sitk.GetImageFromArray(lesions(seed, count))
        check_sparse(label, {"lesion": 1}, "interpolate", location="x", note=notes.append)
        assert notes == []


def test_regular_steps_of_pieces_side_by_side_are_lesions() -> None:
    array = np.zeros((14, 40, 16), np.uint8)
    for number, z in enumerate(range(1, 14, 2)):
        array[z, 5 * number : 5 * number + 4, 3:9] = 1
    notes: list[str] = []
    check_sparse(
        sitk.GetImageFromArray(array), {"a": 1}, "interpolate", location="x", note=notes.append
    )
    assert notes == []


def test_a_thin_tube_resampled_obliquely_is_used() -> None:
    dense = np.zeros((50, 50, 50), np.uint8)
    along = np.linspace(0, 1, 2000)
    tube = np.stack([25 + 20 * np.sin(5 * along), 5 + 40 * along, 25 + 15 * np.sin(3 * along)])
    dense[tuple(np.rint(tube).astype(int))] = 1
    for angle in (0.1, 0.25, 0.4):
        for spacing in (1.0, 1.5, 2.0, 3.0):
            turn = sitk.Euler3DTransform((25, 25, 25), angle, -angle / 2, angle / 3)
            size, voxel = [50, 50, int(50 / spacing)], [1, 1, spacing]
            label = sitk.Resample(
                sitk.GetImageFromArray(dense),
                size,
                turn,
                sitk.sitkNearestNeighbor,
                (0, 0, 0),
                voxel,
            )
            check_sparse(label, {"a": 1}, "interpolate", location="x", note=[].append)


def test_ends_that_taper_and_a_forgotten_slice_are_still_refused() -> None:
    z, y, x = np.indices((30, 30, 30))
    array = (((z - 14) ** 2 + (y - 15) ** 2 + (x - 15) ** 2) <= 13**2).astype(np.uint8)
    array[np.arange(30) % 4 != 2] = 0
    array[10] = 0
    with pytest.raises(ScanError, match="on one of 4 slices alone"):
        check_sparse(
            sitk.GetImageFromArray(array), {"a": 1}, "interpolate", location="x", note=[].append
        )


def test_what_is_sparse_in_part_is_noted() -> None:
    array = organs()
    array[[3, 5, 7]] *= array[[3, 5, 7]] == 1  # b on 1, 2, 4, 6, 8, 9
    notes: list[str] = []
    check_sparse(
        sitk.GetImageFromArray(array), ORGANS, "interpolate", location="x", note=notes.append
    )
    assert notes == [
        "b: is in part on one of 2 slices alone; look whether those between were forgotten"
    ]
