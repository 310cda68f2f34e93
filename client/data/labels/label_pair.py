"""Two labels of one scan on one grid, whatever each is: label map, contours or segments."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
import SimpleITK as sitk

from client.data.case import Case
from client.data.dicom.headers import DAMAGED, load, quiet, text
from client.data.dicom.labels.contours import read_structures
from client.data.dicom.labels.segments import read_segments
from client.data.dicom.objects import (
    another_scan,
    dicom_files,
    label_kind,
    label_objects,
    structure_names,
)
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError
from client.data.files.geometry import same_grid_error
from client.data.files.image_io import load_numbers
from client.data.folder.entries import check_entry, suffix_of
from client.data.labels.label_file import read_label_file
from client.data.labels.label_map import LabelMapping
from client.data.labels.segment_names import read_segment_names
from client.data.notes import Note, unheard

Kind = Literal["map", "segmentation", "structures", "segments"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two.

    Attributes:
        role: For messages: prediction or reference.
        path: A label map, an RTSTRUCT or a DICOM-SEG, or a folder that holds one of the latter.
        mapping: What its names and numbers mean.
    """

    role: str
    path: Path
    mapping: LabelMapping


def read_pair(
    prediction: Side,
    reference: Side,
    *,
    scan: Path | None,
    note: Note = unheard,
) -> tuple[sitk.Image, sitk.Image]:
    """Both in the study's numbers, 8-bit, on one grid.

    It is the scan's; without a scan that of a label map, the reference's before the prediction's;
    without one of those the box around what both files hold.

    Args:
        prediction: What is scored.
        reference: What is taken as true.
        scan: The image that both were drawn on: a file, or a folder with one DICOM series.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: One cannot be read, is of another scan or grid, or lacks an organ; or there is no
            grid, because contours have none of their own.
    """
    sides = (_in_folder(reference), _in_folder(prediction))
    kinds = [_kind(side) for side in sides]
    series: DicomSeries | None = None
    if scan is not None:
        case = Case(name="scan", part="test", image=scan, label=None)
        grid, series, whose = case.read_scan(note), case.series, "scan"
    else:
        grid, whose = _own_grid(sides, kinds)
    true, predicted = (
        _read(side, kind, grid, whose, series, note)
        for side, kind in zip(sides, kinds, strict=True)
    )
    return predicted, true


def _location(side: Side, kind: Kind) -> str:
    what = "label map" if kind in ("map", "segmentation") else "label"
    return f"case {side.role}: {what} {side.path.name}"


def _in_folder(side: Side) -> Side:
    """Of a case's folder, the contours or segments that lie beside its slices."""
    if not os.path.isdir(side.path):
        return side
    objects = label_objects(side.path, location=_location(side, "segments"))
    return replace(side, path=objects[0]) if len(objects) == 1 else side


def _kind(side: Side) -> Kind:
    location = _location(side, "map")
    try:
        check_entry(side.path, location)
    except ScanError as error:
        if error.problem.rule == "missing":  # whoever gave the path may read where it leads
            detail = f"in {side.path.absolute().parent}"
            raise ScanError(**vars(error.problem) | {"detail": detail}) from None
        raise
    kind = label_kind(side.path, location=_location(side, "segments"))
    if kind is not None:
        return kind
    known = suffix_of(side.path) is not None
    boxed = known and read_segment_names(side.path, location=location).boxed
    return "segmentation" if boxed else "map"


def _own_grid(sides: tuple[Side, Side], kinds: list[Kind]) -> tuple[sitk.Image, str]:
    """The grid of the label maps or segments themselves, and whose it is."""
    for side, kind in zip(sides, kinds, strict=True):
        if kind == "map":
            return load_numbers(side.path, _location(side, kind)), side.role
    # Segments of DICOM are placed on any grid, whatever the order of its axes.
    boxes = sorted(zip(sides, kinds, strict=True), key=lambda pair: pair[1] == "segments")
    grids = [grid for side, kind in boxes if (grid := _grid_of(side, kind)) is not None]
    contours = [pair for pair in zip(sides, kinds, strict=True) if pair[1] == "structures"]
    # Contours may be drawn beyond the box of the other side's segments.
    if not grids or contours:
        side, kind = contours[0] if contours else (sides[0], kinds[0])
        raise ScanError(
            _location(side, kind),
            "needs the grid of the scan that it was drawn on; give it by --scan (a file, or the"
            " folder of the DICOM series)",
            rule="missing",
        )
    _check_frames(sides, kinds)
    return (_around(*grids) if len(grids) == 2 else grids[0]), "reference"


def _grid_of(side: Side, kind: Kind) -> sitk.Image | None:
    location = _location(side, kind)
    if kind == "segmentation":
        return load_numbers(side.path, location, layers=True)
    return _segments_grid(side.path, location) if kind == "segments" else None


@quiet()
def _segments_grid(path: Path, location: str) -> sitk.Image | None:
    """Of a DICOM-SEG's frames; None where they are no stack."""
    try:
        geometry = hd.seg.segread(dicom_files(path)[0]).get_volume_geometry()
    except Exception as error:  # of a parser; its words may hold values of the header
        raise ScanError(location, DAMAGED, rule="damaged") from error
    if geometry is None:
        return None
    axes_mm = geometry.affine[:3, 2::-1]  # of columns, rows, slices
    spacing_mm = np.linalg.norm(axes_mm, axis=0)
    grid = sitk.Image([int(n) for n in geometry.spatial_shape[::-1]], sitk.sitkUInt8)
    grid.SetSpacing(spacing_mm.tolist())
    grid.SetDirection((axes_mm / spacing_mm).ravel().tolist())
    grid.SetOrigin(geometry.affine[:3, 3].tolist())
    return grid


def _check_frames(sides: tuple[Side, Side], kinds: list[Kind]) -> None:
    """Two DICOM files say themselves whether they are of one patient's position."""
    if kinds != ["segments", "segments"]:
        return
    tags = ("SOPClassUID", "Rows", "FrameOfReferenceUID")
    headers = [
        load(dicom_files(side.path)[0], location=_location(side, "segments"), tags=tags)
        for side in sides
    ]
    first, second = (text(header, "FrameOfReferenceUID") for header in headers)
    if first and second and first != second:
        raise another_scan(_location(sides[1], "segments"), "frame of reference")


def _around(first: sitk.Image, other: sitk.Image) -> sitk.Image:
    """The smallest grid with the voxels of the first that holds both boxes."""
    size = np.array(first.GetSize())
    corners = [
        first.TransformPhysicalPointToContinuousIndex(other.TransformIndexToPhysicalPoint(corner))
        for corner in itertools.product(*((0, int(n) - 1) for n in other.GetSize()))
    ]
    low = np.minimum(np.rint(np.min(corners, axis=0)), 0)
    high = np.maximum(np.rint(np.max(corners, axis=0)), size - 1)
    grid = sitk.Image([int(n) for n in high - low + 1], sitk.sitkUInt8)
    grid.SetSpacing(first.GetSpacing())
    grid.SetDirection(first.GetDirection())
    grid.SetOrigin(first.TransformContinuousIndexToPhysicalPoint(low.tolist()))
    return grid


def _read(
    side: Side,
    kind: Kind,
    grid: sitk.Image,
    whose: str,
    series: DicomSeries | None,
    note: Note,
) -> sitk.Image:
    location = _location(side, kind)

    def told(line: str) -> None:
        note(f"{side.role}: {line}")

    try:
        if kind in ("structures", "segments"):
            mapping, file = side.mapping, dicom_files(side.path)[0]
            contours = partial(read_structures, gaps=mapping.gaps)
            read = contours if kind == "structures" else read_segments
            masks = read(
                file,
                grid,
                location=location,
                series=series,
                organ_of=mapping.organ_of,
                note=told,
            )
            held = dict.fromkeys(structure_names(file, location=location), True)
            return mapping.combine(
                masks, grid, case=side.role, location=location, drawn=held, note=told
            )
        label = read_label_file(
            side.path,
            grid if kind == "segmentation" else None,
            side.mapping,
            case=side.role,
            location=location,
            note=told,
        )
    except ScanError as error:
        if error.problem.rule != "organ":
            raise
        hint = "; --organs may leave it out, and --site names the site (--both: of both)"
        parts = vars(error.problem) | {"message": error.problem.message + hint}
        raise ScanError(**parts) from error
    if difference := same_grid_error(label, grid):
        raise ScanError(
            location,
            f"is not on the {whose}'s grid: {difference}; resample it with nearest neighbour",
            rule="grid",
        )
    return label
