"""Geometries of files: read to known values, or refused with rule, value and hint."""

import re
import struct
from pathlib import Path

import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk

from client.data.case import Case
from client.data.errors import ScanError
from client.data.files.image_io import read_image
from client.data.labels.label_file import load_label_map

VOXELS = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8)
NAN, INFINITE = float("nan"), float("inf")
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def write(path: Path) -> Path:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(path))
    return path


def with_field(path: Path, name: str, value: str) -> Path:
    """Another value of a field of a MetaImage's or an NRRD file's header."""
    pattern = re.compile(rf"^({name} ?[=:] ?).*$".encode(), re.MULTILINE)
    content, count = pattern.subn(rb"\g<1>" + value.encode(), path.read_bytes(), count=1)
    assert count == 1
    path.write_bytes(content)
    return path


def with_numbers(path: Path, at: int, layout: str, *values: float) -> Path:
    """Other numbers in a NIfTI header."""
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, at, *values)
    path.write_bytes(content)
    return path


TINY = "1.6e-303 1 -9e-304 5.9e-303 9e-304 1 -1 1.6e-303 5.9e-303"
TURNED = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # a MetaImage has its axes as rows


def test_tiny_cosines_of_a_meta_image_are_zero(tmp_path: Path) -> None:
    path = with_field(write(tmp_path / "a.mha"), "TransformMatrix", TINY)
    image = read_image(path, case="014")
    assert image.GetDirection() == TURNED
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VOXELS)
    label = load_label_map(
        with_field(write_label(tmp_path / "b.mha"), "TransformMatrix", TINY), {"a": 1}, case="014"
    )
    assert label.GetDirection() == TURNED
    assert sitk.GetArrayFromImage(label).sum() == 1


def write_label(path: Path) -> Path:
    label = sitk.Image((8, 7, 6), sitk.sitkUInt8)
    label[2, 3, 4] = 1
    sitk.WriteImage(label, str(path))
    return path


def test_tiny_cosines_of_an_nrrd_file_are_zero(tmp_path: Path) -> None:
    path = with_field(
        write(tmp_path / "a.nrrd"), "space directions", "(0.5,1e-13,0) (1e-303,0.75,0) (0,0,3)"
    )
    image = read_image(path, case="014")
    assert image.GetDirection() == IDENTITY
    assert image.GetSpacing() == (0.5, 0.75, 3.0)


def test_tiny_cosines_of_a_dicom_series_are_zero(tmp_path: Path) -> None:
    made = ph.Phantom(voxels=VOXELS.astype(np.uint16))

    def tilt(header: ph.Dataset, _: int) -> None:
        header.ImageOrientationPatient = ["1", "1e-13", "0", "-1e-303", "1", "0"]

    ph.write_classic(tmp_path / "a", made, edit=tilt)
    image = read_image(tmp_path / "a", case="014")
    assert image.GetDirection() == IDENTITY


def test_a_real_tilt_of_1e_10_is_kept(tmp_path: Path) -> None:
    path = with_field(write(tmp_path / "a.mha"), "TransformMatrix", "1 -1e-10 0 1e-10 1 0 -0.0 0 1")
    direction = read_image(path, case="014").GetDirection()
    assert direction[1] == 1e-10 and direction[3] == -1e-10


META = {
    "spacing": ("ElementSpacing", "1e-300 1 1", "spacing (1e-300, 1, 1) mm is not between"),
    "huge spacing": ("ElementSpacing", "1 1e29 1", "spacing (1, 1e+29, 1) mm is not between"),
    "spacing overflows": ("ElementSpacing", "1 1e300 1", "NaN, infinite or overflowing geometry"),
    "spacing NaN": ("ElementSpacing", "nan 1 1", "NaN, infinite or overflowing geometry"),
    "origin NaN": ("Offset", "nan 0 0", "NaN, infinite or overflowing geometry"),
    "far away": ("Offset", "1e20 0 0", "index to world and back misses by"),
    "singular": (
        "TransformMatrix",
        "1 0 0 1 0 0 0 0 1",
        "has axes that lie in one plane by its header",
    ),
    "nearly": ("TransformMatrix", "1 0 0 0 1e-13 0 0 0 1", "has axes of length (1, 1e-13, 1)"),
    "scaled": ("TransformMatrix", "2 0 0 0 2 0 0 0 1", "has axes of length (2, 2, 1) by its"),
    "no spacing": ("ElementSpacing", "", "has elementspacing () in its header, must be 3 numbers"),
    "two spacings": ("ElementSpacing", "1 2", "has elementspacing (1 2) in its header"),
    "negative": ("ElementSpacing", "-1 2 3", "has voxels of (-1, 2, 3) mm by its header"),
}
NRRD = {
    "1e300": ("(1e300,0,0) (0,1,0) (0,0,1)", "NaN, infinite or overflowing geometry"),
    "1e-300": ("(1e-300,0,0) (0,1,0) (0,0,1)", "has voxels of (0, 1, 1) mm by its"),
    "singular": ("(1,0,0) (1,0,0) (0,0,1)", "has axes that lie in one plane by its header"),
    "NaN": ("(nan,0,0) (0,1,0) (0,0,1)", "NaN, infinite or overflowing geometry"),
}


@pytest.mark.parametrize("name", META)
def test_meta_image_refused(tmp_path: Path, name: str) -> None:
    field, value, message = META[name]
    check_refused(with_field(write(tmp_path / "a.mha"), field, value), message)


@pytest.mark.parametrize("name", NRRD)
def test_nrrd_refused(tmp_path: Path, name: str) -> None:
    value, message = NRRD[name]
    check_refused(with_field(write(tmp_path / "a.nrrd"), "space directions", value), message)


@pytest.mark.parametrize(
    ("at", "layout", "values", "message"),
    [
        (80, "<f", (NAN,), "NaN, infinite or overflowing geometry"),
        (84, "<f", (INFINITE,), "NaN, infinite or overflowing geometry"),
        (80, "<f", (0.0,), "has voxels of (0, 0.75, 3) mm by its voxel sizes"),
        (80, "<f", (1e-30,), "of (1e-30, 0.75, 3) mm by its voxel sizes"),
        (256, "<f", (NAN,), "NaN, infinite or overflowing geometry"),
        (268, "<f", (INFINITE,), "NaN, infinite or overflowing geometry"),
        (280, "<f", (NAN,), "NaN, infinite or overflowing geometry"),
    ],
)
def test_nifti_refused(
    tmp_path: Path, at: int, layout: str, values: tuple[float, ...], message: str
) -> None:
    check_refused(with_numbers(write(tmp_path / "a.nii"), at, layout, *values), message)


def test_a_nifti_file_that_is_far_away(tmp_path: Path) -> None:
    path = with_numbers(write(tmp_path / "a.nii"), 254, "<h", 0)  # by quaternion and offset alone
    check_refused(with_numbers(path, 268, "<f", 1e20), "index to world and back misses by")


def test_the_matrix_of_a_nifti_file_that_is_not_used_may_be_anything(tmp_path: Path) -> None:
    path = with_numbers(write(tmp_path / "a.nii"), 254, "<h", 0)
    image = read_image(with_numbers(path, 280, "<f", NAN), case="014")
    assert image.GetOrigin() == (1.0, 2.0, 3.0)


def check_refused(path: Path, message: str) -> None:
    with pytest.raises(ScanError) as caught:
        read_image(path, case="014")
    assert str(caught.value).startswith(f"case 014: image {path.name} ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("again")
    assert caught.value.problem.rule in ("undefined", "damaged", "geometry")
    case = Case(name="014", part="labelled", image=path, label=path)
    with pytest.raises(ScanError, match="case 014: label"):
        case.read_label(sitk.Image((8, 7, 6), sitk.sitkUInt8), {"a": 1})
