"""Contours and segments that are doubled, sparse, empty, or beside others that nobody asked for."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import highdicom as hd
import numpy as np
from bad_cases import Place
from numpy.typing import NDArray
from other_segments import write_other_segments
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from faulty import Faulty

Points = NDArray[np.float64]
Make = Callable[[Place], None]
SHAPE = (13, 84, 96)
SPACING_MM = (0.5, 0.5, 3.0)
ORIGIN_MM = (-24.0, -21.0, 5.0)
DRAWN = range(2, 11)
RADIUS_MM = 9.0
BLADDER, PROSTATE = (-12.13, 0.11), (11.07, 0.19)  # off the voxels, as patients are
DISC_ML = np.pi * RADIUS_MM**2 * SPACING_MM[2] / 1000


@dataclass(frozen=True, kw_only=True)
class Roi:
    """A structure as it is drawn: outlines (N, 2), x and y in mm, by slice."""

    name: str
    contours: Sequence[tuple[float, Points]] = ()
    kind: str = "CLOSED_PLANAR"


def disc(at_mm: tuple[float, float], radius_mm: float = RADIUS_MM, aside_mm: float = 0.0) -> Points:
    """The outline of a circle, (N, 2)."""
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    x, y = at_mm
    return np.column_stack(
        [x + aside_mm + radius_mm * np.cos(angles), y + radius_mm * np.sin(angles)]
    )


def column(
    name: str, at_mm: tuple[float, float], slices: Sequence[int] = DRAWN, *more: Points
) -> Roi:
    """A disc on each of the slices, and what else is drawn there."""
    drawn = (disc(at_mm), *more)
    return Roi(name=name, contours=[(z, outline) for z in slices for outline in drawn])


def scan(place: Place) -> ph.Phantom:
    """The case's series."""
    voxels = np.random.default_rng(place.seed).integers(1, 900, SHAPE).astype(np.uint16)
    made = ph.Phantom(voxels=voxels, spacing_mm=SPACING_MM, origin_mm=ORIGIN_MM)
    ph.write_classic(place.image(""), made)
    return made


def structure_set(
    path: Path,
    made: ph.Phantom,
    rois: Sequence[Roi],
    edit: Callable[[Dataset], object] = lambda _: None,
) -> None:
    """An RTSTRUCT as another program writes it."""
    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    found.Modality, found.PatientID, found.PatientName = "RTSTRUCT", "4711", "Doe^Jane"
    found.StudyInstanceUID, found.SeriesInstanceUID = made.study_uid, generate_uid()
    found.FrameOfReferenceUID, found.StructureSetLabel = made.frame_uid, "drawn"
    found.StructureSetROISequence, found.ROIContourSequence = [], []
    for number, roi in enumerate(rois, start=1):
        described, drawn = Dataset(), Dataset()
        described.ROINumber, described.ROIName = number, roi.name
        described.ReferencedFrameOfReferenceUID = made.frame_uid
        drawn.ReferencedROINumber = number
        contours = [_contour(made, z, outline, roi.kind) for z, outline in roi.contours]
        if contours:
            drawn.ContourSequence = contours
        found.StructureSetROISequence.append(described)
        found.ROIContourSequence.append(drawn)
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    edit(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    ph.save(found, path)


def _contour(made: ph.Phantom, z: float, outline: Points, kind: str) -> Dataset:
    contour = Dataset()
    height_mm = made.origin_mm[2] + z * made.spacing_mm[2]
    contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(outline)
    points = np.column_stack([outline, np.full(len(outline), height_mm)])
    contour.ContourData = [f"{value:.4f}" for value in points.ravel()]
    return contour


def drawn(*rois: Roi, edit: Callable[[Dataset], object] = lambda _: None) -> Make:
    """A case whose label is an RTSTRUCT of these structures."""

    def make(place: Place) -> None:
        structure_set(place.label(".dcm"), scan(place), rois, edit)

    return make


def segmented(
    *segments: tuple[str, NDArray[Any]],
    kind: str = "BINARY",
    edit: Callable[[Dataset], object] = lambda _: None,
    **how: Any,
) -> Make:
    """A case whose label is a DICOM-SEG by highdicom: names, and masks or shares (Z, Y, X)."""

    def make(place: Place) -> None:
        scan(place)
        sources = [dcmread(file) for file in place.image("").iterdir()]
        sources.sort(key=lambda source: float(source.ImagePositionPatient[2]))
        pixels = np.stack([mask for _, mask in segments], axis=-1)
        path = place.label(".dcm")
        write_other_segments(path, sources, pixels, [name for name, _ in segments], kind, **how)
        found = dcmread(path)
        edit(found)
        ph.save(found, path)

    return make


def voxels(at_mm: tuple[float, float], slices: Sequence[int] = DRAWN) -> NDArray[np.uint8]:
    """The disc of `column`, (Z, Y, X)."""
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    x = columns * SPACING_MM[0] + ORIGIN_MM[0] - at_mm[0]
    y = rows * SPACING_MM[1] + ORIGIN_MM[1] - at_mm[1]
    mask = np.zeros(SHAPE, np.uint8)
    mask[list(slices)] = np.hypot(x, y) < RADIUS_MM
    return mask


def spoilt(*rois: Roi, edit: Callable[[Dataset], object] = lambda _: None) -> Make:
    """Beside a bladder that is drawn well."""
    return drawn(column("bladder", BLADDER), *rois, edit=edit)


# ---- a second reader ----------------------------------------------------------------------------


def areas(name: str) -> Callable[[Place], str]:
    """What pydicom and the shoelace formula say of a structure, contour by contour."""

    def truth(place: Place) -> str:
        found = dcmread(place.label(".dcm"))
        numbers = {roi.ROINumber for roi in found.StructureSetROISequence if roi.ROIName == name}
        areas: dict[float, list[str]] = {}
        for item in found.ROIContourSequence:
            for contour in item.get("ContourSequence", []):
                points = np.array(contour.ContourData, float).reshape(-1, 3)
                closed = contour.ContourGeometricType != "POINT" and len(points) > 2
                if item.ReferencedROINumber in numbers and closed:
                    area = f"{shoelace_mm2(points[:, :2]):.0f}"
                    areas.setdefault(points[0, 2], []).append(area)
        if not areas:
            return "pydicom: no closed contour of it"
        each = sorted({" + ".join(of_slice) for of_slice in areas.values()})
        steps = sorted({f"{mm:g}" for mm in np.diff(sorted(areas)).round(3)}, key=float)
        return (
            f"pydicom: contours on {len(areas)} slices, {' and '.join(steps)} mm apart; by the"
            f" shoelace formula {' or '.join(each)} mm2 on each"
        )

    return truth


def shoelace_mm2(points: Points) -> float:
    """The area of a polygon, (N, 2) in mm."""
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def segments(place: Place) -> str:
    """What highdicom says of a DICOM-SEG: voxels by segment, all frames together."""
    found = hd.seg.segread(place.label(".dcm"))
    names = {number: found.get_segment_description(number) for number in found.segment_numbers}
    kept = {number: 0 for number in names}
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    for frame, group in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        item = group.get("SegmentIdentificationSequence")
        number = int(item[0].ReferencedSegmentNumber) if item else 0
        kept[number] = kept.get(number, 0) + int(np.count_nonzero(frame))
    voxels = [f"{each.segment_label} {kept[number]}" for number, each in names.items()]
    return f"highdicom: voxels by segment: {', '.join(voxels)}"


def others(place: Place) -> str:
    """What pydicom finds beside the organs."""
    found = dcmread(place.label(".dcm"))
    kinds = {
        str(contour.ContourGeometricType)
        for item in found.ROIContourSequence
        for contour in item.get("ContourSequence", [])
    }
    names = [str(roi.ROIName) for roi in found.StructureSetROISequence]
    return f"pydicom: ROIs {', '.join(names)}; contours {', '.join(sorted(kinds))}"


# ---- what is beside the organs ------------------------------------------------------------------


def coronal(found: Dataset) -> None:
    """The last structure's contours stood up."""
    for contour in found.ROIContourSequence[-1].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        contour.ContourData = ph.numbers(points[:, [0, 2, 1]])


def orphaned(found: Dataset) -> None:
    found.ROIContourSequence[1].ReferencedROINumber = 99


def renumbered(found: Dataset) -> None:
    found.StructureSetROISequence[1].ROINumber = 1


def japanese(found: Dataset) -> None:
    found.SpecificCharacterSet = ["", "ISO 2022 IR 87", "ISO 2022 IR 149"]
    for roi, name in zip(found.StructureSetROISequence[1:], ("前立腺 ", "전립선"), strict=True):
        roi.ROIName = name


def nowhere(found: Dataset) -> None:
    contour = found.ROIContourSequence[1].ContourSequence[2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        contour.ContourData = ["NaN", *map(str, contour.ContourData[1:])]


def halved(found: Dataset) -> None:
    found.MaximumFractionalValue = 127


def elsewhere(found: Dataset) -> None:
    """The last structure drawn on another scan."""
    found.StructureSetROISequence[-1].ReferencedFrameOfReferenceUID = "1.2.3"


def moved(found: Dataset) -> None:
    """The third segment's frames put between the voxels."""
    for group in found.PerFrameFunctionalGroupsSequence:
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 3:
            position = group.PlanePositionSequence[0]
            x, y, z = position.ImagePositionPatient
            position.ImagePositionPatient = ph.numbers((x + 0.2, y, z))


GOOD = {"bladder": len(DRAWN) * DISC_ML, "prostate": len(DRAWN) * DISC_ML}
CENTRE = column("prostate", PROSTATE)
EVERY_SECOND = "prostate: 4 slice(s) without a contour between others were interpolated"
UNITED = "prostate: contours that overlap or are doubled on 9 slice(s) count once"
LEFT = "of its label's structures left aside"
# Two circles of 9 and 5 mm whose middles are 10 mm apart: the lens between them.
LENS_MM2 = (
    5**2 * np.arccos((10**2 + 5**2 - 9**2) / (2 * 10 * 5))
    + 9**2 * np.arccos((10**2 + 9**2 - 5**2) / (2 * 10 * 9))
    - 0.5 * np.sqrt((-10 + 5 + 9) * (10 + 5 - 9) * (10 - 5 + 9) * (10 + 5 + 9))
)
PIECES_ML = len(DRAWN) * (np.pi * (9**2 + 5**2) - LENS_MM2) * SPACING_MM[2] / 1000


def contours(
    kind: str,
    what: str,
    make: Make,
    said: str,
    *,
    rule: str = "",
    prostate_ml: float | None = GOOD["prostate"],
    truth: Callable[[Place], str] | None = None,
    **more: Any,
) -> Faulty:
    volumes = None if rule else {"bladder": GOOD["bladder"]}
    if volumes and prostate_ml is not None:
        volumes["prostate"] = prostate_ml
    return Faulty(
        kind=kind,
        what=what,
        make=make,
        truth=truth or areas("prostate"),
        rule=rule,
        said=said,
        volumes_ml=volumes,
        **more,
    )


INPUTS: dict[str, Faulty] = {
    "contours_doubled": contours(
        "7",
        "each contour there twice",
        spoilt(column("prostate", PROSTATE, DRAWN, disc(PROSTATE))),
        UNITED,
    ),
    "contours_doubled_aside": contours(
        "7",
        "each contour again, .6 mm aside",
        spoilt(column("prostate", PROSTATE, DRAWN, disc(PROSTATE, aside_mm=0.6))),
        UNITED,
        prostate_ml=GOOD["prostate"] + len(DRAWN) * 0.6 * 2 * RADIUS_MM * SPACING_MM[2] / 1000,
    ),
    "contours_doubled_within": contours(
        "7",
        "each contour again, .6 mm further in",
        spoilt(column("prostate", PROSTATE, DRAWN, disc(PROSTATE, RADIUS_MM - 0.6))),
        UNITED,
    ),
    "contours_in_pieces": contours(
        "7",
        "two pieces that overlap",
        spoilt(column("prostate", PROSTATE, DRAWN, disc((11.07, 10.19), 5.0))),
        UNITED,
        prostate_ml=PIECES_ML,
    ),
    "contours_with_a_hole": contours(
        "7",
        "a contour within another is a hole",
        spoilt(column("prostate", PROSTATE, DRAWN, disc(PROSTATE, 6.0))),
        "",
        prostate_ml=GOOD["prostate"] * (1 - (6 / RADIUS_MM) ** 2),
    ),
    "contours_hole_or_double": contours(
        "7",
        "a contour .8 mm within another: a thin wall, or drawn twice",
        spoilt(column("prostate", PROSTATE, DRAWN, disc(PROSTATE, RADIUS_MM - 0.78))),
        "nobody can tell whether the inner one is a hole",
        rule="organ",
    ),
    "contours_none": contours(
        "6",
        "an organ's ROI without contours",
        spoilt(Roi(name="prostate")),
        "holds an empty structure for prostate, which may be absent or not drawn",
        rule="organ",
    ),
    "contours_points": contours(
        "6",
        "an organ's ROI of a point and a contour of two points",
        spoilt(
            replace(column("prostate", PROSTATE), kind="POINT"),
            Roi(name="Prostate", contours=[(4.0, disc(PROSTATE)[:2])]),
        ),
        "holds an empty structure for prostate",
        rule="organ",
    ),
    "contours_none_declared": contours(
        "6",
        "an organ's ROI without contours, named in `undrawn`",
        spoilt(Roi(name="prostate")),
        "",
        prostate_ml=None,
        site={"undrawn": {"contours_none_declared": ["prostate"]}},
    ),
    "contours_none_undrawn": contours(
        "6",
        "an organ's ROI without contours, where the site's file says `undrawn`",
        spoilt(Roi(name="prostate")),
        "prostate: its structure is empty, so it counts as not drawn in this case",
        prostate_ml=None,
        site={"empty_structures": "undrawn"},
    ),
    "contours_none_absent": contours(
        "6",
        "an organ's ROI without contours, where the site's file says `absent`",
        spoilt(Roi(name="prostate")),
        "prostate: its structure is empty, so it counts as absent",
        prostate_ml=0.0,
        site={"empty_structures": "absent"},
    ),
    "segments_none": contours(
        "6",
        "an organ's segment without frames",
        segmented(("bladder", voxels(BLADDER)), ("prostate", voxels(PROSTATE) * 0)),
        "holds an empty structure for prostate",
        rule="organ",
        truth=segments,
    ),
    "segments_zeros_undrawn": contours(
        "6",
        "an organ's segment of empty frames, where the site's file says `undrawn`",
        segmented(
            ("bladder", voxels(BLADDER)),
            ("prostate", voxels(PROSTATE) * 0),
            omit_empty_frames=False,
        ),
        "prostate: its structure is empty, so it counts as not drawn in this case",
        prostate_ml=None,
        truth=segments,
        site={"empty_structures": "undrawn"},
    ),
    "segments_beside_doubles": contours(
        "8",
        "two segments of one name that is no organ's, on another grid",
        segmented(
            *(("bladder", voxels(BLADDER)), ("prostate", voxels(PROSTATE))),
            *(("help", voxels(BLADDER)), ("help", voxels(PROSTATE))),
            edit=moved,
        ),
        LEFT,
        truth=segments,
    ),
    "contours_every_second": contours(
        "7b",
        "contours on every second slice",
        spoilt(column("prostate", PROSTATE, DRAWN[::2])),
        EVERY_SECOND,
    ),
    "contours_every_fourth": contours(
        "7b",
        "contours on every fourth slice",
        spoilt(column("prostate", PROSTATE, DRAWN[::4])),
        "prostate: 6 slice(s) without a contour between others were interpolated",
    ),
    "contours_one_forgotten": contours(
        "7b",
        "a slice without a contour",
        spoilt(column("prostate", PROSTATE, [*DRAWN[:4], *DRAWN[5:]])),
        "prostate: 1 slice(s) without a contour between others were interpolated",
    ),
    "contours_half_drawn": contours(
        "7b",
        "contours on the first and last two slices alone",
        spoilt(column("prostate", PROSTATE, [*DRAWN[:2], *DRAWN[-2:]])),
        "has no contour on 5 slice(s) between others of prostate",
        rule="organ",
    ),
    "contours_apart": contours(
        "7b",
        "two pieces, five slices apart and aside",
        spoilt(
            replace(
                CENTRE,
                contours=[(z, disc((14.07, -10.11), 5.0)) for z in DRAWN[:2]]
                + [(z, disc((14.13, 10.09), 5.0)) for z in DRAWN[-2:]],
            )
        ),
        "prostate: 5 slice(s) without a contour between others stay empty",
        prostate_ml=4 * np.pi * 5**2 * SPACING_MM[2] / 1000,
    ),
    "contours_sparse_refused": contours(
        "7b",
        "contours on every second slice, where the site's file refuses that",
        spoilt(column("prostate", PROSTATE, DRAWN[::2])),
        "has no contour on 4 slice(s) between others of prostate",
        rule="organ",
        site={"contour_gaps": "refuse"},
    ),
    "segments_every_second": contours(
        "7b",
        "a segment on every second slice",
        segmented(("bladder", voxels(BLADDER)), ("prostate", voxels(PROSTATE, DRAWN[::2]))),
        "holds prostate on one of 2 slices alone",
        rule="organ",
        truth=segments,
    ),
    "segments_over_maximum": contours(
        "6",
        "a fractional segmentation whose values are over its own maximum",
        segmented(
            ("bladder", voxels(BLADDER) * 1.0),
            ("prostate", voxels(PROSTATE) * 1.0),
            kind="FRACTIONAL",
            fractional_type="PROBABILITY",
            max_fractional_value=255,
            edit=halved,
        ),
        "holds fractions over its own maximum, 255 of 127",
        rule="values",
        truth=segments,
    ),
    "contours_of_no_structure": contours(
        "6",
        "contours whose ROI number is nobody's",
        spoilt(CENTRE, edit=orphaned),
        "holds an empty structure for prostate",
        rule="organ",
    ),
    "contours_numbers_doubled": contours(
        "8",
        "two structures of one number",
        spoilt(CENTRE, edit=renumbered),
        "has one number for several ROIs",
        rule="values",
        truth=others,
    ),
    "contours_named_in_japanese": contours(
        "8",
        "names in ISO 2022 IR 87 and filled up with blanks, beside one in Korean",
        spoilt(column("prostate", PROSTATE), column("PTV", BLADDER), edit=japanese),
        LEFT,
        truth=others,
        site={"labels": {"bladder": ["bladder"], "prostate": ["前立腺"]}},
    ),
    "contours_nowhere": contours(
        "7",
        "a contour with a point that is NaN",
        spoilt(CENTRE, edit=nowhere),
        "lacks a part or holds a wrong one",
        rule="damaged",
        truth=others,
    ),
    "contours_beside_couch": contours(
        "8",
        "a couch outside the image",
        spoilt(CENTRE, column("CouchSurface", (0.0, 60.0))),
        LEFT,
        truth=others,
    ),
    "contours_beside_marker": contours(
        "8",
        "an open line and a marker",
        spoilt(
            CENTRE,
            replace(column("User line", BLADDER), kind="OPEN_PLANAR"),
            replace(column("Marker", BLADDER), kind="POINT"),
        ),
        LEFT,
        truth=others,
    ),
    "contours_beside_doubles": contours(
        "8",
        "two structures of one name that is no organ's",
        spoilt(CENTRE, column("PTV", BLADDER), column("PTV", PROSTATE)),
        LEFT,
        truth=others,
    ),
    "contours_beside_coronal": contours(
        "8",
        "a structure in the coronal plane",
        spoilt(CENTRE, column("Sagittal help", (0.0, 5.0)), edit=coronal),
        LEFT,
        truth=others,
    ),
    "contours_beside_foreign": contours(
        "8",
        "a structure that is no organ, drawn on another scan",
        spoilt(CENTRE, column("GTV on PET", BLADDER), edit=elsewhere),
        LEFT,
        truth=others,
    ),
    "contours_empty_beside_drawn": contours(
        "8",
        "an empty structure of a template beside the drawn one of the same name",
        spoilt(Roi(name="PROSTATE"), CENTRE, Roi(name="prostate")),
        "",
    ),
}
