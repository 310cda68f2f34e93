"""DICOM objects that end too early or contradict themselves, or are no scan."""

import shutil
from collections.abc import Callable

from bad_cases import Place
from pydicom import Dataset, dcmread
from pydicom.uid import RTDoseStorage

from faulty import Faulty
from faulty.contours import (
    BLADDER,
    CENTRE,
    PROSTATE,
    Make,
    segmented,
    spoilt,
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

INPUTS: dict[str, Faulty] = {
    **{
        f"damaged_cut_{percent}": refused(
            "1",
            f"an RTSTRUCT of which {percent} % were copied",
            cut(spoilt(CENTRE), percent / 100),
            lengths,
            "damaged",
            UNREAD,
        )
        for percent in (30, 60, 99)
    },
    "damaged_cut_marks": refused(
        "1",
        "an RTSTRUCT whose sequences end by marks, cut",
        cut(spoilt(CENTRE, edit=undefined), 0.85),
        lambda place: "plain bytes: no mark ends its last sequence",
        "damaged",
        UNREAD,
    ),
    "damaged_cut_segments": refused(
        "1",
        "a DICOM-SEG of which 97 % were copied",
        cut(segmented(*BOTH), 0.97),
        lengths,
        "damaged",
        UNREAD,
    ),
    "damaged_points_lost": refused(
        "1",
        "a contour with fewer points than it counts",
        spoilt(CENTRE, edit=fewer),
        points,
        "damaged",
        WRONG_PART,
    ),
    "damaged_points_more": refused(
        "1",
        "a contour with more points than it counts",
        spoilt(CENTRE, edit=more),
        points,
        "damaged",
        WRONG_PART,
    ),
    "damaged_structures_as_scan": refused(
        "12",
        "an RTSTRUCT where the scan should be",
        as_image(spoilt(CENTRE)),
        kind_of,
        "series",
        "is a set of contours (RTSTRUCT), no scan",
    ),
    "damaged_segments_as_scan": refused(
        "12",
        "a DICOM-SEG where the scan should be",
        as_image(segmented(*BOTH)),
        kind_of,
        "series",
        "is a segmentation (SEG), no scan",
    ),
    "damaged_dose_as_scan": refused(
        "12",
        "a dose where the scan should be",
        as_image(dose),
        kind_of,
        "series",
        "is a dose (RTDOSE), no scan",
    ),
}
