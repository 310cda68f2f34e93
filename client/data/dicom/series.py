"""Finds and reads the one image series of a case that is wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import SimpleITK as sitk
from pydicom import Dataset
from pydicom.uid import UID

from client.data.dicom.completeness import check_complete, depth_mm, left_out_line, no_scan_line
from client.data.dicom.frames import frames_grid, read_frames
from client.data.dicom.headers import quiet, text
from client.data.dicom.objects import RADIOTHERAPY, SEGMENTATIONS, is_label, objects_of
from client.data.dicom.one_scan import check_shared
from client.data.dicom.pixels import read_slices, slices_grid
from client.data.dicom.slices import Grid
from client.data.errors import ScanError
from client.data.folder.names import check_name
from client.data.notes import Note, unheard

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
_MULTIFRAME = ("Enhanced", "Parametric Map", "3D Angiographic", "3D Craniofacial")  # classes
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
    "ImagesInAcquisition",
    "NumberOfSlices",
    "InConcatenationTotalNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "ImageType",
    "SpacingBetweenSlices",
    "SliceThickness",
    *_IDENTIFIERS,
]


@dataclass(frozen=True, kw_only=True)
class DicomSeries:
    """One image series of a case.

    Attributes:
        files: Sorted by the slice's position along the normal, as the image's z axis is; those of
            many frames by their paths.
        instance_uids: SOPInstanceUID of each file.
        series_uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID; empty where the header has none, as are the following.
        frame_uid: FrameOfReferenceUID.
        patient_id: PatientID.
        patient_name: PatientName.
        patient_birth: PatientBirthDate.
        modality: Such as MR.
        description: SeriesDescription.
        multiframe: Whether its files are of many frames, or of one as multi-frame files have it.
        labels: Files with contours or segments in the same folder.
        identified: Names of the header's attributes that hold an identifier; none where
            PatientIdentityRemoved is YES.
    """

    files: tuple[Path, ...]
    instance_uids: tuple[str, ...]
    series_uid: str
    study_uid: str
    frame_uid: str
    patient_id: str
    patient_name: str
    patient_birth: str
    modality: str
    description: str
    multiframe: bool
    labels: tuple[Path, ...]
    identified: tuple[str, ...]


@quiet()
def find_series(
    folder: Path,
    *,
    location: str,
    patterns: Sequence[str] = (),
    note: Note = unheard,
    setting: str = "`series` of the site's file",
    cut: bool | None = None,
) -> DicomSeries:
    """The one image series of a folder's tree; contours, segments and reports are none.

    Args:
        folder: The case's folder, of files and folders under whatever names.
        location: How a message begins, e.g. `case 014: image 014`.
        patterns: Of SeriesDescription, as for file names and in either case; where given, a
            series must fit one of them.
        note: Called with what is valid but seldom meant, a line each.
        setting: What the patterns are given by, for messages.
        cut: Whether the site's file declares that slices were left out on purpose; None: there is
            no such file.

    Raises:
        ScanError: No series or several are left, what is one series by its UID is of several
            people, studies, frames or modalities, or a DICOM file is damaged or unreadable.
    """
    groups: dict[str, list[tuple[Path, Dataset]]] = {}
    objects = objects_of(folder, location, _TAGS)
    for file, header in objects.headers:
        if _is_image(header):
            groups.setdefault(text(header, "SeriesInstanceUID"), []).append((file, header))
    labels = tuple(file for file, header in objects.headers if is_label(header))
    candidates = [_series(group, labels) for group in groups.values()]
    wanted = [series for series in candidates if _fits(series.description, patterns)]
    if len(wanted) == 1:
        for file in wanted[0].files:
            check_name(file, f"{location}: file {file.name}")
        if left_out := left_out_line(objects, wanted[0].files):
            note(left_out)
        headers = [header for _, header in groups[wanted[0].series_uid]]
        check_shared(headers, location=location, note=note)
        check_complete(headers, location=location, note=note, cut=cut)
        return wanted[0]
    if not candidates:
        message = no_scan_line(objects) or "holds no readable DICOM series; export the scan again"
    elif len(wanted) > 1 and len({series.description for series in wanted}) == 1:
        message = (
            f"holds {len(wanted)} DICOM series of one description; keep exactly one series in a"
            " folder, or, where they are parts of one scan, export it as one series"
        )
    elif not patterns:
        message = (
            f"holds {len(candidates)} DICOM series; keep exactly one series in a folder, or name it"
            f" by a pattern of its description in {setting}"
        )
    else:
        message = (
            f"holds {len(candidates)} DICOM series, of which {len(wanted)} fit the patterns in"
            f" {setting}; change these so that exactly one does"
        )
    described = sorted(series.description for series in wanted or candidates)
    raise ScanError(location, message, rule="series", detail=", ".join(described))


@quiet()
def read_series(
    source: Path | DicomSeries,
    *,
    location: str,
    patterns: Sequence[str] = (),
    note: Note = unheard,
    cut: bool | None = None,
) -> sitk.Image:
    """Read one series as an upright volume of 32-bit floats, slices sorted by position.

    Args:
        source: A series, or the folder whose tree holds it.
        location: How a message begins, e.g. `case 014: image 014`.
        patterns: As for `find_series`.
        note: As for `find_series`.
        cut: As for `find_series`.

    Raises:
        ScanError: As for `find_series`; or the pixels are coloured, inverted, damaged or
            compressed in an unknown way, or the slices are no stack, as `slices.stack` has it.
    """
    if isinstance(source, Path):
        source = find_series(source, location=location, patterns=patterns, note=note, cut=cut)
    if source.multiframe:
        return read_frames(source.files, location=location, note=note)
    return read_slices(source.files, location=location, note=note)


@quiet()
def series_grid(series: DicomSeries, *, location: str) -> Grid:
    """The grid of a series by its headers; its order is of its files, or of all their frames.

    Raises:
        ScanError: As for `read_series`, damage of the pixels left aside.
    """
    if series.multiframe:
        return frames_grid(series.files, location=location)
    return slices_grid(series.files, location=location)


def _is_image(header: Dataset) -> bool:
    kind = text(header, "SOPClassUID")
    return "Rows" in header and kind not in SEGMENTATIONS and not kind.startswith(RADIOTHERAPY)


def _series(group: Sequence[tuple[Path, Dataset]], labels: tuple[Path, ...]) -> DicomSeries:
    headers = [header for _, header in group]
    order = sorted(range(len(group)), key=lambda index: (depth_mm(headers[index]), group[index][0]))
    first = headers[0]
    return DicomSeries(
        files=tuple(group[index][0] for index in order),
        instance_uids=tuple(text(headers[index], "SOPInstanceUID") for index in order),
        series_uid=text(first, "SeriesInstanceUID"),
        study_uid=text(first, "StudyInstanceUID"),
        frame_uid=text(first, "FrameOfReferenceUID"),
        patient_id=text(first, "PatientID"),
        patient_name=text(first, "PatientName"),
        patient_birth=text(first, "PatientBirthDate"),
        modality=text(first, "Modality"),
        description=text(first, "SeriesDescription"),
        multiframe=any(_is_multiframe(header) for header in headers),
        labels=labels,
        identified=_identified(headers),
    )


def _is_multiframe(header: Dataset) -> bool:
    kind = UID(text(header, "SOPClassUID")).name
    return int(header.get("NumberOfFrames") or 1) > 1 or any(name in kind for name in _MULTIFRAME)


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
