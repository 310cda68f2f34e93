"""What contours say they were drawn on: frame of reference, series, and the slice of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset

from client.data.dicom.headers import text
from client.data.dicom.labels.names import name_of
from client.data.dicom.objects import another_scan
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError
from client.data.notes import Note

_OTHER_SLICE = 0.75  # of a slice, more than contours may lie off their own


def check_reference(
    structures: Dataset,
    names: Collection[str],
    contours: Sequence[Dataset],
    series: DicomSeries,
    *,
    location: str,
) -> None:
    """Raise where contours are of another series or frame of reference.

    Args:
        structures: The RTSTRUCT.
        names: Of the ROIs that are wanted.
        contours: Of these ROIs.
        series: The scan's.
        location: How a message begins.
    """
    frames = {
        text(roi, "ReferencedFrameOfReferenceUID")
        for roi in items_of(structures, "StructureSetROI")
        if name_of(roi, "ROIName") in names
    }
    if series.frame_uid and frames - {"", series.frame_uid}:
        raise another_scan(location, "frame of reference")
    named, instances = set(), set()
    for frame in items_of(structures, "ReferencedFrameOfReference"):
        for study in items_of(frame, "RTReferencedStudy"):
            for each in items_of(study, "RTReferencedSeries"):
                named.add(text(each, "SeriesInstanceUID"))
    if named - {""} and series.series_uid not in named:
        raise another_scan(location, "series")
    for contour in contours:
        for each in items_of(contour, "ContourImage"):
            instances.add(text(each, "ReferencedSOPInstanceUID"))
    if instances - {"", *series.instance_uids}:
        raise another_scan(location, "series")


def check_slices(
    contours: Sequence[Dataset],
    image: sitk.Image,
    series: DicomSeries,
    *,
    location: str,
    note: Note,
) -> None:
    """Whether contours lie on the slices that they name, where each names one.

    Programs that name one slice for all contours say nothing by it.

    Args:
        contours: Each with its ContourData.
        image: The scan.
        series: Of the scan.
        location: How a message begins.
        note: Called where a few lie on another slice.

    Raises:
        ScanError: Most lie on another slice.
    """
    at = {uid: z for z, uid in enumerate(series.instance_uids)}
    if series.multiframe or len(at) != image.GetDepth():
        return
    steps = []
    named = set()
    for contour in contours:
        references = items_of(contour, "ContourImage")
        data = contour.get("ContourData")
        uid = text(references[0], "ReferencedSOPInstanceUID") if len(references) == 1 else ""
        if uid not in at or not data or isinstance(data, bytes):
            continue
        point_mm = [float(value) for value in data[:3]]
        z = image.TransformPhysicalPointToContinuousIndex(point_mm)[2]
        steps.append(abs(z - at[uid]))
        named.add(uid)
    others = int(np.count_nonzero(np.array(steps) > _OTHER_SLICE))
    if not others or (len(named) == 1 and len(steps) > 1):
        return
    if 2 * others > len(steps):
        raise ScanError(
            location,
            f"names other slices than its contours lie on, for {others} of {len(steps)}; export it"
            " again with the scan that it was drawn on",
            rule="reference",
        )
    note(f"{others} of {len(steps)} contours lie on another slice than they name")


def items_of(dataset: Dataset, name: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent or empty."""
    items: Sequence[Dataset] = dataset.get(f"{name}Sequence") or ()
    return items
