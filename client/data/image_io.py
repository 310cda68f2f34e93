"""Reading and writing scans and label maps with SimpleITK, their geometry kept.

NIfTI, MetaImage, NRRD, and a folder whose tree holds one DICOM series. What cannot be used is
refused here, with what to do about it, so that nothing behind this door checks a file again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.geometry import GeometryError, usable_geometry
from client.data.dicom.series import is_dicom, is_dicom_folder, read_series
from client.data.integrity import Problem, check_intact
from client.data.integrity import ScanError as ScanError  # raised here, so imported from here
from client.data.label_map import study_dictionary
from protocol.files import atomic_file

_IMAGE_IO = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
}
_WRITABLE = (".nii.gz", ".nii", ".mha", ".nrrd")  # one file each, so that it can be replaced
_SAME_MM = 1e-3
_SAME_COSINE = 3e-4
_INTEGER_TOLERANCE = 1e-3  # a label stored with a slope comes back as 0.9999999


def read_image(path: Path, *, case: str, series_patterns: Sequence[str] = ()) -> sitk.Image:
    """Read a scan as a 3-D image of 32-bit floats.

    Args:
        path: A .nii, .nii.gz, .mha, .mhd, .nrrd or .nhdr file, or a folder whose tree holds one
            DICOM series.
        case: The case's name, for messages.
        series_patterns: Of the description of the DICOM series; (): the only one.

    Raises:
        ScanError: It is missing, damaged, cut short, not 3-D, of several channels, holds NaN or
            infinite voxels, or is constant.
    """
    place = f"case {case}: image {path.name}"
    image = sitk.Cast(_read(path, place, series_patterns), sitk.sitkFloat32)
    voxels = _finite_voxels(image, place)
    if min(image.GetSize()) < 2:
        raise ScanError(
            place, f"is one voxel thin, {_tuple(image.GetSize())}; give a volume", rule="dimensions"
        )
    if voxels.min() == voxels.max():
        raise ScanError(
            place, "is constant, every voxel is the same; export it again", rule="constant"
        )
    return image


def read_label_map(
    path: Path, image: sitk.Image, organs: Mapping[str, int], *, case: str
) -> sitk.Image:
    """Read the label map of an image, as 8-bit integers with exactly the image's geometry.

    Grids count as equal as `same_grid_error` has it; an organ may be absent.

    Args:
        path: As for `read_image`.
        image: The scan that the label map belongs to.
        organs: Value of each organ, 1 to 255; 0 is background.
        case: The case's name, for messages.

    Raises:
        ScanError: It cannot be read, lies on another grid, or holds other values.
    """
    label = load_label_map(path, organs, case=case)
    put_on_grid(label, image, place=f"case {case}: label map")
    return label


def put_on_grid(label: sitk.Image, image: sitk.Image, *, place: str) -> None:
    """Give a label map exactly the geometry of its image, from which it may differ by rounding.

    Raises:
        ScanError: Its grid is another one.
    """
    difference = same_grid_error(label, image)
    if difference is not None:
        raise ScanError(
            place,
            f"is not on the image grid: {difference}; resample it with nearest neighbour",
            rule="grid",
        )
    label.CopyInformation(image)


def load_label_map(path: Path, organs: Mapping[str, int], *, case: str) -> sitk.Image:
    """Read a label map that has no image beside it, with its own geometry.

    Args and Raises as for `read_label_map`, the grid left aside.
    """
    place = f"case {case}: label map {path.name}"
    return study_dictionary(organs).translate(load_numbers(path, place), case=case, place=place)


def load_numbers(path: Path, place: str) -> sitk.Image:
    """Read a map of whole numbers, whatever they mean, with its own geometry.

    Raises:
        ScanError: It cannot be read, or holds values that are not integers.
    """
    image = _read(path, place)
    if "float" not in image.GetPixelIDTypeAsString():
        return image
    voxels = _finite_voxels(image, place)
    if np.any(np.abs(voxels - np.rint(voxels)) > _INTEGER_TOLERANCE):
        raise ScanError(
            place,
            "holds values that are not integers; resample it with nearest neighbour",
            rule="values",
        )
    return sitk.Cast(sitk.Round(image), sitk.sitkInt32)


def same_grid_error(label: sitk.Image, image: sitk.Image) -> str | None:
    """The first difference of two grids, for a message; None where they count as equal.

    Equal: the same size, spacing and origin to 1e-3 mm, direction cosines to 3e-4.  The last is
    wide enough for NIfTI, whose 32-bit quaternion turns a grid by up to 2e-4 (seen in public
    masks of one scan), which is harmless: a tenth of a voxel at the corners of 200 mm.
    """
    for what, unit, tolerance, of_label, of_image in (
        ("size", "", 0.0, label.GetSize(), image.GetSize()),
        ("spacing", " mm", _SAME_MM, label.GetSpacing(), image.GetSpacing()),
        ("origin", " mm", _SAME_MM, label.GetOrigin(), image.GetOrigin()),
        ("direction cosines", "", _SAME_COSINE, label.GetDirection(), image.GetDirection()),
    ):
        if not np.allclose(of_label, of_image, rtol=0, atol=tolerance):
            return f"{what} {_tuple(of_label)}{unit} against {_tuple(of_image)}{unit}"
    return None


def write_label_map(label: NDArray[Any] | sitk.Image, like: sitk.Image, path: Path) -> None:
    """Write a label map with the geometry of an image; readers see the old file or the new.

    Args:
        label: Values 0 to 255; an array is in (z, y, x) order and an image on the grid of `like`.
        like: The image whose geometry the file gets.
        path: A .nii, .nii.gz, .mha or .nrrd file in a folder that exists.

    Raises:
        ScanError: Another suffix, shape or grid, values that are not integers of 0 to 255, or a
            file that cannot be written.
    """
    place = f"label map {path.name}"
    suffix = _suffix(path)
    if suffix not in _WRITABLE:
        raise ScanError(
            place, f": cannot write this format; name it {', '.join(_WRITABLE)}", rule="format"
        )
    if isinstance(label, sitk.Image):
        difference = same_grid_error(label, like)
        if difference is not None:
            raise ScanError(place, f"is not on the image grid: {difference}", rule="grid")
        label = sitk.GetArrayFromImage(label)  # a view would not keep its image alive
    if label.shape != like.GetSize()[::-1]:
        raise ScanError(
            place, f"has shape {label.shape}, its image {like.GetSize()[::-1]}", rule="grid"
        )
    as_bytes = label.astype(np.uint8)
    if not np.array_equal(as_bytes, label):
        raise ScanError(place, "holds values that are not integers from 0 to 255", rule="values")
    image = sitk.GetImageFromArray(as_bytes)
    image.CopyInformation(like)
    try:
        with atomic_file(path) as draft:
            sitk.WriteImage(image, str(draft), useCompression=True)
    except (RuntimeError, OSError) as error:
        raise ScanError(
            place, "cannot be written; check its folder and the disk", rule="closed"
        ) from error


def scan_files(folder: Path) -> dict[str, Path]:
    """Readable scans of a folder by case name, sorted: files without suffix, DICOM folders.

    Hidden files (macOS's `._*` among them) and files of other kinds are passed over.

    Raises:
        ScanError: The folder is missing, or two of its entries have one case name.
    """
    found = scan_entries(folder)
    for case, paths in found.items():
        if len(paths) > 1:
            raise ScanError(**vars(double_problem(folder, case, paths)))
    return {case: paths[0] for case, paths in found.items()}


def scan_entries(folder: Path) -> dict[str, list[Path]]:
    """As `scan_files`, with every entry that has the case's name.

    Raises:
        ScanError: The folder is missing.
    """
    if not folder.is_dir():
        raise ScanError(
            f"folder {folder.name}",
            ": does not exist; create it or correct the path",
            rule="missing",
        )
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        suffix = _suffix(path)
        if path.name.startswith("."):
            continue
        if suffix is None and path.is_file() and is_dicom(path):
            suffix = path.suffix
        if path.is_file() and suffix is not None:
            found.setdefault(path.name[: -len(suffix)], []).append(path)
        elif path.is_dir() and is_dicom_folder(path):
            found.setdefault(path.name, []).append(path)
    return dict(sorted(found.items()))


def case_name(path: Path) -> str:
    """A scan file's name without the suffix of its format; any other name as it is."""
    return path.name[: len(path.name) - len(_suffix(path) or "")]


def double_problem(folder: Path, case: str, paths: Sequence[Path]) -> Problem:
    """What is said of a case that several entries of a folder could be."""
    return Problem(
        rule="name",
        place=f"folder {folder.name}: case {case}",
        said="is there more than once; keep one",
        detail=", ".join(path.name for path in paths),
    )


def voxel_hash(image: sitk.Image) -> str:
    """SHA-256 of what a scan shows: voxels (as 32-bit floats), size and spacing (to 0.01 mm).

    The same for a copy that was compressed or converted. Origin and direction are left out:
    conversion and de-identification rewrite them, and the scan is still the same one.
    """
    digest = hashlib.sha256()
    digest.update(repr((image.GetSize(), [f"{mm:.2f}" for mm in image.GetSpacing()])).encode())
    for voxels in sitk.GetArrayViewFromImage(image):  # slice by slice: no copy of the whole
        digest.update(np.ascontiguousarray(voxels.astype("<f4") + np.float32(0)).data)  # no -0
    return digest.hexdigest()


def _read(path: Path, place: str, patterns: Sequence[str] = ()) -> sitk.Image:
    """One file or series as ITK reads it, of one channel and three dimensions."""
    if not path.exists():
        raise ScanError(place, "does not exist; check the name and the folder", rule="missing")
    with _itk_quiet():
        if is_dicom(path):
            image = read_series(path, place=place, patterns=patterns)
        else:
            image = _read_file(path, place)
    try:
        return usable_geometry(image)
    except GeometryError as error:
        raise ScanError(
            place,
            f"has a geometry that cannot be used: {error}; export it again",
            rule="undefined",
        ) from error


def _read_file(path: Path, place: str) -> sitk.Image:
    suffix = _suffix(path)
    if suffix is None:
        known = ", ".join(_IMAGE_IO)
        raise ScanError(
            place, f"is of no known format; give {known} or a DICOM folder", rule="format"
        )
    check_intact(path, place=place)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_IMAGE_IO[suffix])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_kind(reader, place)
        return reader.Execute()
    except RuntimeError as error:
        # ITK's own words hold paths and addresses, and name the wrong cause as often as not.
        raise ScanError(
            place,
            f"cannot be read as {suffix}: it is damaged, cut short or of another format; copy or"
            " export it again",
            rule="damaged",
        ) from error


def _check_kind(reader: sitk.ImageFileReader, place: str) -> None:
    if reader.GetDimension() != 3:
        raise ScanError(
            place,
            f"is {reader.GetDimension()}-D, {_tuple(reader.GetSize())}; give a 3-D image",
            rule="dimensions",
        )
    channels = reader.GetNumberOfComponents()
    if channels != 1:
        raise ScanError(
            place, f"has {channels} channels a voxel; give one channel", rule="dimensions"
        )


def _finite_voxels(image: sitk.Image, place: str) -> NDArray[Any]:
    voxels: NDArray[Any] = sitk.GetArrayViewFromImage(image)
    undefined = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if undefined:
        raise ScanError(
            place,
            f"is NaN or infinite in {undefined} voxel(s); give them a value first",
            rule="undefined",
        )
    return voxels


@contextmanager
def _itk_quiet() -> Iterator[None]:
    """Our errors say what ITK's warnings would, without its paths and addresses."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in _IMAGE_IO if name.endswith(suffix)), None)


def _tuple(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"
