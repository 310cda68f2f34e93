"""A classic series: one file a slice, decoded by GDCM, its geometry taken from the headers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from client.data.dicom.headers import DAMAGED, load, text
from client.data.dicom.slices import Grid, Slice, stack
from client.data.errors import ScanError

_DECODED = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.RLELossless,
    uids.JPEGBaseline8Bit,
    uids.JPEGExtended12Bit,
    uids.JPEGLossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.JPEGLSNearLossless,
    uids.JPEG2000Lossless,
    uids.JPEG2000,
)
# What distinguishes slices of one position, by its name in a message.
_ACQUIRED = {
    "EchoTime": "echo time",
    "EchoNumbers": "echo time",
    "DiffusionBValue": "b-value",
    "TemporalPositionIdentifier": "temporal position",
    "TemporalPositionIndex": "temporal position",
    "TriggerTime": "trigger time",
    "AcquisitionNumber": "acquisition",
    "ImageType": "image type",
}
_TAGS = (
    "SOPClassUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SpacingBetweenSlices",
    "SliceThickness",
    *_ACQUIRED,
)


def read_slices(files: Sequence[Path], *, location: str) -> sitk.Image:
    """The volume of a series' files, one slice each, in whatever order they are given.

    Raises:
        ScanError: Pixels that `check_pixels` or GDCM refuses, or slices that are no stack.
    """
    grid = slices_grid(files, location=location)
    voxels = np.empty(grid.shape, np.float32)
    for at, index in enumerate(grid.order):
        voxels[at] = decode(files[index], grid.shape[1:], location=location)
    return grid.image(voxels)


def slices_grid(files: Sequence[Path], *, location: str) -> Grid:
    """The grid of a series' files, by their headers; its order is of the files as given.

    Raises:
        ScanError: As for `read_slices`, damage of the pixels left aside.
    """
    headers = [load(file, location=location, tags=_TAGS) for file in files]
    for header in headers:
        check_pixels(header, location=location)
    return stack(
        [slice_of(header, (header,), location=location) for header in headers], location=location
    )


def check_pixels(header: Dataset, *, location: str) -> None:
    """Refuse pixels that are no plain grey values, or that nothing here can decompress.

    Raises:
        ScanError: Colour, an inverted or looked-up scale, or an unknown compression.
    """
    channels = int(header.get("SamplesPerPixel") or 1)
    scale = text(header, "PhotometricInterpretation")
    if channels != 1:
        raise ScanError(
            location, f"has {channels} channels a voxel; give one channel", rule="dimensions"
        )
    if scale not in ("", "MONOCHROME2"):
        raise ScanError(
            location,
            "has inverted or coloured grey values (its photometric interpretation is not"
            " MONOCHROME2); export the original scan",
            rule="dimensions",
        )
    syntax = header.file_meta.get("TransferSyntaxUID") or uids.ImplicitVRLittleEndian
    if syntax not in _DECODED:
        name = "a private one" if uids.UID(syntax).is_private else uids.UID(syntax).name
        raise ScanError(
            location,
            f"is compressed in a way that cannot be read ({name}); export it uncompressed",
            rule="format",
        )


def slice_of(header: Dataset, groups: Sequence[Dataset], *, location: str) -> Slice:
    """Where a slice lies, from the first of the data sets that has it.

    Args:
        header: Of the file; holds its rows and columns.
        groups: Hold position, orientation and spacing.
        location: How a message begins.

    Raises:
        ScanError: It lacks its position, orientation or pixel spacing.
    """

    def numbers(name: str, count: int) -> tuple[float, ...]:
        value = next((group[name].value for group in groups if name in group), None)
        try:
            values = np.asarray(value, np.float64).ravel()
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.size != count or not np.isfinite(values).all():
            raise ScanError(
                location,
                ": a slice lacks its position, orientation or pixel spacing; export the series"
                " again",
                rule="slices",
            )
        return tuple(values.tolist())

    depths = (
        group.get(name) for name in ("SpacingBetweenSlices", "SliceThickness") for group in groups
    )
    return Slice(
        position_mm=numbers("ImagePositionPatient", 3),
        cosines=numbers("ImageOrientationPatient", 6),
        spacing_mm=numbers("PixelSpacing", 2),
        size=(int(header.Rows), int(header.Columns)),
        thickness_mm=next((abs(float(depth)) for depth in depths if depth), 1.0),
        acquired={
            shown: str(group[name].value)
            for name, shown in _ACQUIRED.items()
            for group in groups
            if name in group
        },
    )


def decode(file: Path, size: tuple[int, ...], *, location: str) -> NDArray[np.float32]:
    """The grey values of one file, rescaled by its header, in the shape of `size`.

    Raises:
        ScanError: It is damaged, or holds another number of pixels.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileName(str(file))
    try:
        values: NDArray[np.float32] = sitk.GetArrayFromImage(reader.Execute()).reshape(size)
    except (RuntimeError, ValueError) as error:
        # ITK's own words hold paths and addresses.
        raise ScanError(location, DAMAGED, rule="damaged", detail=f"first: {file.name}") from error
    return values
