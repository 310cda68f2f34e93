"""ITK's reader of one image file: its header first, its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from asdnet_models.geometry import format_numbers
from client.data.entries import IMAGE_IO, suffix_of
from client.data.errors import ScanError


def open_header(path: Path, location: str, *, layers: bool = False) -> sitk.ImageFileReader:
    """A file whose header is read: 3-D, of one channel but for layers; `Execute` reads the voxels.

    Raises:
        ScanError: It has other dimensions, or several channels.
        RuntimeError: ITK cannot read the header.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO(IMAGE_IO[suffix_of(path) or ""])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _check_kind(reader, location, layers=layers)
    return reader


def stand_in(reader: sitk.ImageFileReader) -> sitk.Image:
    """One voxel with the geometry of a header."""
    image = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    return image


@contextmanager
def in_our_words(path: Path, location: str) -> Iterator[None]:
    """ITK's own words hold paths and addresses, and name the wrong cause as often as not."""
    try:
        yield
    except RuntimeError as error:
        raise ScanError(
            location,
            f"cannot be read as {suffix_of(path)}: it is damaged, cut short or of another format;"
            " copy or export it again",
            rule="damaged",
        ) from error


def _check_kind(reader: sitk.ImageFileReader, location: str, *, layers: bool) -> None:
    if reader.GetDimension() != 3:
        raise ScanError(
            location,
            f"is {reader.GetDimension()}-D, {format_numbers(reader.GetSize())}; give a 3-D image",
            rule="dimensions",
        )
    channels = reader.GetNumberOfComponents()
    if channels != 1 and not layers:
        raise ScanError(
            location, f"has {channels} channels a voxel; give one channel", rule="dimensions"
        )


@contextmanager
def itk_quiet() -> Iterator[None]:
    """Our errors say what ITK's warnings would, without its paths and addresses."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
