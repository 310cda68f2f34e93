"""ITK's reader of one image file: its header first, its errors in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from asdnet_models.geometry import format_numbers
from client.data.errors import ScanError
from client.data.files.nifti import is_nifti
from client.data.files.readings import Reading, nearest_rotation
from client.data.folder.entries import IMAGE_IO, suffix_of

# ITK refuses a NIfTI matrix whose axes are off their right angles by 1e-4.  With this it does not,
# but turns the scan the wrong way round (ITK 5.4 transposes the rotation), so that the axes are
# set here.
_PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"


@dataclass(frozen=True, kw_only=True)
class OpenImage:
    """A file whose header ITK has read.

    Attributes:
        reader: ITK's.
        direction: In place of the reader's; None: that is right.
    """

    reader: sitk.ImageFileReader
    direction: tuple[float, ...] | None = None

    def stand_in(self) -> sitk.Image:
        """One voxel with the geometry of the header."""
        image = sitk.Image([1, 1, 1], sitk.sitkUInt8)
        image.SetSpacing(self.reader.GetSpacing())
        image.SetOrigin(self.reader.GetOrigin())
        image.SetDirection(self.direction or self.reader.GetDirection())
        return image

    def voxels(self) -> sitk.Image:
        """The whole image."""
        image = self.reader.Execute()
        vector = "vector" in image.GetPixelIDTypeAsString()
        if vector and image.GetNumberOfComponentsPerPixel() == 1:
            image = sitk.VectorIndexSelectionCast(image, 0)
        if self.direction is not None:
            image.SetDirection(self.direction)
        return image


@contextmanager
def open_image(
    path: Path, header: Reading | None, location: str, *, layers: bool = False
) -> Iterator[OpenImage]:
    """A file whose header is read, 3-D and of one channel but for layers.

    Args:
        path: A file with a suffix of `IMAGE_IO`, whose header `check_header` has passed.
        header: Its geometry as `header_reading` gives it.
        location: How a message begins.
        layers: Several channels are layers of a label map.

    Raises:
        ScanError: It has other dimensions or several channels, or ITK cannot read it.
    """
    suffix = suffix_of(path) or ""
    with in_our_words(suffix, location):
        try:
            opened = OpenImage(reader=_reader(path, suffix))
        except RuntimeError:
            if not is_nifti(path) or header is None or header.direction is None:
                raise
            direction = tuple(nearest_rotation(header.direction).ravel().tolist())
            with _permissive():
                opened = OpenImage(reader=_reader(path, suffix), direction=direction)
                _check_kind(opened.reader, location, layers=layers)
                yield opened
            return
        _check_kind(opened.reader, location, layers=layers)
        yield opened


def _reader(path: Path, suffix: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(IMAGE_IO[suffix])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


@contextmanager
def in_our_words(suffix: str, location: str) -> Iterator[None]:
    """ITK's own words hold paths and addresses, and name the wrong cause as often as not."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise ScanError(
            location,
            f"cannot be read as {suffix}: it is damaged, cut short or of another format;"
            " copy or export it again",
            rule="damaged",
        ) from error


@contextmanager
def itk_quiet() -> Iterator[None]:
    """Our errors say what ITK's warnings would, without its paths and addresses."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextmanager
def _permissive() -> Iterator[None]:
    before = os.environ.get(_PERMISSIVE)
    os.environ[_PERMISSIVE] = "ON"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PERMISSIVE]
        else:
            os.environ[_PERMISSIVE] = before


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
