"""A number of any type in a label map is the organ that it names, or is refused with its value."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.errors import ScanError
from client.data.labels.label_file import load_label_map

ORGANS = {"bladder": 1, "prostate": 2}
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def saved(path: Path, dtype: str, value: float) -> Path:
    array = np.zeros((4, 5, 6), dtype)
    array[1], array[2, 0, 0] = 1, value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_is_read_alike(dtype: str, suffix: str, tmp_path: Path) -> None:
    label = load_label_map(saved(tmp_path / f"a{suffix}", dtype, 2), ORGANS, case="1")
    array = sitk.GetArrayViewFromImage(label)
    assert label.GetPixelIDValue() == sitk.sitkUInt8
    assert (np.count_nonzero(array == 1), np.count_nonzero(array == 2)) == (30, 1)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        ("i1", -1, "-1"),
        ("u2", 257, "257"),  # 1 in 8 bits
        ("i2", -255, "-255"),
        ("u4", 2**32 - 1, "4294967295"),
        ("i8", 2**32 + 1, "4294967297"),  # 1 in 32 bits
        ("i8", -(2**40), "-1099511627776"),
        ("u8", 2**63 + 1, "9223372036854775809"),
        ("f4", 257, "257"),
        ("f8", 2.0**32 + 1, "up to 4.29497e+09"),
        ("f8", -1e300, "up to 1e+300"),
        ("f4", 1.5, "not integers"),
    ],
)
def test_another_number_is_refused_with_its_value(
    dtype: str, value: float, said: str, suffix: str, tmp_path: Path
) -> None:
    with pytest.raises(ScanError, match="holds ") as caught:
        load_label_map(saved(tmp_path / f"a{suffix}", dtype, value), ORGANS, case="1")
    assert caught.value.problem.rule == "values"
    assert said in str(caught.value)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_complex_voxels_are_no_numbers(suffix: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.complex64))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    with pytest.raises(ScanError, match="give one channel"):
        load_label_map(tmp_path / f"a{suffix}", ORGANS, case="1")
