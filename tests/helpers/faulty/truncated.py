"""DICOM objects that end too early or contradict themselves, or are no scan."""

import shutil
from collections.abc import Callable

import numpy as np
from bad_cases import Place
from pydicom import Dataset, dcmread
from pydicom.uid import RTDoseStorage

from faulty import Faulty
from faulty.contours import (
    BLADDER,
    CENTRE,
    DRAWN,
    GOOD,
    ORIGIN_MM,
    PROSTATE,
    RADIUS_MM,
    SHAPE,
    SPACING_MM,
    UNITED,
    Make,
    Points,
    Roi,
    column,
    contours,
    disc,
    scan,
    segmented,
    segments,
    spoilt,
    structure_set,
    voxels,
)


def undefined(dataset: Dataset) -> None:
    """Sequences and items that end by a mark, not by a length."""
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                undefined(item)


def cut(make: Make, share: float) -> Make:
    """The label of a case, its end lost."""

    def made(place: Place) -> None:
        make(place)
        whole = place.label(".dcm").read_bytes()
        place.label(".dcm").write_bytes(whole[: int(len(whole) * share)])

    return made


def lengths(place: Place) -> str:
    """How far the library gets in a file that was cut."""
    found = dcmread(place.label(".dcm"))
    return f"pydicom: reads it without an error, the last element is {sorted(found.keys())[-1]}"


def points(place: Place) -> str:
    found = dcmread(place.label(".dcm"))
    contour = found.ROIContourSequence[1].ContourSequence[2]
    return (
        f"pydicom: NumberOfContourPoints {contour.NumberOfContourPoints},"
        f" {len(contour.ContourData) / 3:g} points"
    )


def fewer(found: Dataset) -> None:
    contour = found.ROIContourSequence[1].ContourSequence[2]
    contour.ContourData = contour.ContourData[:150]


def more(found: Dataset) -> None:
    found.ROIContourSequence[1].ContourSequence[2].NumberOfContourPoints = 80


def as_image(make: Make) -> Make:
    """The label of a case where its scan should be."""

    def made(place: Place) -> None:
        make(place)
        shutil.rmtree(place.image(""))
        shutil.move(place.label(".dcm"), place.image(".dcm"))
        place.good_label()

    return made


def dose(place: Place) -> None:
    structures = spoilt(CENTRE)
    structures(place)
    found = dcmread(place.label(".dcm"))
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = RTDoseStorage
    found.save_as(place.label(".dcm"))


def kind_of(place: Place) -> str:
    return f"pydicom: {dcmread(place.image('.dcm')).SOPClassUID.name}"


def refused(
    kind: str, what: str, make: Make, truth: Callable[[Place], str], rule: str, said: str
) -> Faulty:
    return Faulty(kind=kind, what=what, make=make, truth=truth, rule=rule, said=said)


BOTH = (("bladder", voxels(BLADDER)), ("prostate", voxels(PROSTATE)))
UNREAD = "1 of its DICOM files cannot be read"
WRONG_PART = "is an RTSTRUCT that lacks a part or holds a wrong one"


def used(kind: str, what: str, *rois: Roi, prostate_ml: float, said: str) -> Faulty:
    return contours(kind, what, spoilt(*rois), said, prostate_ml=prostate_ml)


def twice(*outlines: Points) -> Roi:
    """One contour on each slice that goes along several lines."""
    return Roi(name="prostate", contours=[(z, np.concatenate(outlines)) for z in DRAWN])


def two_further(place: Place) -> None:
    """Contours that name the slice two above their own."""
    made = scan(place)
    headers = sorted(
        (dcmread(file) for file in place.image("").iterdir()),
        key=lambda header: float(header.ImagePositionPatient[2]),
    )

    def edit(found: Dataset) -> None:
        for item in found.ROIContourSequence:
            for contour, header in zip(item.ContourSequence, headers[4:], strict=False):
                named = Dataset()
                named.ReferencedSOPClassUID = header.SOPClassUID
                named.ReferencedSOPInstanceUID = header.SOPInstanceUID
                contour.ContourImageSequence = [named]

    structure_set(place.label(".dcm"), made, [column("bladder", BLADDER), CENTRE], edit)


def named_mm(place: Place) -> str:
    """How far from its own slice the first contour's lies, in mm."""
    heights = {}
    for file in place.image("").iterdir():
        header = dcmread(file)
        heights[header.SOPInstanceUID] = float(header.ImagePositionPatient[2])
    contour = dcmread(place.label(".dcm")).ROIContourSequence[0].ContourSequence[0]
    named = heights[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
    return f"pydicom: a contour at {contour.ContourData[2]:g} mm names the slice at {named:g} mm"


def foo(found: Dataset) -> None:
    found.SegmentationType = "FOO"


_ROWS, _COLUMNS = np.mgrid[: SHAPE[1], : SHAPE[2]]
_FROM_MIDDLE_MM = np.hypot(
    _COLUMNS * SPACING_MM[0] + ORIGIN_MM[0] - PROSTATE[0],
    _ROWS * SPACING_MM[1] + ORIGIN_MM[1] - PROSTATE[1],
)
# Voxels whose centre lies in a ring of 1 mm: so thin a one is 1.5 % off the circles' areas.
IN_RING = int(np.count_nonzero((_FROM_MIDDLE_MM >= 8.0) & (_FROM_MIDDLE_MM < RADIUS_MM)))
RING_ML = len(DRAWN) * IN_RING * float(np.prod(SPACING_MM)) / 1000
HOLLOW = "prostate: on 9 slice(s) a hole takes more than half of the outline around it"

INPUTS: dict[str, Faulty] = {
    "truncated_two_further": refused(
        "7",
        "contours that name other slices than they lie on",
        two_further,
        named_mm,
        "reference",
        "names other slices than its contours lie on, for 18 of 18",
    ),
    "truncated_foo": refused(
        "12",
        "a DICOM-SEG of the type FOO",
        segmented(*BOTH, edit=foo),
        segments,
        "format",
        "has a SegmentationType that is none of BINARY",
    ),
    "truncated_ring": used(
        "7",
        "each contour twice, 1 mm apart: a wall, or drawn twice",
        column("prostate", PROSTATE, DRAWN, disc(PROSTATE, 8.0)),
        prostate_ml=RING_ML,
        said=HOLLOW,
    ),
    "truncated_round_twice": used(
        "7",
        "a contour whose line goes round twice",
        twice(disc(PROSTATE), disc(PROSTATE)),
        prostate_ml=GOOD["prostate"],
        said=UNITED,
    ),
    "truncated_to_and_fro": used(
        "7",
        "a contour whose line goes round and back",
        twice(disc(PROSTATE), disc(PROSTATE)[::-1]),
        prostate_ml=GOOD["prostate"],
        said=UNITED,
    ),
    **{
        f"truncated_cut_{percent}": refused(
            "1",
            f"an RTSTRUCT of which {percent} % were copied",
            cut(spoilt(CENTRE), percent / 100),
            lengths,
            "damaged",
            UNREAD,
        )
        for percent in (30, 60, 99)
    },
    "truncated_cut_marks": refused(
        "1",
        "an RTSTRUCT whose sequences end by marks, cut",
        cut(spoilt(CENTRE, edit=undefined), 0.85),
        lambda place: "plain bytes: no mark ends its last sequence",
        "damaged",
        UNREAD,
    ),
    "truncated_cut_segments": refused(
        "1",
        "a DICOM-SEG of which 97 % were copied",
        cut(segmented(*BOTH), 0.97),
        lengths,
        "damaged",
        UNREAD,
    ),
    "truncated_points_lost": refused(
        "1",
        "a contour with fewer points than it counts",
        spoilt(CENTRE, edit=fewer),
        points,
        "damaged",
        WRONG_PART,
    ),
    "truncated_points_more": refused(
        "1",
        "a contour with more points than it counts",
        spoilt(CENTRE, edit=more),
        points,
        "damaged",
        WRONG_PART,
    ),
    "truncated_structures_as_scan": refused(
        "12",
        "an RTSTRUCT where the scan should be",
        as_image(spoilt(CENTRE)),
        kind_of,
        "series",
        "is a set of contours (RTSTRUCT), no scan",
    ),
    "truncated_segments_as_scan": refused(
        "12",
        "a DICOM-SEG where the scan should be",
        as_image(segmented(*BOTH)),
        kind_of,
        "series",
        "is a segmentation (SEG), no scan",
    ),
    "truncated_dose_as_scan": refused(
        "12",
        "a dose where the scan should be",
        as_image(dose),
        kind_of,
        "series",
        "is a dose (RTDOSE), no scan",
    ),
}
