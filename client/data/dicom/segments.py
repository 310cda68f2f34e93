"""Reads a DICOM-SEG: organs as segments on the grid of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from client.data.dicom.headers import DAMAGED, load, quiet, text
from client.data.dicom.objects import SEGMENTATIONS, another_scan
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError
from client.data.notes import Note, unheard

_OFF_VOXEL = 0.05  # of a voxel, at a frame's corners


@quiet()
def read_segments(
    path: Path,
    image: sitk.Image,
    *,
    location: str,
    series: DicomSeries | None,
    note: Note = unheard,
) -> dict[str, NDArray[np.bool_]]:
    """The masks of a DICOM-SEG, (Z, Y, X) on the image's grid, by label of its segment.

    Frames are placed by position and may be cropped, or have their axes in another order or
    sense than the image. A fractional segment holds what has a half or more of its maximum.

    Args:
        path: The file: BINARY, FRACTIONAL or LABELMAP.
        image: The scan that it was drawn on.
        location: How a message begins, e.g. `case 014: label 014`.
        series: The scan's series; None, where the scan is no DICOM, leaves references unlooked at.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: It is damaged or no DICOM-SEG, is of another series or frame of reference, has
            a label twice, or is on another grid.
    """
    segmentation = load(path, location=location, pixels=True)
    if text(segmentation, "SOPClassUID") not in SEGMENTATIONS:
        raise ScanError(location, "is no DICOM-SEG; give one, or an RTSTRUCT", rule="format")
    if series is not None:
        _check_reference(segmentation, series, location)
    try:
        return _masks(segmentation, image, location)
    except ScanError:
        raise
    except Exception as error:  # of a parser or decoder; its words may hold values of the header
        raise ScanError(location, DAMAGED, rule="damaged", detail=path.name) from error


def _check_reference(segmentation: Dataset, series: DicomSeries, location: str) -> None:
    frame = text(segmentation, "FrameOfReferenceUID")
    if frame and series.frame_uid and frame != series.frame_uid:
        raise another_scan(location, "frame of reference")
    referenced = segmentation.get("ReferencedSeriesSequence") or ()
    named = {text(each, "SeriesInstanceUID") for each in referenced}
    if named - {""} and series.series_uid not in named:
        raise another_scan(location, "series")


def _masks(segmentation: Dataset, image: sitk.Image, location: str) -> dict[str, NDArray[np.bool_]]:
    names = {
        int(each.SegmentNumber): text(each, "SegmentLabel")
        for each in segmentation.SegmentSequence
        if int(each.SegmentNumber) > 0  # 0 is the background of a label map
    }
    if len(set(names.values())) < len(names):
        labels = list(names.values())
        raise ScanError(
            location,
            "has segment labels more than once; rename or remove the doubles",
            rule="values",
            detail=", ".join(sorted({name for name in labels if labels.count(name) > 1})),
        )
    kind = text(segmentation, "SegmentationType")
    half = float(segmentation.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 0.5
    masks = {name: np.zeros(image.GetSize()[::-1], np.bool_) for name in names.values()}
    pixels = segmentation.pixel_array.reshape(-1, int(segmentation.Rows), int(segmentation.Columns))
    shared = list(segmentation.get("SharedFunctionalGroupsSequence") or ())
    for values, frame in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        groups = [frame, *shared]
        if kind == "LABELMAP":
            drawn = {names[n]: values == n for n in np.unique(values).tolist() if n in names}
        else:
            number = int(_item(groups, "SegmentIdentification").ReferencedSegmentNumber)
            drawn = {names[number]: values >= half}
        for name, inside in drawn.items():
            z, y, x = _indices(groups, inside, image, location)
            masks[name][z, y, x] = True
    return masks


def _indices(
    groups: Sequence[Dataset], inside: NDArray[np.bool_], image: sitk.Image, location: str
) -> tuple[NDArray[np.intp], ...]:
    """Indices (z, y, x) in the image of the voxels that a frame, (rows, columns), has inside."""
    position = _item(groups, "PlanePosition").ImagePositionPatient
    cosines = np.asarray(_item(groups, "PlaneOrientation").ImageOrientationPatient, np.float64)
    spacing_mm = np.asarray(_item(groups, "PixelMeasures").PixelSpacing, np.float64)
    axes_mm = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    first = np.linalg.solve(axes_mm, np.asarray(position, np.float64) - image.GetOrigin())
    along = np.linalg.solve(
        axes_mm, np.stack([cosines[3:] * spacing_mm[0], cosines[:3] * spacing_mm[1]], axis=1)
    )
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (np.array(inside.shape) - 1)
    exact, whole = first + corners @ along.T, np.rint(first) + corners @ np.rint(along).T
    if np.abs(exact - whole).max() > _OFF_VOXEL:
        raise _other_grid(location)
    voxels = (np.rint(first) + np.argwhere(inside) @ np.rint(along).T).astype(np.intp)
    if voxels.size and (voxels.min() < 0 or (voxels >= image.GetSize()).any()):
        raise _other_grid(location)
    return tuple(voxels[:, ::-1].T)


def _item(groups: Sequence[Dataset], name: str) -> Dataset:
    item: Dataset = next(group for group in groups if f"{name}Sequence" in group)[
        f"{name}Sequence"
    ].value[0]
    return item


def _other_grid(location: str) -> ScanError:
    return ScanError(
        location,
        "is not on the image grid: a frame's voxels lie between or outside the image's; export it"
        " on the scan's own grid",
        rule="grid",
    )
