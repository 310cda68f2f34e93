"""Values of voxels: as both readers have them, told apart by 32-bit floats, and no label map's."""

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.errors import ScanError
from client.data.files.image_io import load_numbers, read_grid, read_image
from client.data.labels.label_file import read_label_map

VOXELS = np.arange(1, 9 * 8 * 7 + 1, dtype=np.int16).reshape(9, 8, 7)
NUMBERS = st.sampled_from([0, 1, 2, -1, -0.5, 3, 1e-20, 1e-40, 1e10, np.nan, np.inf, -np.inf])


def nifti(path: Path, voxels: np.ndarray, slope: float = 1, inter: float = 0) -> Path:
    image = nib.Nifti1Image(voxels, np.eye(4), dtype=voxels.dtype)
    image.set_qform(np.eye(4), 1)
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, 112, slope, inter)
    path.write_bytes(content)
    return path


def by_nibabel(path: Path) -> np.ndarray | None:
    try:
        return np.asarray(nib.load(path).dataobj).transpose()
    except nib.spatialimages.HeaderDataError:
        return None


@settings(max_examples=144, deadline=None, derandomize=True)
@given(slope=NUMBERS, inter=NUMBERS)
def test_a_scan_is_read_as_nibabel_reads_it_or_refused(
    tmp_path_factory: pytest.TempPathFactory, slope: float, inter: float
) -> None:
    path = nifti(tmp_path_factory.mktemp("scan") / "a.nii", VOXELS, slope, inter)
    itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    other = by_nibabel(path)
    same = other is not None and np.allclose(itk, other, rtol=1e-5, atol=0)
    try:
        read = read_image(path, case="a")
    except ScanError as error:
        assert not same or np.ptp(itk) == 0 or np.ptp(other) == 0
        assert str(error).startswith("case a: image a.nii")
    else:
        np.testing.assert_allclose(sitk.GetArrayFromImage(read), other, rtol=1e-5)


@pytest.mark.parametrize(("slope", "inter"), [(0, 1), (np.nan, 1), (2, np.nan), (0, -1)])
def test_no_door_opens_to_values_in_doubt(tmp_path: Path, slope: float, inter: float) -> None:
    path = nifti(tmp_path / "a.nii", VOXELS, slope, inter)
    for read in (
        lambda: load_numbers(path, "label a"),
        lambda: read_image(path, case="a"),
        lambda: read_grid(path, case="a"),
    ):
        with pytest.raises(ScanError, match=r"two values of a voxel: .* to ITK, .* to nibabel"):
            read()


@pytest.mark.parametrize(
    "change", [lambda v: v + 2**20, lambda v: v * 2.0**60, lambda v: -v * 1e-30]
)
def test_wide_values_that_floats_tell_apart_are_read(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    voxels = change(VOXELS.astype(np.float64))
    read = read_image(nifti(tmp_path / "a.nii", voxels), case="a")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read).T, voxels.astype(np.float32))


@pytest.mark.parametrize(
    ("voxels", "values"),
    [
        (VOXELS % 8, 8),
        (VOXELS % 2 * 255, 2),
        (VOXELS % 9, None),
        (VOXELS % 3 + np.float32(0.5), None),
    ],
)
def test_few_whole_numbers_are_told(tmp_path: Path, voxels: np.ndarray, values: int | None) -> None:
    told: list[str] = []
    read_image(nifti(tmp_path / "a.nii", voxels), case="a", note=told.append)
    wanted = [] if values is None else [f"its scan holds {values} values alone; look"]
    assert [line.partition(" whether")[0] for line in told] == wanted


def test_a_label_map_that_is_also_the_scan_is_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", (VOXELS % 3).astype(np.uint8))
    scan = read_image(path, case="a")
    with pytest.raises(ScanError, match="image is its own label map") as caught:
        read_label_map(path, scan, {"bladder": 1, "prostate": 2}, case="a")
    assert caught.value.problem.rule == "values"
    other = nifti(tmp_path / "b.nii", (VOXELS % 3 * (VOXELS < 99)).astype(np.uint8))
    read_label_map(other, scan, {"bladder": 1, "prostate": 2}, case="a")


@pytest.mark.parametrize(
    ("space", "axes"),
    [("right-anterior-superior", "x and y"), ("left-anterior-superior", "y")],
)
def test_a_label_in_the_wrong_space_is_told_as_such(tmp_path: Path, space: str, axes: str) -> None:
    image = sitk.GetImageFromArray((VOXELS % 3).astype(np.uint8))
    image.SetOrigin((10, 20, 30))
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(image, str(path), False)
    scan = sitk.Cast(image, sitk.sitkFloat32) * 2
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode()))
    with pytest.raises(ScanError, match=f"where {axes} point the other way, .* the wrong space"):
        read_label_map(path, scan, {"bladder": 1, "prostate": 2}, case="a")
