"""Whether files of one SeriesInstanceUID are one scan: of one person, study and acquisition."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom import Dataset

from client.data.dicom.completeness import check_spacing
from client.data.dicom.decoding import rescale
from client.data.dicom.headers import text
from client.data.errors import ScanError
from client.data.notes import Note

# What all files of a series share (PS3.3, A.1.2).
_SHARED = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality")
_PLACES = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SpacingBetweenSlices",
    "SliceThickness",
)
_SAME = 0.01  # of the larger of two numbers, by which scanners round them
# Numbers of which a stack has one, by their names in a message.
_NUMBERS = {
    "echo time": ("EffectiveEchoTime", "EchoTime"),
    "echo number": ("EchoNumbers",),
    "b-value": ("DiffusionBValue",),
}
_TIMES = ("TemporalPositionIdentifier", "TemporalPositionIndex")
# What an image type says of the values of its voxels; what else it says may differ in a stack.
_COMPONENTS: tuple[Mapping[str, str], ...] = (
    {
        **{"M": "magnitude", "MAGNITUDE": "magnitude", "P": "phase", "PHASE": "phase"},
        **{"PHASE MAP": "phase", "R": "real", "REAL": "real"},
        **{"I": "imaginary", "IMAGINARY": "imaginary"},
    },
    {
        **{"W": "water", "WATER": "water", "F": "fat", "FAT": "fat"},
        **{"IP": "in phase", "IN": "in phase", "IN_PHASE": "in phase"},
        **{"OP": "out of phase", "OUT": "out of phase", "OPP": "out of phase"},
        **{"OUT_PHASE": "out of phase", "OPP_PHASE": "out of phase"},
    },
    {"ADC": "ADC", "FA": "FA", "TRACEW": "trace", "TRACE": "trace"},
)


def check_shared(headers: Sequence[Dataset], *, location: str, note: Note) -> None:
    """Whether the files of a series are of one person, study, frame of reference and modality.

    Args:
        headers: One of each file.
        location: How a message begins.
        note: Called with what some of the files have and others lack.

    Raises:
        ScanError: Two of them differ.
    """
    for name in _SHARED:
        values = Counter(text(header, name) for header in headers)
        lacking = values.pop("", 0)
        if len(values) > 1:
            others = values.total() - max(values.values())
            raise ScanError(
                location,
                f": {others} of its {len(headers)} files {_have(others)} another {name} than the"
                " rest, under one SeriesInstanceUID; keep the files of one scan",
                rule="series",
            )
        if lacking and values:
            note(
                f"{lacking} of its {len(headers)} files {_have(lacking)} no {name}, the others have"
                " one; look whether all are of one scan"
            )


def check_acquisition(slices: Sequence[Sequence[Dataset]], *, location: str, note: Note) -> None:
    """Whether the slices of a stack, each on a position of its own, are of one acquisition.

    Args:
        slices: Of each, the data sets that describe it, the nearest to it first.
        location: How a message begins.
        note: Called with several temporal positions, and with what some slices lack.

    Raises:
        ScanError: They differ in echo, b-value, or in what their values are (magnitude or phase,
            water or fat), or some have a rescale slope and some have none.
    """
    for shown, names in _NUMBERS.items():
        numbers = sorted({value for groups in slices if (value := _number(groups, names)) >= 0})
        if numbers and numbers[-1] - numbers[0] > _SAME * numbers[-1]:
            said = f"{numbers[0]:.6g} to {numbers[-1]:.6g}"
            raise _mixed(location, f"{shown}s, {said}")
    for family in _COMPONENTS:
        kinds = {kind for groups in slices if (kind := _component(groups, family))}
        if len(kinds) > 1:
            raise _mixed(location, f"image types, {' and '.join(sorted(kinds))}")
    _check_rescaled(slices, location)
    for shown, names in (*_NUMBERS.items(), ("temporal position", _TIMES)):
        lacking = sum(not _first(groups, names) for groups in slices)
        if 0 < lacking < len(slices):
            note(
                f"{lacking} of its {len(slices)} slices {_have(lacking)} no {shown}, the others"
                " have one; look whether they are one scan"
            )
    times = {_first(groups, _TIMES) for groups in slices} - {""}
    if len(times) > 1:
        note(f"its slices are of {len(times)} temporal positions; look whether they are one scan")


def note_frames(frames: Sequence[Sequence[Dataset]], *, note: Note) -> None:
    """Frames that are missing, as their steps and their numbers in the stack tell.

    Args:
        frames: As `slices` of `check_acquisition`.
        note: Called with what hints at some that are missing.
    """
    check_spacing([_merged(groups) for groups in frames], note)
    numbers = sorted(_number(groups, ("InStackPositionNumber",)) for groups in frames)
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    if len({_first(groups, ("StackID",)) for groups in frames}) == 1 and min(steps, default=0) > 0:
        missing = numbers[-1] - numbers[0] + 1 - len(frames)
        if missing:
            note(
                f"{missing:.0f} of the numbers of its frames are missing; look whether it is whole"
            )


def _check_rescaled(slices: Sequence[Sequence[Dataset]], location: str) -> None:
    names = ("RescaleSlope", "RescaleIntercept")
    given = [groups for groups in slices if _first(groups, names)]
    lacking = len(slices) - len(given)
    if given and lacking and _any_changes(given, location):
        raise ScanError(
            location,
            f": {lacking} of its {len(slices)} slices {_have(lacking)} no rescale slope, the"
            " others have one; export it again",
            rule="undefined",
        )


def _any_changes(slices: Sequence[Sequence[Dataset]], location: str) -> bool:
    return not all(np.array_equal(rescale(each, location=location), (1, 0)) for each in slices)


def _mixed(location: str, what: str) -> ScanError:
    return ScanError(
        location,
        f": its slices are of several {what}; keep one acquisition in the folder",
        rule="slices",
    )


def _component(groups: Sequence[Dataset], family: Mapping[str, str]) -> str:
    """What the values of a slice are, of one family; empty where nothing says so."""
    words = _words(_first(groups, ("FrameType", "ImageType")))[2:]
    words += _words(_first(groups, ("ComplexImageComponent",)))
    found = {family.get(word) or family.get(word.partition("_")[0], "") for word in words}
    return ", ".join(sorted(found - {""}))


def _words(value: str) -> list[str]:
    return [word.strip(" '\"") for word in value.upper().strip("[]").split(",")] if value else []


def _first(groups: Sequence[Dataset], names: Sequence[str]) -> str:
    found = (text(group, name) for name in names for group in groups if name in group)
    return next(filter(None, found), "")


def _number(groups: Sequence[Dataset], names: Sequence[str]) -> float:
    """Not negative; -1 where there is none."""
    try:
        value = float(_first(groups, names))
    except ValueError:
        return -1
    return value if np.isfinite(value) else -1


def _merged(groups: Sequence[Dataset]) -> Dataset:
    """Where a frame lies, as a classic slice has it."""
    found = Dataset()
    for name in _PLACES:
        if group := next((group for group in groups if name in group), None):
            found[name] = group[name]
    return found


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
