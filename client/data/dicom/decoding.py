"""Grey values of DICOM files: decoded by GDCM, rescaled by slope and intercept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
    generate_uid,
)

from client.data.dicom.headers import DAMAGED, load, text
from client.data.errors import ScanError

_PIXELS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)

_PADDING = 128  # bytes that may follow the pixels of a small slice
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_UNCHANGED = ("1", "0")  # what either is where a header has neither


def decode(file: Path, size: tuple[int, ...], *, location: str) -> NDArray[np.float32]:
    """The grey values of a file of one slice, rescaled by its header, in the shape of `size`.

    Raises:
        ScanError: It is damaged, or holds another number of pixels.
    """
    header = load(file, location=location, tags=("SOPClassUID", *_PIXELS), pixels=True)
    check_length(header, file, location=location)
    try:
        return _by_gdcm(file, size)
    except (RuntimeError, ValueError):
        # GDCM also stumbles over what is no matter of pixels: a slice's own spacing of 0, graphics
        # in unused bits. Without these the pixels are read, or they are damaged.
        header = load(file, location=location, pixels=True)
        slope, intercept = rescale((header,), location=location)
        values = stored(header, file, location=location).reshape(size)
        return values * slope + intercept


def stored(header: Dataset, file: Path, *, location: str) -> NDArray[np.float32]:
    """Stored values of all frames, (frames, rows, columns), in the order of the file.

    Args:
        header: Of the file, with its pixels.
        file: For messages.
        location: How a message begins.

    Raises:
        ScanError: It is damaged, or holds another number of pixels.
    """
    check_length(header, file, location=location)
    size = (int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns))
    try:
        if not header.file_meta.TransferSyntaxUID.is_compressed:
            return header.pixel_array.astype(np.float32).reshape(size)
        return _decompressed(header, size)
    except (AttributeError, ValueError, TypeError, RuntimeError) as error:
        # ITK's own words hold paths and addresses.
        raise ScanError(location, DAMAGED, rule="damaged", detail=f"first: {file.name}") from error


def check_length(header: Dataset, file: Path, *, location: str) -> None:
    """Whether there are as many pixels as the header counts: where they end early, GDCM takes for
    the rest whatever was in memory, such as another slice.

    Less than a row more is padding. Of compressed pixels GDCM finds by itself where
    they end early, those of RLE aside.

    Args:
        header: With its pixels.
        file: For messages.
        location: How a message begins.

    Raises:
        ScanError: There are fewer, or more.
    """
    if "PixelData" not in header:
        return
    if header.file_meta.TransferSyntaxUID.is_compressed:
        if header.file_meta.TransferSyntaxUID == RLELossless:
            _check_runs(header, file, location)
        return
    row = int(header.Columns) * int(header.get("BitsAllocated") or 16) // 8
    counted = int(header.get("NumberOfFrames") or 1) * int(header.Rows) * row
    counted *= int(header.get("SamplesPerPixel") or 1)
    found = len(header.PixelData or b"")
    if not counted <= found < counted + max(row, _PADDING):
        raise ScanError(
            location,
            f": a file holds {found} bytes of pixels, its header counts {counted}; it {DAMAGED}",
            rule="damaged",
            detail=f"first: {file.name}",
        )


def _check_runs(header: Dataset, file: Path, location: str) -> None:
    try:
        header.pixel_array  # noqa: B018
    except Exception as error:  # whatever a decoder meets in bytes that are cut
        raise ScanError(location, DAMAGED, rule="damaged", detail=f"first: {file.name}") from error


def rescale(groups: Sequence[Dataset], *, location: str) -> tuple[np.float32, np.float32]:
    """Slope and intercept of a slice, from the first of the data sets that has them.

    Raises:
        ScanError: A slope of 0, what is no number, or one of the two alone (some readers use it,
            some do not), unless it changes nothing.
    """
    found = [[text(group, name) for name in _RESCALE] for group in groups]
    given = next((each for each in found if any(each)), list(_UNCHANGED))
    numbers = [_number(value or default) for value, default in zip(given, _UNCHANGED, strict=True)]
    slope, intercept = numbers
    if slope == 0 or not np.isfinite(numbers).all():
        raise _undefined(location, "rescale slope is 0, or slope and intercept are not two numbers")
    if not all(given) and not all(map(_changes_nothing, groups)):
        there, lacking = _RESCALE if given[0] else reversed(_RESCALE)
        raise _undefined(
            location,
            f"header has a {there} and no {lacking}, which some readers apply and others do not",
        )
    return slope, intercept


def _changes_nothing(group: Dataset) -> bool:
    """Whether slope and intercept are each not there, or 1 and 0; an empty one was lost."""
    return all(
        name not in group or _number(text(group, name)) == _number(default)
        for name, default in zip(_RESCALE, _UNCHANGED, strict=True)
    )


def _number(value: str) -> np.float32:
    try:
        return np.float32(value)
    except ValueError:
        return np.float32("nan")


def _undefined(location: str, why: str) -> ScanError:
    return ScanError(location, f": a slice's {why}; export it again", rule="undefined")


def _decompressed(header: Dataset, size: tuple[int, ...]) -> NDArray[np.float32]:
    """GDCM knows every compression, and would rescale by what it finds: it gets pixels alone."""
    bare = Dataset()
    for name in _PIXELS:
        if name in header:
            bare[name] = header[name]
    bare.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    bare.SOPInstanceUID = generate_uid()
    bare.file_meta = header.file_meta
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with TemporaryDirectory() as folder:
        path = Path(folder, "frames.dcm")
        bare.save_as(path, enforce_file_format=True)
        return _by_gdcm(path, size)


def _by_gdcm(file: Path, size: tuple[int, ...]) -> NDArray[np.float32]:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileName(str(file))
    values: NDArray[np.float32] = sitk.GetArrayFromImage(reader.Execute()).reshape(size)
    return values
