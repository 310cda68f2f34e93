"""The DICOM objects of a case: files in a tree of folders, and those that are a label."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydicom import Dataset

from client.data.dicom.headers import DAMAGED, load, quiet, text
from client.data.errors import ScanError

SUFFIX = ".dcm"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
RADIOTHERAPY = "1.2.840.10008.5.1.4.1.1.481."
_DIRECTORY = "1.2.840.10008.1.3.10"
_TAGS = ("SOPClassUID", "Rows")


def is_dicom(path: Path) -> bool:
    """Whether a case's path is read as DICOM: a folder, or a .dcm file."""
    return path.is_dir() or path.suffix.lower() == SUFFIX


def is_dicom_folder(folder: Path) -> bool:
    """Whether a folder, or one below it, holds at least one DICOM file."""
    return any(_is_dicom(file) for file in _walk(folder))


def dicom_files(folder: Path) -> list[Path]:
    """The visible files of a folder's tree, sorted, its index (DICOMDIR) left out."""
    return sorted(_walk(folder))


@quiet()
def label_kind(path: Path, *, location: str) -> Literal["structures", "segments"] | None:
    """What a label is: contours (RTSTRUCT), segments (DICOM-SEG), or None of other formats.

    Args:
        path: A file, or a folder that holds one such file.
        location: How a message begins.

    Raises:
        ScanError: It is DICOM, but not one of the two.
    """
    if not is_dicom(path):
        return None
    kinds = [text(header, "SOPClassUID") for _, header in object_headers(path, location)]
    if len(kinds) == 1 and kinds[0] == STRUCTURES:
        return "structures"
    if len(kinds) == 1 and kinds[0] in SEGMENTATIONS:
        return "segments"
    raise ScanError(
        location,
        f"holds {len(kinds)} DICOM objects, must be one RTSTRUCT or one DICOM-SEG",
        rule="format",
    )


@quiet()
def structure_names(file: Path, *, location: str) -> list[str]:
    """The names of an RTSTRUCT's contours or a DICOM-SEG's segments.

    Raises:
        ScanError: The file cannot be read.
    """
    tags = ("SOPClassUID", "StructureSetROISequence", "SegmentSequence")
    header = load(file, location=location, tags=tags)
    regions = header.get("StructureSetROISequence") or ()
    segments = header.get("SegmentSequence") or ()
    return [text(item, "ROIName") for item in regions] + [
        text(item, "SegmentLabel") for item in segments if text(item, "SegmentNumber") != "0"
    ]


@quiet()
def label_objects(folder: Path, *, location: str) -> tuple[Path, ...]:
    """The RTSTRUCT and DICOM-SEG files of a folder's tree, sorted.

    Args:
        folder: The case's.
        location: How a message begins.

    Raises:
        ScanError: A DICOM file is damaged or unreadable.
    """
    wanted = (STRUCTURES, *SEGMENTATIONS)
    headers = object_headers(folder, location)
    return tuple(file for file, header in headers if text(header, "SOPClassUID") in wanted)


def another_scan(location: str, what: str) -> ScanError:
    """The refusal of a label that belongs to another series or frame of reference."""
    return ScanError(
        location,
        f"was drawn on another {what} than the case's scan; put it to its own scan, or export"
        " both again together",
        rule="reference",
    )


def _walk(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name != "DICOMDIR":
                yield Path(path, name)


def _is_dicom(file: Path) -> bool:
    if file.suffix.lower() == SUFFIX:
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def object_headers(
    folder: Path, location: str, tags: Sequence[str] = _TAGS
) -> list[tuple[Path, Dataset]]:
    """A part of each DICOM file's header, its `SOPClassUID` and `Rows` among it.

    Raises:
        ScanError: A DICOM file is damaged or unreadable.
    """
    headers: list[tuple[Path, Dataset]] = []
    damaged: list[Path] = []
    for file in filter(_is_dicom, dicom_files(folder)):
        try:
            header = load(file, location=location, tags=tags)
        except ScanError as error:
            if error.problem.rule != "damaged":
                raise
            damaged.append(file)
            continue
        if header.file_meta.get("MediaStorageSOPClassUID") != _DIRECTORY:
            headers.append((file, header))
    if damaged:
        raise ScanError(
            location,
            f": {len(damaged)} of its DICOM files {DAMAGED}",
            rule="damaged",
            detail=f"first: {damaged[0].name}",
        )
    return headers
