"""RTSTRUCT: organs as contours on the slices of an image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from client.data.dicom.headers import load, quiet, text
from client.data.dicom.objects import STRUCTURES, another_scan
from client.data.dicom.outlines import inside
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError
from client.data.notes import Note, unheard

logger = logging.getLogger(__name__)

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
_OFF_SLICE = 0.25  # of a slice
_OFF_EDGE = 1.0  # of a voxel; planning systems draw a body's outline on the image's border


@quiet()
def read_structures(
    path: Path,
    image: sitk.Image,
    *,
    location: str,
    series: DicomSeries | None,
    note: Note = unheard,
) -> dict[str, NDArray[np.bool_]]:
    """The masks of an RTSTRUCT, (Z, Y, X) on the image's grid, by name of its ROI.

    A voxel is of a ROI where its centre lies within an odd number of the slice's contours, so
    that a hole is a contour within another as well as a keyhole. Slices without a contour stay
    empty. A ROI without contours has an empty mask.

    Args:
        path: The RTSTRUCT file.
        image: The scan that it was drawn on, its axes turned in any way.
        location: How a message begins, e.g. `case 014: label 014`.
        series: The scan's series; None, where the scan is no DICOM, leaves references unlooked at.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: It is damaged or no RTSTRUCT, is of another series or frame of reference, has
            a name twice, or a contour that is open, off the slices or off the grid.
    """
    structures = load(path, location=location, pixels=True)
    if text(structures, "SOPClassUID") != STRUCTURES:
        raise ScanError(location, "is no RTSTRUCT; give one, or a DICOM-SEG", rule="format")
    try:
        if series is not None:
            _check_reference(structures, series, location)
        return _masks(structures, image, location)
    except ScanError:
        raise
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise ScanError(
            location,
            "is an RTSTRUCT that lacks a part or holds a wrong one; export it again",
            rule="damaged",
        ) from error


def _masks(structures: Dataset, image: sitk.Image, location: str) -> dict[str, NDArray[np.bool_]]:
    names = {
        int(roi.ROINumber): text(roi, "ROIName") for roi in _all(structures, "StructureSetROI")
    }
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if twice:
        raise ScanError(
            location,
            f"has {len(twice)} ROI name(s) more than once; rename or remove the doubles",
            rule="values",
            detail=", ".join(twice),
        )
    shape = image.GetSize()[::-1]
    masks = {name: np.zeros(shape, np.bool_) for name in names.values()}
    broken = 0
    for item in _all(structures, "ROIContour"):
        name = names.get(int(item.ReferencedROINumber))
        if name is None:
            continue
        drawn = set()
        for contour in _all(item, "Contour"):
            outline = _outline(contour, image, location, name)
            if outline is not None:
                z, points = outline
                masks[name][z] ^= inside(points, shape[1:])
                drawn.add(z)
        broken += bool(drawn) and len(drawn) <= max(drawn) - min(drawn)
    if broken:
        logger.warning(
            "%d of %d structures have slices without a contour between others; these slices stay"
            " empty",
            broken,
            len(masks),
        )
    return masks


def _outline(
    contour: Dataset, image: sitk.Image, location: str, name: str
) -> tuple[int, NDArray[np.float64]] | None:
    """A contour's slice, and its points in voxels, (N, 2); None where it encloses nothing."""
    kind = text(contour, "ContourGeometricType")
    if kind == "POINT":
        return None
    if kind not in _CLOSED:
        raise ScanError(
            location,
            "holds a contour that is not closed in one plane; close or remove it",
            rule="format",
            detail=name,
        )
    data = contour.ContourData
    if isinstance(data, bytes):  # over 64 kB, with an explicit VR: written as UN
        data = data.decode("ascii").split("\\")
    points_mm = np.asarray(data, np.float64).reshape(-1, 3)
    if len(points_mm) < 3:
        return None
    x, y, z = _voxels(points_mm, image).T
    at = int(np.rint(z.mean()))
    off = float(np.abs(z - at).max())
    if off > _OFF_SLICE:
        raise ScanError(
            location,
            f"holds a contour that is {off:.2g} slices off the image's slices; export it with"
            " the scan that it was drawn on",
            rule="reference",
            detail=name,
        )
    columns, rows, slices = image.GetSize()
    over = max(-0.5 - min(x.min(), y.min()), x.max() - columns + 0.5, y.max() - rows + 0.5)
    if not 0 <= at < slices or over > _OFF_EDGE:
        raise ScanError(
            location,
            "holds a contour outside the image; export it with the scan that it was drawn on",
            rule="reference",
            detail=name,
        )
    return at, np.stack([x, y], axis=1)


def _voxels(points_mm: NDArray[np.float64], image: sitk.Image) -> NDArray[np.float64]:
    """Points, (N, 3), as continuous indices (x, y, z) of the image."""
    axes_mm = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    indices: NDArray[np.float64] = np.linalg.solve(axes_mm, (points_mm - image.GetOrigin()).T).T
    return indices


def _check_reference(structures: Dataset, series: DicomSeries, location: str) -> None:
    frames = {
        text(roi, "ReferencedFrameOfReferenceUID") for roi in _all(structures, "StructureSetROI")
    }
    if series.frame_uid and frames - {"", series.frame_uid}:
        raise another_scan(location, "frame of reference")
    named, instances = set(), set()
    for frame in _all(structures, "ReferencedFrameOfReference"):
        for study in _all(frame, "RTReferencedStudy"):
            for each in _all(study, "RTReferencedSeries"):
                named.add(text(each, "SeriesInstanceUID"))
    if named - {""} and series.series_uid not in named:
        raise another_scan(location, "series")
    for item in _all(structures, "ROIContour"):
        for contour in _all(item, "Contour"):
            for each in _all(contour, "ContourImage"):
                instances.add(text(each, "ReferencedSOPInstanceUID"))
    if instances - {"", *series.instance_uids}:
        raise another_scan(location, "series")


def _all(dataset: Dataset, name: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent or empty."""
    items: Sequence[Dataset] = dataset.get(f"{name}Sequence") or ()
    return items
