"""Every input that must be refused, and what is said; each is made by spoiling a good one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError
from client.data.files.image_io import read_image, write_label_map
from client.data.folder.entries import scan_files
from client.data.labels.label_file import read_label_map

ORGANS = {"bladder": 1, "prostate": 2}
SUFFIXES = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"]


def make_image(array: NDArray[np.generic] | None = None) -> sitk.Image:
    if array is None:
        array = np.random.default_rng(1).integers(0, 900, (6, 20, 30)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    if image.GetDimension() == 3:
        image.SetSpacing((0.5, 0.6, 3.0))
        image.SetOrigin((-10.0, 20.0, 5.0))
    return image


def save(image: sitk.Image, path: Path, *, compress: bool = False) -> Path:
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def save_series(
    folder: Path, positions_mm: list[float], uid: str = "1.2.3", tilt: float = 0.0
) -> Path:
    """Axial slices of 8 x 7 voxels as one DICOM series, positions along z."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    rng = np.random.default_rng(2)
    for number, position_mm in enumerate(positions_mm):
        image = sitk.GetImageFromArray(rng.integers(0, 900, (1, 7, 8)).astype(np.uint16))
        image.SetSpacing((0.5, 0.5, 3.0))
        cosine, sine = np.cos(number * tilt), np.sin(number * tilt)
        image.SetDirection((1, 0, 0, 0, cosine, -sine, 0, sine, cosine))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{uid}.{number}",
            "0008|0060": "MR",
            "0020|000d": "1.2.4",
            "0020|000e": uid,
            "0020|0032": f"-10\\20\\{position_mm}",
            "0020|0037": f"1\\0\\0\\0\\{cosine}\\{sine}",
            "0020|0013": str(number),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        image.SetOrigin((-10.0, 20.0, position_mm))
        writer.SetFileName(str(folder / f"{uid}.{number:02}.dcm"))
        writer.Execute(image)
    return folder


def voxel_file(path: Path) -> Path:
    """The file that holds the voxels: of a header, the one beside it."""
    beside = [path.with_suffix(suffix) for suffix in (".raw", ".zraw", ".raw.gz")]
    return next((file for file in beside if file.exists()), path)


def test_unspoilt_inputs_are_accepted(tmp_path: Path) -> None:
    for number, suffix in enumerate(SUFFIXES):
        for compress in (False, True):
            path = save(make_image(), tmp_path / f"{number}{compress}{suffix}", compress=compress)
            assert read_image(path, case="014").GetSize() == (30, 20, 6)
    series = read_image(save_series(tmp_path / "series", [0, 3, 6, 9]), case="014")
    assert series.GetSize() == (8, 7, 4)
    assert series.GetSpacing() == pytest.approx((0.5, 0.5, 3.0))
    assert series.GetOrigin() == pytest.approx((-10.0, 20.0, 0.0))


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_short(tmp_path: Path, suffix: str, compress: bool, keep: float) -> None:
    path = save(make_image(), tmp_path / f"a{suffix}", compress=compress)
    spoilt = voxel_file(path)
    spoilt.write_bytes(spoilt.read_bytes()[: int(spoilt.stat().st_size * keep)])
    with pytest.raises(ScanError, match=r"case 014: image a\..*(cut short|not a single-file)"):
        read_image(path, case="014")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
def test_damaged_inside(tmp_path: Path, suffix: str) -> None:
    """Of the compressed formats ITK returns some with voxels that were never measured."""
    path = save(make_image(), tmp_path / f"a{suffix}", compress=True)
    spoilt = voxel_file(path)
    content = bytearray(spoilt.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 50] = bytes(50)
    spoilt.write_bytes(content)
    with pytest.raises(ScanError, match="cut short or damaged; copy or export it again"):
        read_image(path, case="014")


def with_value(value: float) -> NDArray[np.float32]:
    array = np.zeros((4, 5, 6), np.float32)
    array[0, 0, 0], array[1, 2, 3] = 1, value
    return array


def rgb() -> sitk.Image:
    return sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)


BAD_IMAGES: dict[str, tuple[Callable[[], sitk.Image], str]] = {
    "two_dimensions": (lambda: make_image(np.eye(9)), "is 2-D, (9, 9); give a 3-D image"),
    "four_dimensions": (
        lambda: sitk.GetImageFromArray(np.zeros((2, 4, 5, 6)), isVector=False),
        "is 4-D, (6, 5, 4, 2); give a 3-D image",
    ),
    "colours": (rgb, "has 3 channels a voxel; give one channel"),
    "thin": (lambda: make_image(np.eye(9)[None]), "is one voxel thin, (9, 9, 1)"),
    "nan": (lambda: make_image(with_value(np.nan)), "is NaN or infinite in 1 voxel(s)"),
    "infinite": (lambda: make_image(with_value(-np.inf)), "is NaN or infinite in 1 voxel(s)"),
    "constant": (lambda: make_image(np.full((4, 5, 6), 7.0)), "is constant"),
}


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image(tmp_path: Path, name: str, suffix: str) -> None:
    make, message = BAD_IMAGES[name]
    path = save(make(), tmp_path / f"a{suffix}")
    with pytest.raises(ScanError) as caught:
        read_image(path, case="014")
    assert str(caught.value).startswith(f"case 014: image a{suffix} {message}")


def write_text(path: Path) -> Path:
    path.write_text("not a scan\n" * 200, encoding="utf-8")
    return path


def twins(folder: Path) -> Path:
    save(make_image(), folder / "a.nii")
    return save(make_image(), folder / "a.nii.gz")


def header_alone(folder: Path) -> Path:
    path = save(make_image(), folder / "a.mhd")
    (folder / "a.raw").unlink()
    return path


def header_of_many(folder: Path) -> Path:
    path = save(make_image(), folder / "a.mhd")
    path.write_text(path.read_text().replace("a.raw", "a.%02d.raw 1 6 1"))
    return path


BAD_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "a.nii.gz", "a.nii.gz does not exist"),
    "unknown_format": (lambda folder: write_text(folder / "a.txt"), "of no known format"),
    "text_as_nii": (lambda folder: write_text(folder / "a.nii"), "not a single-file NIfTI"),
    "text_as_nii_gz": (lambda folder: write_text(folder / "a.nii.gz"), "cut short or damaged"),
    "text_as_mha": (lambda folder: write_text(folder / "a.mha"), "cannot be read as .mha"),
    "text_as_nrrd": (lambda folder: write_text(folder / "a.nrrd"), "cannot be read as .nrrd"),
    "twins": (twins, "stands beside a file of the same name; keep one of the two (a.nii)"),
    "header_alone": (
        header_alone,
        "the file of its voxels is missing; copy both files together (a.raw)",
    ),
    "header_of_many": (header_of_many, "spread over several files"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path: Path, name: str) -> None:
    make, message = BAD_FILES[name]
    with pytest.raises(ScanError) as caught:
        read_image(make(tmp_path), case="014")
    assert message in str(caught.value)
    assert str(caught.value).startswith("case 014: image a.")
    assert str(tmp_path) not in str(caught.value)  # a path may name a patient
    assert "ITK" not in str(caught.value)


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def two_series(folder: Path) -> Path:
    save_series(folder, [0, 3, 6])
    return save_series(folder, [0, 3, 6], uid="1.2.9")


def cut_slice(folder: Path) -> Path:
    """At the end of the series, where no gap betrays it."""
    save_series(folder, [0, 3, 6, 9])
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-40])
    return folder


BAD_SERIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (empty, "is an empty folder; copy its files again"),
    "two_series": (two_series, "holds 2 DICOM series of one description; keep exactly one"),
    "slice_missing": (
        lambda folder: save_series(folder, [0, 3, 9, 12]),
        "unevenly spaced, 3 to 6 mm; a slice is missing",
    ),
    "slice_twice": (lambda folder: save_series(folder, [0, 3, 3, 6]), "two slices lie on one"),
    "tilted": (lambda folder: save_series(folder, [0, 3, 6], tilt=0.1), "tilted to each other"),
    "slice_cut_short": (
        cut_slice,
        "cannot be read; copy or export the series again (first: 1.2.3.03.dcm)",
    ),
    "one_slice": (lambda folder: save_series(folder, [0]), "is one voxel thin"),
}


@pytest.mark.parametrize("name", BAD_SERIES)
def test_bad_series(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = BAD_SERIES[name]
    folder = make(tmp_path / "series")
    capfd.readouterr()
    with pytest.raises(ScanError) as caught:
        read_image(folder, case="014")
    assert message in str(caught.value)
    assert "WARNING" not in capfd.readouterr().err


def shifted(image: sitk.Image) -> sitk.Image:
    image.SetOrigin((-10.0, 20.3, 5.0))  # half a voxel: corners taken for centres
    return image


def coarser(image: sitk.Image) -> sitk.Image:
    image.SetSpacing((0.5, 0.6, 1.0))
    return image


def turned(image: sitk.Image) -> sitk.Image:
    image.SetDirection((0.999, -0.0447, 0, 0.0447, 0.999, 0, 0, 0, 1))
    return image


def fraction(image: sitk.Image) -> sitk.Image:
    return sitk.Cast(image, sitk.sitkFloat32) * 0.5


BAD_LABELS: dict[str, tuple[Callable[[sitk.Image], sitk.Image], str]] = {
    "shifted": (shifted, "not on the image grid: origin (-10, 20.3, 5) mm against (-10, 20, 5)"),
    "coarser": (coarser, "spacing (0.5, 0.6, 1) mm against (0.5, 0.6, 3) mm; resample it with"),
    "turned": (turned, "not on the image grid: direction cosines (0.999, -0.0447, 0,"),
    "cropped": (lambda label: label[:, :, 1:], "size (30, 20, 5) against (30, 20, 6); resample"),
    "foreign_value": (lambda label: label * 5, "holds the values 5, allowed are 0 and bladder=1"),
    "negative": (
        lambda label: -sitk.Cast(label, sitk.sitkInt16),
        "holds the values -1, allowed are 0 and bladder=1, prostate=2",
    ),
    "fraction": (fraction, "holds values that are not integers; resample it with nearest"),
    "nan": (
        lambda label: sitk.Cast(label, sitk.sitkFloat32) / 0.0 * 0.0,
        "is NaN or infinite in",
    ),
}


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_label_map(tmp_path: Path, name: str, suffix: str) -> None:
    image = make_image()
    spoil, message = BAD_LABELS[name]
    label = spoil(sitk.Cast(image > 450, sitk.sitkUInt8))
    path = save(label, tmp_path / f"a{suffix}")
    with pytest.raises(ScanError) as caught:
        read_label_map(path, image, ORGANS, case="014")
    assert message in str(caught.value)
    assert str(caught.value).startswith("case 014: label map ")


def test_bad_folder(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="folder nowhere: does not exist"):
        scan_files(tmp_path / "nowhere")
    save(make_image(), tmp_path / "a.mha")
    save(make_image(), tmp_path / "a.nii.gz")
    shutil.copytree(save_series(tmp_path / "b", [0, 3]), tmp_path / "a")
    with pytest.raises(
        ScanError, match=r"case a is there more than once; keep one \(a, a.mha, a.nii.gz\)"
    ):
        scan_files(tmp_path)


BAD_WRITES: dict[str, tuple[NDArray[np.generic], str, str]] = {
    "two_files": (np.zeros((6, 20, 30)), "a.mhd", "cannot write this format"),
    "shape": (np.zeros((30, 20, 6)), "a.mha", "has shape (30, 20, 6), its image (6, 20, 30)"),
    "fractions": (np.full((6, 20, 30), 0.5), "a.mha", "not integers from 0 to 255"),
    "too_large": (np.full((6, 20, 30), 256), "a.mha", "not integers from 0 to 255"),
    "no_folder": (np.zeros((6, 20, 30)), "nowhere/a.mha", "cannot be written"),
}


@pytest.mark.parametrize("name", BAD_WRITES)
def test_bad_write(tmp_path: Path, name: str) -> None:
    label, file, message = BAD_WRITES[name]
    with pytest.raises(ScanError) as caught:
        write_label_map(label, make_image(), tmp_path / file)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
