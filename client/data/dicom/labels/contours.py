"""RTSTRUCT: organs as contours on the slices of an image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from client.data.dicom.headers import load, quiet, text
from client.data.dicom.labels.gaps import filled, find_gaps
from client.data.dicom.labels.names import OrganOf, any_structure, drawn_once, name_of
from client.data.dicom.labels.nesting import excluded, nested
from client.data.dicom.labels.placing import contour_offsets, nearest
from client.data.dicom.labels.references import check_reference, check_slices, items_of
from client.data.dicom.objects import STRUCTURES
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError
from client.data.notes import Note, unheard
from protocol.config.site import GapRule

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
_KIND = "ContourGeometricType"
_OFF_SLICE = 0.25  # of a slice
_OFF_EDGE = 1.0  # of a voxel; planning systems draw a body's outline on the image's border


@dataclass(frozen=True)
class _Structure:
    """One ROI: its name at the site, and the organ that it is, for lines that name nobody."""

    name: str
    organ: str
    items: list[Dataset] = field(default_factory=list)


@quiet()
def read_structures(
    path: Path,
    image: sitk.Image,
    *,
    location: str,
    series: DicomSeries | None,
    organ_of: OrganOf = any_structure,
    gaps: GapRule = "interpolate",
    note: Note = unheard,
) -> dict[str, NDArray[np.bool_]]:
    """The masks of an RTSTRUCT, (Z, Y, X) on the image's grid, by name of its ROI.

    A voxel is of a ROI where its centre lies within a contour and not in a hole: a contour within
    another, or a keyhole.  Contours that cross or are doubled are united, with a note. A ROI
    without contours has an empty mask.

    Args:
        path: The RTSTRUCT file.
        image: The scan that it was drawn on, its axes turned in any way.
        location: How a message begins, e.g. `case 014: label 014`.
        series: The scan's series; None, where the scan is no DICOM, leaves references unlooked at.
        organ_of: Organ of a ROI's name; ROIs of which it knows none are left aside, whatever is
            wrong with them.
        gaps: Slices without a contour between others are interpolated, refused or stay empty; what
            a program drew on every slice is read with `keep`.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: It is damaged or no RTSTRUCT, is of another series or frame of reference; or an
            organ's ROI has a name or number twice, or a contour that is open, off the slices or off
            the grid, or of which nobody can say whether it is a hole.
    """
    structures = load(path, location=location, pixels=True)
    if text(structures, "SOPClassUID") != STRUCTURES:
        raise ScanError(location, "is no RTSTRUCT; give one, or a DICOM-SEG", rule="format")
    try:
        if items_of(structures, "StructureSetROI") and "ROIContourSequence" not in structures:
            raise ValueError("the part with the contours is missing")
        wanted = _wanted(structures, organ_of, location, note)
        if series is not None:
            names = {each.name for each in wanted}
            drawn = [
                contour
                for each in wanted
                for item in each.items
                for contour in items_of(item, "Contour")
            ]
            check_reference(structures, names, drawn, series, location=location)
            check_slices(drawn, image, series, location=location, note=note)
        points = _one_of_each(wanted, image)
        offsets = contour_offsets(points, image, series, location=location)
        masks = [
            (each.name, _mask(each, image, offsets, location=location, gaps=gaps, note=note))
            for each in wanted
        ]
        return drawn_once(masks, location, what="ROI name")
    except ScanError:
        raise
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise ScanError(
            location,
            "is an RTSTRUCT that lacks a part or holds a wrong one; export it again",
            rule="damaged",
        ) from error


def _wanted(structures: Dataset, organ_of: OrganOf, location: str, note: Note) -> list[_Structure]:
    """The ROIs that are an organ, with their contours."""
    by_number: dict[str, _Structure | None] = {}
    doubled: set[str] = set()
    for roi in items_of(structures, "StructureSetROI"):
        number, name = text(roi, "ROINumber"), name_of(roi, "ROIName")
        organ = organ_of(name)
        before = by_number.get(number)
        if number in by_number and (before or organ):
            doubled |= {name} | ({before.name} if before else set())
        by_number[number] = _Structure(name, organ) if organ else None
    if doubled:
        raise ScanError(
            location,
            "has one number for several ROIs, so that nobody can tell whose their contours are;"
            " export it again",
            rule="values",
            detail=", ".join(sorted(doubled)),
        )
    strays = 0
    for item in items_of(structures, "ROIContour"):
        number = text(item, "ReferencedROINumber")
        strays += number not in by_number
        if structure := by_number.get(number):
            structure.items.append(item)
    if strays:
        note(f"{strays} set(s) of contours belong to no structure of the file; left aside")
    return [structure for structure in by_number.values() if structure]


def _one_of_each(wanted: Collection[_Structure], image: sitk.Image) -> NDArray[np.float64]:
    """The first point of each contour, as a continuous index (x, y, z), (N, 3)."""
    contours = (each for of in wanted for item in of.items for each in items_of(item, "Contour"))
    drawn = [_points_mm(each) for each in contours if text(each, _KIND) in _CLOSED]
    first = [points[:1] for points in drawn if len(points) > 2 and np.isfinite(points).all()]
    return _voxels(np.concatenate([np.empty((0, 3)), *first]), image)


def _mask(
    structure: _Structure,
    image: sitk.Image,
    offsets: NDArray[np.float64],
    *,
    location: str,
    gaps: GapRule,
    note: Note,
) -> NDArray[np.bool_]:
    outlines: dict[int, list[NDArray[np.float64]]] = {}
    exclusive = False
    for item in structure.items:
        for contour in items_of(item, "Contour"):
            outline = _outline(contour, image, offsets, location, structure.name)
            if outline is not None:
                outlines.setdefault(outline[0], []).append(outline[1])
                exclusive |= text(contour, _KIND).endswith("XOR")
    mask = np.zeros(image.GetSize()[::-1], np.bool_)
    spacing_mm = image.GetSpacing()
    united = hollow = 0
    for z, drawn in outlines.items():
        shape = mask.shape[1], mask.shape[2]
        region = excluded(drawn, shape) if exclusive else nested(drawn, shape, spacing_mm[:2])
        if region.unclear:
            raise ScanError(
                location,
                "holds contours on one slice of which nobody can tell whether the inner one is a"
                " hole or was drawn twice; remove one, or cut the hole in by a keyhole",
                rule="organ",
                detail=structure.name,
            )
        united += region.united
        hollow += region.hollow
        mask[z] = region.mask
    if united:
        note(
            f"{structure.organ}: contours that overlap or are doubled on {united} slice(s) count"
            " once"
        )
    if hollow:
        note(
            f"{structure.organ}: on {hollow} slice(s) a hole takes more than half of the outline"
            " around it; look whether it is a double"
        )
    _close_gaps(mask, structure, spacing_mm, location=location, gaps=gaps, note=note)
    return mask


def _close_gaps(
    mask: NDArray[np.bool_],
    structure: _Structure,
    spacing_mm: Sequence[float],
    *,
    location: str,
    gaps: GapRule,
    note: Note,
) -> None:
    """Interpolate slices without a contour, in place, or refuse them, by the site's rule."""
    between = find_gaps(mask)
    missing = between.sparse + between.unclear
    if missing and gaps != "keep" and (gaps == "refuse" or between.unclear):
        raise ScanError(
            location,
            f"has no contour on {missing} slice(s) between others of {structure.organ}; draw or"
            " interpolate them there, or say by `contour_gaps` of the site's file what they mean",
            rule="organ",
            detail=structure.name,
        )
    left = between.apart
    if gaps == "keep":
        left += missing
    elif between.sparse:
        filled(mask, between, (spacing_mm[1], spacing_mm[0]))
        note(
            f"{structure.organ}: {between.sparse} slice(s) without a contour between others were"
            " interpolated"
        )
    if left:
        note(f"{structure.organ}: {left} slice(s) without a contour between others stay empty")


def _outline(
    contour: Dataset, image: sitk.Image, offsets: NDArray[np.float64], location: str, name: str
) -> tuple[int, NDArray[np.float64]] | None:
    """A contour's slice, and its points in voxels, (N, 2); None where it encloses nothing."""
    kind = text(contour, _KIND)
    if kind == "POINT":
        return None
    if kind not in _CLOSED:
        raise ScanError(
            location,
            "holds a contour that is not closed in one plane; close or remove it",
            rule="format",
            detail=name,
        )
    points_mm = _points_mm(contour)
    if not np.isfinite(points_mm).all():
        raise ValueError("a point is nowhere")
    if int(text(contour, "NumberOfContourPoints") or len(points_mm)) != len(points_mm):
        raise ValueError("points are missing, or too many")
    if len(points_mm) < 3:
        return None
    voxels = _voxels(points_mm, image)
    x, y, z = (voxels - offsets[nearest(float(voxels[:, 2].mean()), offsets)]).T
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


def _points_mm(contour: Dataset) -> NDArray[np.float64]:
    data = contour.get("ContourData") or ()
    if isinstance(data, bytes):  # over 64 kB, with an explicit VR: written as UN
        data = data.decode("ascii").split("\\")
    return np.asarray(data, np.float64).reshape(-1, 3)


def _voxels(points_mm: NDArray[np.float64], image: sitk.Image) -> NDArray[np.float64]:
    """Points, (N, 3), as continuous indices (x, y, z) of the image."""
    axes_mm = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    indices: NDArray[np.float64] = np.linalg.solve(axes_mm, (points_mm - image.GetOrigin()).T).T
    return indices
