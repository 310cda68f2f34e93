"""Reads a DICOM-SEG: organs as segments on the grid of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from client.data.dicom.headers import DAMAGED, load, quiet, text
from client.data.dicom.labels.names import OrganOf, any_structure, drawn_once, name_of
from client.data.dicom.labels.placing import FramePlaces
from client.data.dicom.objects import SEGMENTATIONS, another_scan
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError
from client.data.notes import Note, unheard


@quiet()
def read_segments(
    path: Path,
    image: sitk.Image,
    *,
    location: str,
    series: DicomSeries | None,
    organ_of: OrganOf = any_structure,
    note: Note = unheard,
) -> dict[str, NDArray[np.bool_]]:
    """The masks of a DICOM-SEG, (Z, Y, X) on the image's grid, by label of its segment.

    Frames are placed by position, all on the image's grid or all at its slices' own positions, and
    may be cropped, or have their axes in another order or sense than the image. A fractional
    segment holds what has a half or more of its maximum.

    Args:
        path: The file: BINARY, FRACTIONAL or LABELMAP.
        image: The scan that it was drawn on.
        location: How a message begins, e.g. `case 014: label 014`.
        series: The scan's series; None, where the scan is no DICOM, leaves references unlooked at.
        organ_of: Organ of a segment's label; segments of which it knows none are left aside,
            whatever is wrong with them.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: It is damaged or no DICOM-SEG, is of another series or frame of reference; or an
            organ's segment has a label twice, or is on another grid.
    """
    segmentation = load(path, location=location, pixels=True)
    if text(segmentation, "SOPClassUID") not in SEGMENTATIONS:
        raise ScanError(location, "is no DICOM-SEG; give one, or an RTSTRUCT", rule="format")
    if series is not None:
        _check_reference(segmentation, series, location)
    try:
        places = FramePlaces(image, series, location)
        return _masks(segmentation, places, organ_of, location, note)
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


def _masks(
    segmentation: Dataset, places: FramePlaces, organ_of: OrganOf, location: str, note: Note
) -> dict[str, NDArray[np.bool_]]:
    described = [
        (int(each.SegmentNumber), name_of(each, "SegmentLabel"))
        for each in segmentation.get("SegmentSequence") or ()
        if int(each.SegmentNumber) > 0  # 0 is the background of a label map
    ]
    names = dict(described)
    if len(names) < len(described):
        raise ValueError("two segments have one number")
    kind = text(segmentation, "SegmentationType")
    masks = {
        number: np.zeros(places.image.GetSize()[::-1], np.bool_)
        for number, name in names.items()
        if organ_of(name)
    }
    strays: set[int] = set()
    for groups, numbers, values in frames_of(segmentation, kind, location):
        strays |= numbers - names.keys() - {int(text(segmentation, "PixelPaddingValue") or 0)}
        for number in numbers & masks.keys():
            drawn = values == number if kind == "LABELMAP" else values
            z, y, x = _indices(groups, drawn, places, location)
            masks[number][z, y, x] = True
    if strays:
        note(f"holds {len(strays)} number(s) that no segment describes; left aside")
    named = ((names[number], mask) for number, mask in masks.items())
    return drawn_once(named, location, what="segment label")


def frames_of(
    segmentation: Dataset, kind: str, location: str
) -> Iterator[tuple[list[Dataset], set[int], NDArray[Any]]]:
    """Of each frame its functional groups, the numbers of its segments, and what it holds.

    Of a label map these are numbers, otherwise whether a voxel is inside.

    Raises:
        ScanError: Fractions are over their maximum, or nobody knows what the voxels mean.
    """
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise ScanError(
            location,
            "has a SegmentationType that is none of BINARY, FRACTIONAL and LABELMAP; export it"
            " again",
            rule="format",
        )
    frames = segmentation.get("PerFrameFunctionalGroupsSequence") or ()
    if not frames and not int(text(segmentation, "NumberOfFrames") or 0):
        return
    most = float(segmentation.MaximumFractionalValue) if kind == "FRACTIONAL" else 1.0
    shared = list(segmentation.get("SharedFunctionalGroupsSequence") or ())
    pixels = segmentation.pixel_array.reshape(-1, int(segmentation.Rows), int(segmentation.Columns))
    for values, frame in zip(pixels, frames, strict=True):
        groups = [frame, *shared]
        if kind == "LABELMAP":
            yield groups, set(np.unique(values).tolist()), values
        else:
            number = int(_item(groups, "SegmentIdentification").ReferencedSegmentNumber)
            if values.max() > most:
                raise ScanError(
                    location,
                    f"holds fractions over its own maximum, {values.max()} of {most:g}; export it"
                    " again as a binary segmentation",
                    rule="values",
                )
            yield groups, {number}, values >= most / 2


def _indices(
    groups: Sequence[Dataset], inside: NDArray[np.bool_], places: FramePlaces, location: str
) -> tuple[NDArray[np.intp], ...]:
    """Indices (z, y, x) in the image of the voxels that a frame, (rows, columns), has inside."""
    image = places.image
    position = _item(groups, "PlanePosition").ImagePositionPatient
    cosines = np.asarray(_item(groups, "PlaneOrientation").ImageOrientationPatient, np.float64)
    spacing_mm = np.asarray(_item(groups, "PixelMeasures").PixelSpacing, np.float64)
    axes_mm = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    first = np.linalg.solve(axes_mm, np.asarray(position, np.float64) - image.GetOrigin())
    along = np.linalg.solve(
        axes_mm, np.stack([cosines[3:] * spacing_mm[0], cosines[:3] * spacing_mm[1]], axis=1)
    )
    whole = places.first_voxel(first, along, inside.shape)
    if whole is None:
        raise _other_grid(location)
    voxels = (whole + np.argwhere(inside) @ np.rint(along).T).astype(np.intp)
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
