"""A multi-frame file (Enhanced MR, CT and the like): geometry from its functional groups.

ITK guesses the geometry of such a file from two of its frames, keeps them in the order of the
file, and rescales all by one slope.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage, generate_uid

from client.data.dicom.headers import DAMAGED, load
from client.data.dicom.pixels import check_pixels, decode, rescale, slice_of
from client.data.dicom.slices import Grid, stack
from client.data.errors import ScanError

# The functional groups that are read here (PS3.3, C.7.6.16.2).
_GROUPS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
    "MREchoSequence",
    "MRDiffusionSequence",
    "MRImageFrameTypeSequence",
)
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


def read_multiframe(file: Path, *, location: str) -> sitk.Image:
    """The volume of a file's frames, sorted by position, each rescaled by its own slope.

    Raises:
        ScanError: Pixels that `check_pixels` or GDCM refuses, frames without a geometry, or
            frames that are no stack.
    """
    header = load(file, location=location, pixels=True)
    check_pixels(header, location=location)
    groups, grid = _grid(header, location)
    voxels = _stored(header, file, location)
    for values, group in zip(voxels, groups, strict=True):
        slope, intercept = rescale([*group, header], location=location)
        values *= slope
        values += intercept
    return grid.image(voxels[list(grid.order)])


def frames_grid(file: Path, *, location: str) -> Grid:
    """The grid of a multi-frame file; its order is of the frames in the file, from 0.

    Raises:
        ScanError: As for `read_multiframe`, the pixels left aside.
    """
    header = load(file, location=location)
    check_pixels(header, location=location)
    return _grid(header, location)[1]


def _grid(header: Dataset, location: str) -> tuple[list[list[Dataset]], Grid]:
    """The data sets that describe each frame, its own before the shared ones; and the grid."""
    frames: Sequence[Dataset] = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared: Iterable[Dataset] = header.get("SharedFunctionalGroupsSequence") or ()
    if len(frames) != int(header.get("NumberOfFrames") or 1):
        raise ScanError(
            location,
            "is a multi-frame file that does not say where each frame lies; export it as an"
            " enhanced or a classic series",
            rule="slices",
        )
    common = [item for group in shared for item in _items(group)]
    groups = [[*_items(frame), *common] for frame in frames]
    slices = [slice_of(header, group, location=location) for group in groups]
    return groups, stack(slices, location=location)


def _items(group: Dataset) -> list[Dataset]:
    return [item for name in _GROUPS for item in group.get(name) or ()]


def _stored(header: Dataset, file: Path, location: str) -> NDArray[np.float32]:
    """Stored values of all frames, (frames, rows, columns), in the order of the file."""
    size = (int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns))
    if not header.file_meta.TransferSyntaxUID.is_compressed:
        try:
            return header.pixel_array.astype(np.float32).reshape(size)
        except (AttributeError, ValueError, TypeError) as error:
            raise ScanError(location, DAMAGED, rule="damaged", detail=file.name) from error
    # GDCM knows every compression, and would rescale by what it finds: it gets pixels alone.
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
        try:
            return decode(path, size, location=location)
        except ScanError as error:
            raise ScanError(location, DAMAGED, rule="damaged", detail=file.name) from error
