"""Scans and label maps go through files with voxels and geometry kept."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError
from client.data.files.geometry import same_grid_error
from client.data.files.image_io import read_image, write_label_map
from client.data.folder.entries import scan_files
from client.data.hashing import voxel_hash
from client.data.labels.label_file import load_label_map, read_label_map

SUFFIXES = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"]
ORGANS = {"bladder": 1, "prostate": 2, "rectum": 7}
TILT = (1.0, 0.0, 0.0, 0.0, 0.8, -0.6, 0.0, 0.6, 0.8)

real = pytest.mark.skipif("ASDNET_REAL_DATA" not in os.environ, reason="ASDNET_REAL_DATA not set")


def make_image() -> sitk.Image:
    array = np.random.default_rng(1).integers(-50, 900, (6, 20, 30)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.6, 3.0))
    image.SetOrigin((-10.0, 20.0, 5.0))
    image.SetDirection(TILT)
    return image


def make_labels() -> sitk.Image:
    labels = np.random.default_rng(2).choice([0, 1, 7], (6, 20, 30)).astype(np.uint8)
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(make_image())
    return image


def voxels(image: sitk.Image) -> NDArray[Any]:
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return array


def geometry(image: sitk.Image) -> tuple[float, ...]:
    return (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_image_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    written = make_image()
    sitk.WriteImage(written, str(tmp_path / f"a{suffix}"))
    image = read_image(tmp_path / f"a{suffix}", case="014")
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(voxels(image), voxels(written))
    np.testing.assert_allclose(geometry(image), geometry(written), atol=1e-5)


def nifti(order: str, array: NDArray[np.float32]) -> bytes:
    """A minimal file by the letter of nifti1.h; the array is (z, y, x)."""
    header = bytearray(352)
    fields: list[tuple[int, str, tuple[Any, ...]]] = [
        (0, "i", (348,)),
        (40, "8h", (3, *array.shape[::-1], 1, 1, 1, 1)),
        (70, "2h", (16, 32)),
        (76, "8f", (1, 0.5, 0.6, 3, 1, 1, 1, 1)),
        (108, "f", (352,)),
        (344, "4s", (b"n+1",)),
    ]
    for location, form, values in fields:
        struct.pack_into(order + form, header, location, *values)
    return bytes(header) + array.astype(order + "f4").tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_of_either_byte_order(tmp_path: Path, order: str) -> None:
    array = np.random.default_rng(3).normal(size=(4, 5, 6)).astype(np.float32)
    path = tmp_path / "a.nii"
    path.write_bytes(nifti(order, array))
    image = read_image(path, case="014")
    np.testing.assert_array_equal(voxels(image), array)
    assert image.GetSpacing() == pytest.approx((0.5, 0.6, 3.0))
    path.write_bytes(nifti(order, array)[:-1])
    with pytest.raises(ScanError, match="cut short: 479 of 480 bytes of voxels"):
        read_image(path, case="014")
    array[1, 2, 3] = np.nan
    path.write_bytes(nifti(order, array))
    with pytest.raises(ScanError, match="NaN or infinite in 1 voxel"):
        read_image(path, case="014")


def test_warnings_of_itk_are_given_back(tmp_path: Path) -> None:
    sitk.WriteImage(make_image(), str(tmp_path / "a.mha"))
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    read_image(tmp_path / "a.mha", case="014")
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == before


@pytest.mark.parametrize("dtype", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkFloat64])
def test_label_map_gets_the_images_exact_geometry(tmp_path: Path, dtype: int) -> None:
    image, labels = make_image(), sitk.Cast(make_labels(), dtype)
    labels.SetOrigin(np.add(labels.GetOrigin(), 3e-4).tolist())
    sitk.WriteImage(labels, str(tmp_path / "a.nii.gz"))
    label = read_label_map(tmp_path / "a.nii.gz", image, ORGANS, case="014")
    assert label.GetPixelID() == sitk.sitkUInt8
    assert geometry(label) == geometry(image)
    np.testing.assert_array_equal(voxels(label), voxels(make_labels()))


def test_label_dust_of_a_stored_slope_is_rounded(tmp_path: Path) -> None:
    dusty = sitk.Cast(make_labels(), sitk.sitkFloat32) * 0.99999
    sitk.WriteImage(dusty, str(tmp_path / "a.mha"))
    label = load_label_map(tmp_path / "a.mha", ORGANS, case="014")
    np.testing.assert_array_equal(voxels(label), voxels(make_labels()))


def test_label_map_without_organs_is_valid(tmp_path: Path) -> None:
    sitk.WriteImage(make_labels() * 0, str(tmp_path / "a.mha"))
    label = read_label_map(tmp_path / "a.mha", make_image(), ORGANS, case="014")
    assert not voxels(label).any()


def test_grids_are_equal_to_a_thousandth_of_a_millimetre() -> None:
    image = make_image()
    for shift_mm, equal in [(0.0, True), (0.0009, True), (0.0011, False)]:
        label = make_image()
        label.SetOrigin((-10.0 + shift_mm, 20.0, 5.0))
        assert (same_grid_error(label, image) is None) is equal
    label = make_image()
    label.SetSpacing((0.505, 0.6, 3.0))
    assert same_grid_error(label, image) == "spacing (0.505, 0.6, 3) mm against (0.5, 0.6, 3) mm"


def test_direction_may_differ_as_niftis_quaternion_does() -> None:
    image = make_image()
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    for sine, equal in [(2e-4, True), (4e-4, False)]:
        label = make_image()
        label.SetDirection((1, -sine, 0, sine, 1, 0, 0, 0, 1))
        assert (same_grid_error(label, image) is None) is equal


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_label_map_round_trip(tmp_path: Path, suffix: str) -> None:
    labels, image = make_labels(), make_image()
    for given in (labels, voxels(labels), voxels(labels).astype(np.int64)):
        write_label_map(given, image, tmp_path / f"a{suffix}")
        read = read_label_map(tmp_path / f"a{suffix}", image, ORGANS, case="014")
        np.testing.assert_array_equal(voxels(read), voxels(labels))
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    write_label_map(make_labels(), make_image(), path)
    before = path.read_bytes()

    def full(image: sitk.Image, name: str, useCompression: bool) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", full)
    with pytest.raises(ValueError, match=r"label map a.nii.gz cannot be written"):
        write_label_map(make_labels(), make_image(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_listed_by_case(tmp_path: Path) -> None:
    for name in ["b.nii.gz", "a.v2.MHA", ".hidden.nii", "._b.nii.gz", "notes.txt", "c.raw"]:
        (tmp_path / name).touch()
    for folder, file in [("series", "1.dcm"), ("other", "readme.md"), (".cache", "1.dcm")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "IM0001").write_bytes(bytes(128) + b"DICM")
    found = scan_files(tmp_path)
    assert list(found) == ["a.v2", "b", "c", "plain", "series"]  # c: voxels without a header
    assert found["b"] == tmp_path / "b.nii.gz"


def test_voxel_hash_knows_a_copy_from_another_scan(tmp_path: Path) -> None:
    image = make_image()
    hashes = {voxel_hash(sitk.Cast(image, sitk.sitkFloat32))}
    for name in ["a.nii.gz", "a.mha", "a.nrrd"]:
        sitk.WriteImage(image, str(tmp_path / name))
        hashes.add(voxel_hash(read_image(tmp_path / name, case="014")))
    assert len(hashes) == 1
    other = sitk.Image(image)
    other[3, 3, 3] = other[3, 3, 3] + 1
    assert voxel_hash(other) not in hashes
    resampled = sitk.Image(image)
    resampled.SetSpacing((0.5, 0.6, 1.0))
    assert voxel_hash(resampled) not in hashes


@real
def test_real_dicom_series_is_the_scan_that_was_made_of_it() -> None:
    folder = Path(os.environ["ASDNET_REAL_DATA"]) / "prostatex"
    series = read_image(folder / "dicom_t2w", case="ProstateX-0000")
    scan = read_image(folder / "t2w.mha", case="ProstateX-0000")
    np.testing.assert_array_equal(voxels(series), voxels(scan))
    np.testing.assert_allclose(geometry(series), geometry(scan), atol=1e-3)
    assert voxel_hash(series) == voxel_hash(scan)


@real
@pytest.mark.parametrize("mask", ["zones_AI_HeviAI23", "zones_AI_Yuan23", "gland_AI_Bosma22b"])
def test_real_masks_lie_on_their_scan(mask: str) -> None:
    folder = Path(os.environ["ASDNET_REAL_DATA"]) / "prostatex"
    scan = read_image(folder / "t2w.mha", case="ProstateX-0000")
    zones = {"peripheral": 1, "transition": 2}
    label = read_label_map(folder / f"{mask}.nii.gz", scan, zones, case="ProstateX-0000")
    assert geometry(label) == geometry(scan)
    assert voxels(label).any()
