"""Reading and writing scans and label maps with SimpleITK, their geometry kept.

NIfTI, MetaImage, NRRD, and a folder whose tree holds one DICOM series. What cannot be used is
refused here, with what to do about it, so that nothing behind this door checks a file again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.geometry import GeometryError, format_numbers, usable_geometry
from client.data.dicom.objects import is_dicom
from client.data.dicom.series import find_series, read_series, series_grid
from client.data.errors import ScanError, not_written
from client.data.files.geometry import (
    ImageGrid,
    check_plausible,
    same_grid_error,
    unplaced,
)
from client.data.files.integrity import check_header, check_integrity, header_reading
from client.data.files.itk_reader import itk_quiet, open_image
from client.data.files.readings import Reading, check_same
from client.data.files.values import as_floats, finite_voxels, note_few_values
from client.data.files.writing import write_image
from client.data.folder.entries import (
    IMAGE_IO,
    check_entry,
    suffix_of,
)
from client.data.folder.names import check_name
from client.data.labels.segment_names import read_segment_names
from client.data.notes import Note, unheard

_WRITABLE = (".nii.gz", ".nii", ".mha", ".nrrd")  # one file each, so that it can be replaced
_INTEGER_TOLERANCE = 1e-3  # a label stored with a slope comes back as 0.9999999


def read_image(
    path: Path,
    *,
    case: str,
    series_patterns: Sequence[str] = (),
    note: Note = unheard,
    cut: bool | None = None,
) -> sitk.Image:
    """Read a scan as a 3-D image of 32-bit floats.

    Args:
        path: A .nii, .nii.gz, .mha, .mhd, .nrrd or .nhdr file, or a folder whose tree holds one
            DICOM series.
        case: The case's name, for messages.
        series_patterns: Of the description of the DICOM series; (): the only one.
        note: Called with what is valid but seldom meant, a line each.
        cut: As for `find_series`.

    Raises:
        ScanError: It is missing, damaged, cut short, not 3-D, of several channels, holds NaN or
            infinite voxels or such as 32-bit floats do not hold, is constant, or is a label map by
            its header.
    """
    location = f"case {case}: image {path.name}"
    _check_is_scan(path, location)
    stored = _read(path, location, "scan", series_patterns, note, cut=cut)
    image = as_floats(stored, location=location)
    del stored
    voxels = finite_voxels(image, location=location)
    _check_thickness(image.GetSize(), location)
    check_plausible(ImageGrid.of(image, image.GetSize()), location=location)
    if voxels.min() == voxels.max():
        raise ScanError(
            location, "is constant, every voxel is the same; export it again", rule="constant"
        )
    note_few_values(voxels, note)
    return image


def read_grid(path: Path, *, case: str, series_patterns: Sequence[str] = ()) -> ImageGrid:
    """Where a scan lies, from its header; its voxels are neither read nor checked.

    Args:
        path: As for `read_image`.
        case: The case's name, for messages.
        series_patterns: As for `read_image`.

    Raises:
        ScanError: `read_image` would raise the same, for what the header alone shows.
    """
    location = f"case {case}: image {path.name}"
    _check_there(path, location)
    _check_is_scan(path, location)
    with itk_quiet():
        if is_dicom(path):
            series = find_series(path, location=location, patterns=series_patterns)
            grid = series_grid(series, location=location)
            size: Sequence[int] = grid.shape[::-1]
            standing = grid.image(np.zeros((1, 1, 1), np.uint8))
        else:
            check_header(path, location=location)
            header = header_reading(path, location=location)
            with open_image(path, header, location) as opened:
                size, standing = opened.reader.GetSize(), opened.stand_in()
            _check_readings(header, standing, location)
    _check_thickness(size, location)
    found = ImageGrid.of(_usable(standing, size, location), size)
    check_plausible(found, location=location)
    return found


def load_numbers(
    path: Path, location: str, note: Note = unheard, *, layers: bool = False
) -> sitk.Image:
    """Read a map of integers, whatever they mean, with its own geometry.

    Args:
        path: As for `read_image`.
        location: How a message begins.
        note: Called with what is valid but seldom meant, a line each.
        layers: Several numbers a voxel, as layers of overlapping segments, are read too.

    Raises:
        ScanError: It cannot be read, or holds values that are not integers.
    """
    image = _read(path, location, "label", note=note, layers=layers)
    check_plausible(ImageGrid.of(image, image.GetSize()), location=location, whole=False)
    if "float" not in image.GetPixelIDTypeAsString():
        return image
    voxels = finite_voxels(image, location=location)
    if np.any(np.abs(voxels - np.rint(voxels)) > _INTEGER_TOLERANCE):
        raise ScanError(
            location,
            "holds values that are not integers; resample it with nearest neighbour",
            rule="values",
        )
    if np.any(np.abs(voxels) > np.iinfo(np.int32).max):  # a cast would make other numbers of them
        raise ScanError(
            location,
            f"holds values up to {np.abs(voxels).max():.6g}, which are no numbers of organs; save"
            " it as integers",
            rule="values",
        )
    numbers = np.rint(voxels).astype(np.int32)
    rounded = sitk.GetImageFromArray(numbers, isVector=numbers.ndim > 3)
    rounded.CopyInformation(image)
    return rounded


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
    location = f"label map {path.name}"
    check_name(path, location)
    suffix = suffix_of(path)
    if suffix not in _WRITABLE:
        raise ScanError(
            location, f": cannot write this format; name it {', '.join(_WRITABLE)}", rule="format"
        )
    if isinstance(label, sitk.Image):
        difference = same_grid_error(label, like)
        if difference is not None:
            raise ScanError(location, f"is not on the image grid: {difference}", rule="grid")
        label = sitk.GetArrayFromImage(label)  # a view would not keep its image alive
    if label.shape != like.GetSize()[::-1]:
        raise ScanError(
            location, f"has shape {label.shape}, its image {like.GetSize()[::-1]}", rule="grid"
        )
    as_bytes = label.astype(np.uint8)
    if not np.array_equal(as_bytes, label):
        raise ScanError(location, "holds values that are not integers from 0 to 255", rule="values")
    image = sitk.GetImageFromArray(as_bytes)
    image.CopyInformation(like)
    try:
        write_image(image, path, unplaced=unplaced(like))
    except (RuntimeError, OSError) as error:
        raise not_written(location, error) from error


def _read(
    path: Path,
    location: str,
    what: str,
    patterns: Sequence[str] = (),
    note: Note = unheard,
    *,
    layers: bool = False,
    cut: bool | None = None,
) -> sitk.Image:
    """One file or series as ITK reads it, of three dimensions, of one channel but for layers."""
    _check_there(path, location)
    with itk_quiet():
        if is_dicom(path):
            image = read_series(path, location=location, patterns=patterns, note=note, cut=cut)
        else:
            image = _read_file(
                path, location, lambda line: note(f"its {what} {line}"), layers=layers
            )
    return _usable(image, image.GetSize(), location)


def _check_is_scan(path: Path, location: str) -> None:
    if read_segment_names(path, location=location).segments:
        raise ScanError(
            location,
            "is a label map whose header names its values; give the scan that it was drawn on",
            rule="format",
        )


def _check_there(path: Path, location: str) -> None:
    check_entry(path, location)
    if not is_dicom(path) and suffix_of(path) is None:
        known = ", ".join(IMAGE_IO)
        raise ScanError(
            location, f"is of no known format; give {known} or a DICOM folder", rule="format"
        )


def _read_file(path: Path, location: str, note: Note, *, layers: bool) -> sitk.Image:
    check_integrity(path, location=location)
    header = header_reading(path, location=location, note=note)
    with open_image(path, header, location, layers=layers) as opened:
        _check_readings(header, opened.stand_in(), location)
        return opened.voxels()


def _check_readings(header: Reading | None, by_itk: sitk.Image, location: str) -> None:
    """Raise where a header does not say one geometry, that of ITK's reading."""
    if header is not None:
        grid = ImageGrid.of(by_itk, by_itk.GetSize())
        check_same(header, Reading.of_grid(grid, "ITK's reading of it"), location=location)


def _usable(image: sitk.Image, size_xyz: Sequence[int], location: str) -> sitk.Image:
    try:
        return usable_geometry(image, size_xyz)
    except GeometryError as error:
        raise ScanError(
            location,
            f"has a geometry that cannot be used: {error}; export it again",
            rule="undefined",
        ) from error


def _check_thickness(size_xyz: Sequence[int], location: str) -> None:
    if min(size_xyz) < 2:
        raise ScanError(
            location,
            f"is one voxel thin, {format_numbers(size_xyz)}; give a volume",
            rule="dimensions",
        )
