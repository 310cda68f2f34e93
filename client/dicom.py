"""One DICOM series in a folder, read as one evenly spaced volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.intact import ScanError

_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
# Scanners round slice positions, so steps differ by microns; a lost slice doubles one.
_STEP_TOLERANCE = 0.01  # of the median step


def is_dicom_folder(folder: Path) -> bool:
    """Whether a folder directly holds at least one DICOM file."""
    return any(_is_dicom(file) for file in dicom_files(folder))


def dicom_files(folder: Path) -> list[Path]:
    """The visible files of a series folder in name order, its index (DICOMDIR) left out."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and not file.name.startswith(".") and file.name != "DICOMDIR"
    )


def read_series(folder: Path, *, place: str) -> sitk.Image:
    """Read the one series of a folder, slices sorted by position.

    A slice missing at either end leaves no trace and cannot be found; one missing between
    others can. A single multi-frame file is accepted as ITK reads it.

    Args:
        folder: Holds the files of one series.
        place: How a message begins, e.g. `case 014: image 014`.

    Raises:
        ScanError: No series or several, an unreadable file, slices tilted to each other,
            on one position or unevenly spaced.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        held = f"{len(series)} DICOM series" if series else "no readable DICOM series"
        raise ScanError(place, f"holds {held}; keep exactly one series in a folder", rule="series")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    _check_all_listed(folder, files, place)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ScanError(
            place,
            "cannot be read as one DICOM volume; its slices differ in size or are damaged;"
            " export the series again",
            rule="damaged",
        ) from error
    if len(files) > 1:
        _check_slices(reader, len(files), place)
    return image


def _is_dicom(file: Path) -> bool:
    if file.suffix.lower() == ".dcm":
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _check_all_listed(folder: Path, files: tuple[str, ...], place: str) -> None:
    """GDCM leaves out damaged files in silence; one at the end of a series would go unseen."""
    listed = {Path(file).name for file in files}
    lost = [file for file in dicom_files(folder) if file.name not in listed and _is_dicom(file)]
    if lost:
        raise ScanError(
            place,
            f": {len(lost)} of its DICOM files cannot be read; copy or export the series again",
            rule="damaged",
            detail=f"first: {lost[0].name}",
        )


def _check_slices(reader: sitk.ImageSeriesReader, count: int, place: str) -> None:
    positions = _vectors(reader, _POSITION, count, 3)
    orientations = _vectors(reader, _ORIENTATION, count, 6)
    if positions is None or orientations is None:
        raise ScanError(
            place,
            ": a slice lacks its position or orientation; export the series again",
            rule="slices",
        )
    if np.abs(orientations - orientations[0]).max() > 1e-4:
        raise ScanError(
            place,
            ": its slices are tilted to each other; keep the slices of one stack",
            rule="slices",
        )
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    steps_mm = np.abs(np.diff(positions @ normal))
    low, middle, high = steps_mm.min(), np.median(steps_mm), steps_mm.max()
    if low < 1e-3:
        raise ScanError(
            place,
            ": two slices lie on one position; keep one acquisition in the folder",
            rule="slices",
        )
    if high - low > _STEP_TOLERANCE * middle:
        raise ScanError(
            place,
            f": its slices are unevenly spaced, {low:.4g} to {high:.4g} mm; a slice is missing,"
            " or the series must be resampled first",
            rule="slices",
        )


def _vectors(
    reader: sitk.ImageSeriesReader, tag: str, count: int, length: int
) -> NDArray[np.float64] | None:
    """One DICOM tag of every slice, (count, length); None where a slice does not hold it."""
    rows = []
    for index in range(count):
        text = reader.GetMetaData(index, tag) if reader.HasMetaDataKey(index, tag) else ""
        try:
            rows.append([float(part) for part in text.split("\\")])
        except ValueError:
            return None
        if len(rows[-1]) != length:
            return None
    return np.asarray(rows, dtype=np.float64)
