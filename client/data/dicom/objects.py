"""The DICOM objects of a case: files in a tree of folders, and those that are a label."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom import Dataset

from client.data.dicom.beside import SliceNames, is_clutter
from client.data.dicom.headers import DAMAGED, load, quiet, text
from client.data.dicom.labels.names import name_of
from client.data.dicom.sniff import Kind, may_be_damaged, sniff
from client.data.errors import ScanError

SUFFIX = ".dcm"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
RADIOTHERAPY = "1.2.840.10008.5.1.4.1.1.481."
_DIRECTORY = "1.2.840.10008.1.3.10"
_TAGS = ("SOPClassUID", "Rows")
_NAMES = (SUFFIX, ".dicom", ".dic", ".ima", ".img")  # suffixes that are no part of a case's name
_INDEXES = ("DICOMDIR", "DIRFILE", "ICON\r")  # the last of macOS


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The files of a folder's tree.

    Attributes:
        headers: A part of the header of each DICOM file, indexes left out.
        others: How many files are no DICOM, those left aside that are plainly no image.
    """

    headers: list[tuple[Path, Dataset]]
    others: int


def is_dicom(path: Path) -> bool:
    """Whether a case's path is read as DICOM: a folder, or a file by its content or .dcm."""
    if path.is_dir() or path.suffix.lower() == SUFFIX:
        return True
    try:
        return sniff(path) is not None
    except OSError:  # whoever opens it says why
        return False


def is_dicom_folder(folder: Path) -> bool:
    """Whether a folder, or one below it, holds at least one DICOM file."""
    return any(_is_dicom(file) for file in _walk(folder))


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files of a folder's tree, sorted, its index (DICOMDIR) left out."""
    return sorted(filter(_is_dicom, _walk(folder)))


def case_stem(file: Path) -> str:
    """The name of the case that a DICOM file is: a suffix that is not DICOM's is part of it."""
    name = Path(file.stem if file.suffix.lower() == ".gz" else file.name)
    return name.stem if name.suffix.lower() in _NAMES else name.name


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
    kinds = [text(header, "SOPClassUID") for _, header in objects_of(path, location).headers]
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
    return [name_of(item, "ROIName") for item in regions] + [
        name_of(item, "SegmentLabel") for item in segments if text(item, "SegmentNumber") != "0"
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
    headers = objects_of(folder, location).headers
    return tuple(file for file, header in headers if is_label(header))


def is_label(header: Dataset) -> bool:
    """Whether an object holds contours or segments."""
    return text(header, "SOPClassUID") in (STRUCTURES, *SEGMENTATIONS)


def another_scan(location: str, what: str) -> ScanError:
    """The refusal of a label that belongs to another series or frame of reference."""
    return ScanError(
        location,
        f"was drawn on another {what} than the case's scan; put it to its own scan, or export"
        " both again together",
        rule="reference",
    )


def objects_of(folder: Path, location: str, tags: Sequence[str] = _TAGS) -> Objects:
    """The DICOM objects of a folder's tree, or of one file, and how many files are none.

    Args:
        folder: The case's.
        location: How a message begins.
        tags: Of the headers that are wanted, `SOPClassUID` and `Rows` among them.

    Raises:
        ScanError: A DICOM file is damaged, unreadable or compressed by gzip.
    """
    closed: list[OSError] = []
    files = sorted(_walk(folder, closed.append))
    if closed:
        raise ScanError(
            location,
            f": a folder cannot be opened: {closed[0].strerror}; check its permissions",
            rule="closed",
            detail=Path(closed[0].filename).name,
        )
    wanted = list(filter(_is_dicom, files))
    others = [file for file in files if file not in set(wanted)]
    _check_packed(wanted, location)
    headers: list[tuple[Path, Dataset]] = []
    names = SliceNames(wanted)
    damaged = [file for file in others if names.fit(file) and may_be_damaged(file)]
    for file in wanted:
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
    return Objects(headers=headers, others=sum(not is_clutter(file) for file in others))


def _walk(folder: Path, closed: Callable[[OSError], object] | None = None) -> Iterator[Path]:
    """The visible files of a tree in order; linked folders are followed, but never round.

    Args:
        folder: The tree's, or a file.
        closed: Called with the error of each folder that cannot be listed.
    """
    if folder.is_file():
        yield folder
        return
    top = Path(os.path.realpath(folder))
    seen = {top}
    for path, folders, files in os.walk(folder, onerror=closed, followlinks=True):
        here = Path(os.path.realpath(path))
        folders[:] = [name for name in sorted(folders) if _is_new(here / name, top, seen)]
        for name in sorted(files):
            file = Path(path, name)
            if not name.startswith(".") and name.upper() not in _INDEXES and not _special(file):
                yield file


def _is_new(folder: Path, top: Path, seen: set[Path]) -> bool:
    """Whether a visible folder is none of those seen, and no link to one that holds it."""
    real = Path(os.path.realpath(folder))
    known = real in seen or top.is_relative_to(real) or folder.parent.is_relative_to(real)
    if known or folder.name.startswith("."):
        return False
    seen.add(real)
    return True


def _special(file: Path) -> bool:
    """Whether it is a pipe, socket or device; a link to nowhere is a file that is missed."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False


def _is_dicom(file: Path) -> bool:
    return file.suffix.lower() == SUFFIX or _kind(file) is not None


def _kind(file: Path) -> Kind | None:
    try:
        return sniff(file)
    except OSError:  # it may be a slice; reading it says why it cannot be opened
        return "dicom"


def _check_packed(files: Sequence[Path], location: str) -> None:
    packed = [file for file in files if _kind(file) == "gzip"]
    if packed:
        raise ScanError(
            location,
            f": gzip compressed {len(packed)} of its DICOM files; unpack them",
            rule="format",
            detail=f"first: {packed[0].name}",
        )
