"""Which structures of a label hold anything, whatever they are drawn on."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset

from client.data.dicom.headers import DAMAGED, load, quiet, text
from client.data.dicom.labels.names import name_of
from client.data.dicom.labels.segments import frames_of
from client.data.dicom.objects import STRUCTURES
from client.data.errors import ScanError

_LEAST_VALUES = 9  # of the three points that enclose something


@quiet()
def drawn_structures(file: Path, *, location: str) -> dict[str, bool]:
    """Whether an RTSTRUCT's ROIs have contours, or a DICOM-SEG's segments voxels, by name.

    Raises:
        ScanError: The file cannot be read.
    """
    label = load(file, location=location, pixels=True)
    try:
        contours = text(label, "SOPClassUID") == STRUCTURES
        named, drawn = _contours(label) if contours else _segments(label, location)
    except ScanError:
        raise
    except Exception as error:  # of a parser or decoder; its words may hold values of the header
        raise ScanError(location, DAMAGED, rule="damaged", detail=file.name) from error
    holds: dict[str, bool] = {}
    for number, name in named:
        holds[name] = holds.get(name, False) or number in drawn
    return holds


def _contours(label: Dataset) -> tuple[list[tuple[str, str]], set[str]]:
    named = [
        (text(roi, "ROINumber"), name_of(roi, "ROIName"))
        for roi in label.get("StructureSetROISequence") or ()
    ]
    drawn = {
        text(item, "ReferencedROINumber")
        for item in label.get("ROIContourSequence") or ()
        if any(
            text(contour, "ContourGeometricType") != "POINT"
            and len(contour.get("ContourData") or ()) >= _LEAST_VALUES
            for contour in item.get("ContourSequence") or ()
        )
    }
    return named, drawn


def _segments(label: Dataset, location: str) -> tuple[list[tuple[int, str]], set[int]]:
    named = [
        (int(each.SegmentNumber), name_of(each, "SegmentLabel"))
        for each in label.get("SegmentSequence") or ()
    ]
    drawn: set[int] = set()
    for _, numbers, values in frames_of(label, text(label, "SegmentationType"), location):
        drawn |= numbers if values.any() else set()
    return named, drawn
