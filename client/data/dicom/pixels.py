"""A classic series: one file a slice, decoded by GDCM, its geometry taken from the headers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import SimpleITK as sitk
from pydicom import Dataset

from client.data.dicom.decoding import decode, rescale
from client.data.dicom.headers import load, text
from client.data.dicom.one_scan import check_acquisition
from client.data.dicom.slices import Grid, Slice, stack
from client.data.errors import ScanError
from client.data.notes import Note, unheard

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
    "EffectiveEchoTime": "echo time",
    "EchoNumbers": "echo number",
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
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SpacingBetweenSlices",
    "SliceThickness",
    *_ACQUIRED,
)


def read_slices(files: Sequence[Path], *, location: str, note: Note = unheard) -> sitk.Image:
    """The volume of a series' files, one slice each, in whatever order they are given.

    Raises:
        ScanError: Pixels that `check_pixels` or GDCM refuses, or slices that are no stack of one
            acquisition.
    """
    grid = slices_grid(files, location=location, note=note)
    voxels = np.empty(grid.shape, np.float32)
    for at, index in enumerate(grid.order):
        voxels[at] = decode(files[index], grid.shape[1:], location=location)
    return grid.image(voxels)


def slices_grid(files: Sequence[Path], *, location: str, note: Note = unheard) -> Grid:
    """The grid of a series' files, by their headers; its order is of the files as given.

    Raises:
        ScanError: As for `read_slices`, damage of the pixels left aside.
    """
    headers = [load(file, location=location, tags=_TAGS) for file in files]
    for header in headers:
        check_pixels(header, location=location)
        rescale((header,), location=location)
    grid = stack(
        [slice_of(header, (header,), location=location) for header in headers], location=location
    )
    check_acquisition([(header,) for header in headers], location=location, note=note)
    return grid


def check_pixels(header: Dataset, *, location: str) -> None:
    """Refuse pixels that are no plain grey values, or that nothing here can decompress.

    Raises:
        ScanError: Colour, an inverted or looked-up scale, bits that readers take differently, or
            an unknown compression.
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
    if header.get("ModalityLUTSequence"):
        raise ScanError(
            location,
            "has grey values by a table (Modality LUT); export it with a rescale slope",
            rule="format",
        )
    _check_bits(header, location)
    syntax = header.file_meta.get("TransferSyntaxUID") or uids.ImplicitVRLittleEndian
    if syntax not in _DECODED:
        name = "a private one" if uids.UID(syntax).is_private else uids.UID(syntax).name
        raise ScanError(
            location,
            f"is compressed in a way that cannot be read ({name}); export it uncompressed",
            rule="format",
        )


def _check_bits(header: Dataset, location: str) -> None:
    """Which bits of a stored number are its value; readers differ where headers leave it open."""
    names = ("BitsAllocated", "BitsStored", "PixelRepresentation")
    if any(not text(header, name) for name in names):
        if int(header.get("NumberOfFrames") or 1) > 1 and "BitsStored" not in header:
            return  # numbers of floating point, as parametric maps have; pydicom reads them
        raise ScanError(
            location,
            f"does not say how its pixels are stored ({', '.join(names)}); export it again",
            rule="format",
        )
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    high = int(text(header, "HighBit") or stored - 1)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or high != stored - 1:
        raise ScanError(
            location,
            f"has pixels of {stored} bits up to bit {high} in {allocated}, which readers take"
            " differently; export it again",
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
        _size_mm(group, name)
        for name in ("SpacingBetweenSlices", "SliceThickness")
        for group in groups
    )
    return Slice(
        position_mm=numbers("ImagePositionPatient", 3),
        cosines=numbers("ImageOrientationPatient", 6),
        spacing_mm=numbers("PixelSpacing", 2),
        size=(int(header.Rows), int(header.Columns)),
        thickness_mm=next((depth for depth in depths if depth), 1.0),
        rounding_mm=_rounding_mm(groups),
        acquired={
            shown: text(group, name)
            for name, shown in _ACQUIRED.items()
            for group in groups
            if name in group
        },
    )


def _size_mm(group: Dataset, name: str) -> float:
    try:
        return abs(float(text(group, name) or 0))
    except ValueError:
        return 0.0


def _rounding_mm(groups: Sequence[Dataset]) -> tuple[float, ...]:
    """Half a unit of the last digit of each coordinate, as the header has it written."""
    position = next(g["ImagePositionPatient"].value for g in groups if "ImagePositionPatient" in g)
    exponents = (Decimal(str(value)).as_tuple().exponent for value in position)
    return tuple(0.5 * 10.0 ** int(exponent) for exponent in exponents)
