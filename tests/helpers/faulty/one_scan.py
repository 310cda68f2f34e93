"""DICOM files of one SeriesInstanceUID that are several scans, on even positions."""

from typing import Any

import bad_cases as bad
import dicom_phantoms as ph
from bad_cases import Place
from pydicom import Dataset, dcmread

from faulty import Faulty
from faulty.series import VOLUMES_ML, Make, files, frames, of_headers, put, refused, slices, used


def third(**values: Any) -> Make:
    """The third slice has other values."""

    def edit(header: Dataset, z: int) -> None:
        put(**values if z == 2 else {})(header, z)

    return slices(edit)


def in_turns(name: str, *pair: Any) -> Make:
    return slices(put(**{name: lambda z: pair[z % 2]}))


def types(number: int) -> ph.Edit:
    """Magnitude and phase in turns."""

    def edit(frame: Dataset, z: int) -> None:
        item = Dataset()
        item.FrameType = ["ORIGINAL", "PRIMARY", "PM"[z % 2], "NONE"]
        frame.MRImageFrameTypeSequence = [item]

    return edit


def rescaled(number: int) -> ph.Edit:
    def edit(frame: Dataset, z: int) -> None:
        frame.PixelValueTransformationSequence[0].RescaleSlope = "10"
        if z < 2:
            del frame.PixelValueTransformationSequence

    return edit


def halved(place: Place) -> None:
    """Every second frame of an Enhanced MR is missing; its numbers and its spacing tell."""
    frames(range(5))(place)
    header = dcmread(place.image(""))
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = "3.0"
    for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].InStackPositionNumber = 2 * number + 1
        frame.PlanePositionSequence[0].ImagePositionPatient = ["-10", "20", str(5 + 6 * number)]
    ph.save(header, place.image(""))
    label = bad.on_grid(bad.organs())
    label.SetSpacing((0.5, 0.7, 6.0))
    bad.save(label, place.label())


def told(place: Place, name: str) -> str:
    """How many slices or frames there are of each value, values left out."""
    header = dcmread(files(place)[0], stop_before_pixels=True)
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    each = per_frame or [dcmread(file, stop_before_pixels=True) for file in files(place)]
    found = [next((str(e.value) for e in one.iterall() if e.keyword == name), "") for one in each]
    counts = sorted((found.count(value) for value in set(found)), reverse=True)
    return f"pydicom: {len(counts)} values of {name}, in {counts} of {len(found)} slices"


def of(name: str) -> Any:
    return lambda place: told(place, name)


def another(name: str, value: str) -> Faulty:
    said = f": 1 of its 5 files has another {name} than the rest, under one SeriesInstanceUID"
    what = f"a slice of another {name} in the series"
    return refused("4", what, third(**{name: value}), of(name), "series", said)


def several(what: str, make: Make, name: str, said: str) -> Faulty:
    return refused("4", what, make, of(name), "slices", f": its slices are of several {said}")


PHASES = (["ORIGINAL", "PRIMARY", "M", "NORM"], ["ORIGINAL", "PRIMARY", "P"])
NORMED = (["ORIGINAL", "PRIMARY", "M", "NORM"], ["ORIGINAL", "PRIMARY", "M"])

INPUTS: dict[str, Faulty] = {
    "scan_patient": another("PatientID", "9999"),
    "scan_study": another("StudyInstanceUID", "1.2.3.4"),
    "scan_frame": another("FrameOfReferenceUID", "1.2.3.4"),
    "scan_modality": another("Modality", "CT"),
    "scan_half_named": used(
        "4",
        "a slice without PatientID in the series",
        third(PatientID=""),
        of("PatientID"),
        "1 of its 5 files has no PatientID, the others have one; look whether all are of one scan",
    ),
    "scan_echoes": several(
        "two echoes in turns",
        in_turns("EchoTime", "20", "80"),
        "EchoTime",
        "echo times, 20 to 80",
    ),
    "scan_b_values": several(
        "two b-values in turns",
        in_turns("DiffusionBValue", 0.0, 1000.0),
        "DiffusionBValue",
        "b-values, 0 to 1000",
    ),
    "scan_phases": several(
        "magnitude and phase in turns",
        in_turns("ImageType", *PHASES),
        "ImageType",
        "image types, magnitude and phase",
    ),
    "scan_frame_types": several(
        "frames of magnitude and phase in turns",
        frames(range(5), edit=types),
        "FrameType",
        "image types, magnitude and phase",
    ),
    "scan_normed": used(
        "4", "every second slice normalised", in_turns("ImageType", *NORMED), of("ImageType")
    ),
    "scan_times": used(
        "4",
        "two times in turns",
        in_turns("TemporalPositionIdentifier", 1, 2),
        of("TemporalPositionIdentifier"),
        "its slices are of 2 temporal positions; look whether they are one scan",
    ),
    "scan_slope": refused(
        "12",
        "a slope on one slice alone",
        third(RescaleSlope="100", RescaleIntercept="0"),
        of("RescaleSlope"),
        "undefined",
        ": 4 of its 5 slices have no rescale slope, the others have one",
    ),
    "scan_frame_slope": refused(
        "12",
        "frames of which some have a slope",
        frames(range(5), edit=rescaled),
        of("RescaleSlope"),
        "undefined",
        ": 2 of its 5 slices have no rescale slope, the others have one",
    ),
    "scan_halved": Faulty(
        kind="3",
        what="Enhanced MR without every second frame",
        make=halved,
        truth=of_headers("NumberOfFrames"),
        rule="",
        said="its slices are 6 mm apart, its headers say 3 mm; look whether it is whole",
        volumes_ml={name: 2 * volume for name, volume in VOLUMES_ML.items()},
    ),
}
