"""What DICOM objects made of a series share: patient, referenced series, description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID

from client.data.dicom.derived.copied import copied, is_copied
from client.data.dicom.frames import frame_places
from client.data.dicom.headers import load, text
from client.data.dicom.series import DicomSeries, series_grid
from client.data.errors import ScanError, not_written
from client.data.files.geometry import same_grid_error
from protocol.files import atomic_file

NOT_CLINICAL = "AI-made, not for clinical use"
MANUFACTURER = "asdnet-federated"
# What an object refers to: a wrong one leads nowhere, or to another scan.
_SHARED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_UIDS = (*_SHARED, "SOPClassUID", "SOPInstanceUID")
_OF_IMAGES = (0x0018, 0x0020, 0x0028, 0x5200)  # groups: acquisition, position, pixels, frames
_ROUNDED = ("ImageOrientationPatient", "PixelSpacing")
_THICKNESSES = ("SliceThickness", "SpacingBetweenSlices")


@dataclass(frozen=True)
class Drawing:
    """A label map to be written as a DICOM object.

    Attributes:
        label: Values of `organs` and 0, (Z, Y, X), on the image's grid.
        image: The series as `read_series` reads it.
        series: Where the image is from.
        organs: Value of each organ; one that is not in the label is there without voxels.
        model: What drew them, for the reader of the file.
    """

    label: NDArray[np.uint8]
    image: sitk.Image
    series: DicomSeries
    organs: Mapping[str, int]
    model: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The series of an image, as its headers have it.

    Attributes:
        headers: One of each file, with what describes its images and the attributes of `patient`;
            of a classic series in the image's order along z.
        frames: Of each slice, its multi-frame file and the place in it, both from 0; None for a
            classic series.
        patient: What an object copies of patient and study: valid, and in Unicode.
        left_out: Keywords of what it would have copied, and is not valid.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[tuple[int, int], ...] | None
    patient: Dataset
    left_out: tuple[str, ...]

    def of_slice(self, z: int) -> tuple[Dataset, int | None]:
        """The header of a slice's file, and the slice's frame in it."""
        if self.frames is None:
            return self.headers[z], None
        file, frame = self.frames[z]
        return self.headers[file], frame


def source_of(drawing: Drawing, *, location: str) -> Source:
    """The series' headers, where an image and its label map are on the series' grid.

    Raises:
        ScanError: They are not, the series cannot be read, or it has no valid identifiers that an
            object could refer to.
    """
    series, image, label = drawing.series, drawing.image, drawing.label
    grid = series_grid(series, location=location)
    if label.shape != image.GetSize()[::-1]:
        raise ScanError(
            location, f"has shape {label.shape}, its image {image.GetSize()[::-1]}", rule="grid"
        )
    difference = same_grid_error(image, grid.image(np.zeros(grid.shape, np.uint8)))
    if difference is not None:
        raise ScanError(
            location,
            f": its image is not on the grid of its series: {difference}; resample the labels"
            " with nearest neighbour",
            rule="grid",
        )
    if not series.frame_uid:
        raise ScanError(
            location,
            ": its series names no frame of reference, so nothing can be placed in it; save a"
            " label map instead",
            rule="reference",
        )
    order = range(len(series.files)) if series.multiframe else grid.order
    headers = [load(series.files[index], location=location) for index in order]
    _check_identity(headers, location)
    places = frame_places(headers) if series.multiframe else ()
    for header in headers[1:]:
        # Of one stack they are the same to the reader, which knows of rounding; highdicom does not.
        for name in _ROUNDED:
            if name in headers[0]:
                header[name] = headers[0][name]
    patient, left_out = copied(headers[0])
    return Source(
        headers=tuple(_clean(header, patient, image.GetSpacing()[2]) for header in headers),
        frames=tuple(places[at] for at in grid.order) if series.multiframe else None,
        patient=patient,
        left_out=left_out,
    )


def character_set(patient: Dataset, drawing: Drawing) -> str | None:
    """What an object's text is written in: UTF-8, or nothing where it is plain ASCII."""
    written = f"{patient}{drawing.model}{''.join(drawing.organs)}"
    return None if written.isascii() else "ISO_IR 192"


def _check_identity(headers: Sequence[Dataset], location: str) -> None:
    """Refuse a series that an object cannot refer to for certain.

    Raises:
        ScanError: An identifier is missing, not valid, not the same in all files, or not its own.
    """
    for name in _UIDS:
        values = [text(header, name) for header in headers]
        if not all(len(value) <= 64 and UID(value).is_valid for value in values):
            raise _no_identity(location, f"{name} is missing, or no valid identifier")
        if name in _SHARED and len(set(values)) > 1:
            raise _no_identity(location, f"{name} is not the same in all files")
    if len(set(values)) < len(values):  # of SOPInstanceUID
        raise _no_identity(location, "SOPInstanceUID is the same in several files")


def _no_identity(location: str, why: str) -> ScanError:
    return ScanError(
        location,
        f": {why}, so what refers to the scan could be taken for another one's; export the series"
        " again, or save a label map instead",
        rule="reference",
    )


def _clean(header: Dataset, patient: Dataset, z_mm: float) -> Dataset:
    """What describes a file's images, with a thickness that is a number, and the patient."""
    part = Dataset(
        {
            tag: element  # unread
            for tag, element in header.items()
            if tag.group in _OF_IMAGES and not is_copied(tag)
        }
    )
    for name in ("SOPClassUID", "SOPInstanceUID", "Modality"):
        if name in header:
            part[name] = header[name]
    for name in _THICKNESSES:
        try:
            usable = float(part[name].value) > 0
        except (KeyError, TypeError, ValueError, OverflowError):
            usable = False
        if not usable:
            part.pop(name, None)
    if "SliceThickness" not in part:
        part.SliceThickness = f"{z_mm:.10f}"[:16]
    part.file_meta = header.file_meta
    part.update(patient)
    return part


def save(dataset: Dataset, path: Path, *, location: str) -> None:
    """Write a data set so that readers see the old file or the new.

    Raises:
        ScanError: It cannot be written.
    """
    try:
        with atomic_file(path) as draft:
            dataset.save_as(draft, enforce_file_format=True)
    except OSError as error:
        raise not_written(location, error) from error
