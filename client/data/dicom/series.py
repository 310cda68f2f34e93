"""The DICOM objects of one case: a tree of folders, and the one image series that is wanted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.uid import UID

from client.data.dicom.frames import frames_grid, read_multiframe
from client.data.dicom.headers import DAMAGED, load, quiet, text
from client.data.dicom.pixels import read_slices, slices_grid
from client.data.dicom.slices import Grid
from client.data.errors import ScanError

_DIRECTORY = "1.2.840.10008.1.3.10"
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_RADIOTHERAPY = "1.2.840.10008.5.1.4.1.1.481."
# Attributes by which PS3.15 (table E.1-1) has a person found; dates and devices are left out.
_IDENTIFIERS = (
    "AccessionNumber",
    "AdmissionID",
    "InstitutionAddress",
    "InstitutionName",
    "IssuerOfPatientID",
    "MedicalRecordLocator",
    "MilitaryRank",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientAddress",
    "PatientBirthDate",
    "PatientBirthName",
    "PatientBirthTime",
    "PatientComments",
    "PatientID",
    "PatientInsurancePlanCodeSequence",
    "PatientMotherBirthName",
    "PatientName",
    "PatientTelephoneNumbers",
    "PerformingPhysicianName",
    "PhysiciansOfRecord",
    "ReferringPhysicianName",
    "RequestingPhysician",
    "ResponsiblePerson",
)
_ANONYMISED = re.compile(r"anon.*|de-?ident.*|removed|unknown|none|null|[x0*^ -]*", re.IGNORECASE)
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesDescription",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "PatientIdentityRemoved",
    "NumberOfFrames",
    "Rows",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    *_IDENTIFIERS,
]


SUFFIX = ".dcm"


@dataclass(frozen=True, kw_only=True)
class DicomSeries:
    """One image series of a case.

    Attributes:
        files: Sorted by the slice's position along the normal, as the image's z axis is.
        instance_uids: SOPInstanceUID of each file.
        series_uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID; empty where the header has none, as are the following.
        frame_uid: FrameOfReferenceUID.
        patient_id: PatientID.
        modality: Such as MR.
        description: SeriesDescription.
        multiframe: Whether the series is one file of many frames.
        identified: Names of the header's attributes that hold an identifier; none where
            PatientIdentityRemoved is YES.
    """

    files: tuple[Path, ...]
    instance_uids: tuple[str, ...]
    series_uid: str
    study_uid: str
    frame_uid: str
    patient_id: str
    modality: str
    description: str
    multiframe: bool
    identified: tuple[str, ...]


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
def find_series(folder: Path, *, location: str, patterns: Sequence[str] = ()) -> DicomSeries:
    """The one image series of a folder's tree; contours, segments and reports are none.

    Args:
        folder: The case's folder, of files and folders under whatever names.
        location: How a message begins, e.g. `case 014: image 014`.
        patterns: Of SeriesDescription, as for file names and in either case; where given, a
            series must fit one of them.

    Raises:
        ScanError: No series or several are left, or a DICOM file is damaged or unreadable.
    """
    groups: dict[str, list[tuple[Path, Dataset]]] = {}
    for file, header in _headers(folder, location):
        if _is_image(header):
            groups.setdefault(text(header, "SeriesInstanceUID"), []).append((file, header))
    found = [_series(group) for group in groups.values()]
    wanted = [series for series in found if _fits(series.description, patterns)]
    if len(wanted) == 1:
        return wanted[0]
    if not found:
        message = "holds no readable DICOM series; export the scan again"
    elif not patterns:
        message = (
            f"holds {len(found)} DICOM series; keep exactly one series in a folder, or name it"
            " by a pattern of its description in `series` of the site's file"
        )
    else:
        message = (
            f"holds {len(found)} DICOM series, of which {len(wanted)} fit the patterns in"
            " `series` of the site's file; change these so that exactly one does"
        )
    described = sorted(series.description for series in wanted or found)
    raise ScanError(location, message, rule="series", detail=", ".join(described))


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
    kinds = [text(header, "SOPClassUID") for _, header in _headers(path, location)]
    if len(kinds) == 1 and kinds[0] == _STRUCTURES:
        return "structures"
    if len(kinds) == 1 and kinds[0] in _SEGMENTATIONS:
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
    wanted = (_STRUCTURES, *_SEGMENTATIONS)
    headers = _headers(folder, location)
    return tuple(file for file, header in headers if text(header, "SOPClassUID") in wanted)


@quiet()
def read_series(
    source: Path | DicomSeries, *, location: str, patterns: Sequence[str] = ()
) -> sitk.Image:
    """Read one series as an upright volume of 32-bit floats, slices sorted by position.

    Args:
        source: A series, or the folder whose tree holds it.
        location: How a message begins, e.g. `case 014: image 014`.
        patterns: As for `find_series`.

    Raises:
        ScanError: As for `find_series`; or the pixels are coloured, inverted, damaged or
            compressed in an unknown way, or the slices are no stack, as `slices.stack` has it.
    """
    if isinstance(source, Path):
        source = find_series(source, location=location, patterns=patterns)
    if source.multiframe:
        return read_multiframe(_one_file(source, location), location=location)
    return read_slices(source.files, location=location)


@quiet()
def series_grid(series: DicomSeries, *, location: str) -> Grid:
    """The grid of a series by its headers; its order is of its files, or of its file's frames.

    Raises:
        ScanError: As for `read_series`, damage of the pixels left aside.
    """
    if series.multiframe:
        return frames_grid(_one_file(series, location), location=location)
    return slices_grid(series.files, location=location)


def _one_file(series: DicomSeries, location: str) -> Path:
    if len(series.files) > 1:
        raise ScanError(
            location,
            f"holds {len(series.files)} multi-frame files in one series; keep one of them",
            rule="slices",
        )
    return series.files[0]


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


def _headers(folder: Path, location: str) -> list[tuple[Path, Dataset]]:
    """The part of each DICOM file's header that is needed here."""
    found: list[tuple[Path, Dataset]] = []
    damaged: list[Path] = []
    for file in filter(_is_dicom, dicom_files(folder)):
        try:
            header = load(file, location=location, tags=_TAGS)
        except ScanError as error:
            if error.problem.rule != "damaged":
                raise
            damaged.append(file)
            continue
        if header.file_meta.get("MediaStorageSOPClassUID") != _DIRECTORY:
            found.append((file, header))
    if damaged:
        raise ScanError(
            location,
            f": {len(damaged)} of its DICOM files {DAMAGED}",
            rule="damaged",
            detail=f"first: {damaged[0].name}",
        )
    return found


def _is_image(header: Dataset) -> bool:
    kind = text(header, "SOPClassUID")
    return "Rows" in header and kind not in _SEGMENTATIONS and not kind.startswith(_RADIOTHERAPY)


def _series(group: Sequence[tuple[Path, Dataset]]) -> DicomSeries:
    headers = [header for _, header in group]
    order = sorted(range(len(group)), key=lambda index: (_depth(headers[index]), group[index][0]))
    first = headers[0]
    kind = UID(text(first, "SOPClassUID"))
    return DicomSeries(
        files=tuple(group[index][0] for index in order),
        instance_uids=tuple(text(headers[index], "SOPInstanceUID") for index in order),
        series_uid=text(first, "SeriesInstanceUID"),
        study_uid=text(first, "StudyInstanceUID"),
        frame_uid=text(first, "FrameOfReferenceUID"),
        patient_id=text(first, "PatientID"),
        modality=text(first, "Modality"),
        description=text(first, "SeriesDescription"),
        multiframe=int(first.get("NumberOfFrames") or 1) > 1 or "Enhanced" in kind.name,
        identified=_identified(headers),
    )


def _depth(header: Dataset) -> float:
    """Position along the slice's normal; reading refuses a slice that has none."""
    try:
        cosines = np.asarray(header.ImageOrientationPatient, np.float64)
        position_mm = np.asarray(header.ImagePositionPatient, np.float64)
        return float(np.cross(cosines[:3], cosines[3:]) @ position_mm)
    except (AttributeError, ValueError, TypeError):
        return 0.0


def _identified(headers: Iterable[Dataset]) -> tuple[str, ...]:
    telling = [
        header for header in headers if text(header, "PatientIdentityRemoved").upper() != "YES"
    ]
    return tuple(
        name
        for name in _IDENTIFIERS
        if any(
            not _ANONYMISED.fullmatch(text(header, name)) for header in telling if name in header
        )
    )


def _fits(description: str, patterns: Sequence[str]) -> bool:
    lower = description.lower()
    return not patterns or any(fnmatchcase(lower, pattern.lower()) for pattern in patterns)
