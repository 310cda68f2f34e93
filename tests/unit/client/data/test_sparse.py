"""Label maps whose organs are on every few slices alone."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.case import Case
from client.data.errors import ScanError
from protocol.config.site import SiteConfig

ORGANS = {"a": 1, "b": 2}


def case(folder: Path, array: np.ndarray, **facts: str) -> tuple[Case, sitk.Image]:
    image = sitk.Cast(sitk.GetImageFromArray(array), sitk.sitkFloat32)
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
