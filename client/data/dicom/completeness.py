"""What of a case's folder is not in its scan, and what headers tell of slices that are missing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from client.data.dicom.headers import text
from client.data.dicom.objects import (
    RADIOTHERAPY,
    SEGMENTATIONS,
    STRUCTURES,
    Objects,
    is_label,
)
from client.data.errors import ScanError
from client.data.notes import Note

_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.104.")
_PRESENTATIONS = "1.2.840.10008.5.1.4.1.1.11."
_ACQUISITION = "AcquisitionNumber"
_SAME_STEP = 0.01  # of the step
_SKIPPED = (2, 3)  # every second or third slice is there; less often than gaps are written
_LABELS = "with contours or segments"
_NO_SCANS = {
    STRUCTURES: "a set of contours (RTSTRUCT)",
    **dict.fromkeys(SEGMENTATIONS, "a segmentation (SEG)"),
    f"{RADIOTHERAPY}2": "a dose (RTDOSE)",
    f"{RADIOTHERAPY}5": "a treatment plan (RTPLAN)",
}


def left_out_line(objects: Objects, used: Sequence[Path]) -> str:
    """A line on the files that are not of the scan; empty where there are none but labels.

    Args:
        objects: Of the case's folder.
        used: The files of its scan.
    """
    of_scan = set(used)
    kinds = Counter(_kind(header) for file, header in objects.headers if file not in of_scan)
    kinds["that is no DICOM" if objects.others == 1 else "that are no DICOM"] = objects.others
    count = kinds.total()
    if count == kinds[_LABELS]:
        return ""
    shown = ", ".join(f"{n} {_plural(kind, n)}" for kind, n in sorted(kinds.items()) if n)
    return f"{count} of {count + len(of_scan)} files left out of the scan: {shown}"


def no_scan_line(objects: Objects) -> str:
    """What DICOM objects are, none of which is a scan's; empty where nothing of a kind is known."""
    kinds = sorted({text(header, "SOPClassUID") for _, header in objects.headers} - {""})
    known = [what for kind in kinds if (what := _NO_SCANS.get(kind) or _class_name(kind))]
    if not known:
        return ""
    verb = "is" if len(objects.headers) == 1 and not objects.others else "holds"
    return f"{verb} {' and '.join(known)}, no scan; give the series of images that it belongs to"


def _class_name(kind: str) -> str:
    name = UID(kind).name
    return "" if name == kind else f"objects of the class {name}"


def check_complete(
    headers: Sequence[Dataset], *, location: str, note: Note, cut: bool | None = None
) -> None:
    """Whether the headers of a series count more slices than there are.

    Positions tell of a slice that is missing between others; of those at the ends only the headers
    can tell, where they count at all. A count that is a multiple of the slices is one over several
    echoes, b-values or times, of which one was kept.

    Args:
        headers: One of each file.
        location: How a message begins.
        note: Called with gaps in the numbers of the slices.
        cut: Whether the site's file declares that slices were left out on purpose; None: there is
            no such file.

    Raises:
        ScanError: There are fewer than the headers count, and it is not `cut`; or a part is
            missing of an object that was split into several files.
    """
    _check_parts(headers, location)
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        return
    _check_counts(headers, location, note, cut)
    check_spacing(headers, note)
    found = len(headers)
    numbers = sorted(_number(header, "InstanceNumber") for header in headers)
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    if len(steps) > 1 and 0 not in steps:
        missing = numbers[-1] - numbers[0] + 1 - found
        note(f"{missing} of the numbers of its slices are missing; look whether it is whole")
    elif steps == {1} and numbers[0] > 0 and (numbers[0] - 1) % found:
        note(f"its slices are numbered from {numbers[0]}; look whether it is whole")


def _check_counts(headers: Sequence[Dataset], location: str, note: Note, cut: bool | None) -> None:
    found = len(headers)
    for name in ("ImagesInAcquisition", "NumberOfSlices"):
        counted = _common(headers, name)
        if counted <= found or counted % found == 0 or len(_values(headers, _ACQUISITION)) > 1:
            continue
        if any("DERIVED" in text(header, "ImageType") for header in headers):
            note(  # a reformatted series keeps the count of what it was made of
                f"its headers count {counted} slices ({name}) of the scan that it derives from;"
                f" look whether its {found} are whole"
            )
            continue
        if cut:
            note(
                f"{found} slices, its headers count {counted} ({name}): cut on purpose, as the"
                " site's file says (`incomplete`)"
            )
            continue
        declared = "name the case in `incomplete` of the site's file or " if cut is False else ""
        raise ScanError(
            location,
            f": {found} slices, its headers count {counted} ({name}); copy all of them, or, if"
            f" it was cut on purpose, {declared}convert it to .nii.gz",
            rule="slices",
        )


def depth_mm(header: Dataset) -> float:
    """A slice's position along its normal; reading refuses a slice that has none."""
    try:
        cosines = np.asarray(header.ImageOrientationPatient, np.float64)
        position_mm = np.asarray(header.ImagePositionPatient, np.float64)
        return float(np.cross(cosines[:3], cosines[3:]) @ position_mm)
    except (AttributeError, IndexError, ValueError, TypeError):
        return 0.0


def check_spacing(headers: Sequence[Dataset], note: Note) -> None:
    """Every second slice alone is an even stack; what the header says of its steps tells of it.

    Some scanners write the gap between slices as their spacing: a step less the thickness, or
    little against the step. Of that nothing is said.
    """
    told_mm, thick_mm = (
        _size_mm(headers[0], n) for n in ("SpacingBetweenSlices", "SliceThickness")
    )
    depths_mm = [depth_mm(header) for header in headers]
    step_mm = (max(depths_mm) - min(depths_mm)) / max(1, len(headers) - 1)
    thicker_mm = max(told_mm, thick_mm) if min(told_mm, thick_mm) > 0 else 0
    whole = _times(step_mm, thicker_mm) > 1
    is_gap = abs(told_mm + thick_mm - step_mm) < _SAME_STEP * step_mm
    if whole or (_times(step_mm, told_mm) in _SKIPPED and not is_gap):
        note(
            f"its slices are {step_mm:.4g} mm apart, its headers say {told_mm:.4g} mm; look whether"
            " it is whole"
        )


def _times(step_mm: float, told_mm: float) -> int:
    """How often a step has another, where that is a whole number; else 0."""
    times = round(step_mm / told_mm) if told_mm > 0 else 0
    return times if abs(step_mm - times * told_mm) < _SAME_STEP * step_mm else 0


def _size_mm(header: Dataset, name: str) -> float:
    try:
        return float(text(header, name) or 0)
    except ValueError:
        return 0.0


def _check_parts(headers: Sequence[Dataset], location: str) -> None:
    """A multi-frame object that was split says in how many files."""
    total = max(_number(header, "InConcatenationTotalNumber") for header in headers)
    if total > len(headers):
        raise ScanError(
            location,
            f": {len(headers)} of the {total} files that it was split into"
            " (InConcatenationTotalNumber); copy all of them",
            rule="slices",
        )


def _common(headers: Sequence[Dataset], name: str) -> int:
    """A number that all headers share; 0 where they differ."""
    values = {_number(header, name) for header in headers}
    return values.pop() if len(values) == 1 else 0


def _values(headers: Sequence[Dataset], name: str) -> set[str]:
    return {text(header, name) for header in headers}


def _number(header: Dataset, name: str) -> int:
    try:
        return int(text(header, name) or 0)
    except ValueError:
        return 0


def _kind(header: Dataset) -> str:
    kind = text(header, "SOPClassUID")
    if is_label(header):
        return _LABELS
    if kind.startswith(RADIOTHERAPY):
        return "of radiotherapy"
    if kind.startswith(_REPORTS):
        return "report"
    if kind.startswith(_PRESENTATIONS):
        return "presentation state"
    return "of another series" if "Rows" in header else "other object"


def _plural(kind: str, count: int) -> str:
    if count == 1 or kind.startswith(("of ", "that ", "with ")):
        return kind
    return f"{kind}s"
