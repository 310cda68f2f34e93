"""DICOM series under whatever names, in several files, or with slices missing."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import numpy as np
from bad_cases import Place
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite

from faulty import Faulty

Make = Callable[[Place], None]
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
# Each organ of `bad_cases.organs`: 60 voxels of 0.5 x 0.7 x 3 mm.
VOLUMES_ML = {"bladder": 0.063, "prostate": 0.063}


def bare(file: Path) -> None:
    """Without preamble and file meta information, implicit VR."""
    header = dcmread(file)
    header.file_meta, header.preamble = FileMetaDataset(), None
    dcmwrite(
        file,
        header,
        implicit_vr=True,
        little_endian=True,
        enforce_file_format=False,
        force_encoding=True,
    )


def slices(edit: ph.Edit | None = None, spoil: Callable[[list[Path]], None] | None = None) -> Make:
    """A classic series, its slices edited, then its files spoilt, in order of position."""

    def make(place: Place) -> None:
        made = place.dicom(edit=edit)
        if spoil is not None:
            spoil(files(place))
        if (place.image("") / "SR").exists():
            ph.write_other(place.image("") / "SR", made, REPORT, "SR")
        place.good_label()

    return make


def frames(*parts: Sequence[int], edit: Callable[[int], ph.Edit] | None = None) -> Make:
    """Enhanced MR files, each of these slices."""

    def make(place: Place) -> None:
        made = ph.Phantom(voxels=place.voxels())
        for number, order in enumerate(parts):
            path = place.image("") / f"EN{number}" if len(parts) > 1 else place.image("")
            ph.write_enhanced(path, made, order=order, edit=edit(number) if edit else None)
        place.good_label()

    return make


def files(place: Place) -> list[Path]:
    folder = place.image("")
    found = [folder] if folder.is_file() else [each for each in folder.rglob("*") if each.is_file()]
    return sorted(found, key=lambda file: (height_mm(file), file.name))


def height_mm(file: Path) -> float:
    header = dcmread(file, stop_before_pixels=True, force=True)
    return float(header.get("ImagePositionPatient", [0, 0, 0])[2])


def without_preamble(found: list[Path]) -> None:
    for file in found:
        bare(file)


def packed(found: list[Path]) -> None:
    found[0].write_bytes(gzip.compress(found[0].read_bytes()))


def emptied(found: list[Path]) -> None:
    found[-1].write_bytes(b"")


def beside(found: list[Path]) -> None:
    (found[0].parent / "notes.txt").write_text("seen by the registrar")
    (found[0].parent / "SR").touch()


def linked(place: Place) -> None:
    """The case's folder holds a link to the series, and one to the folder around it."""
    ph.write_classic(place.root / f".{place.name}", ph.Phantom(voxels=place.voxels()))
    place.image("").mkdir()
    (place.image("") / "t2").symlink_to(place.root / f".{place.name}")
    (place.image("") / "up").symlink_to(place.image("").parent)
    place.good_label()


def put(**values: Any) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        header.InstanceNumber = z + 1
        for name, value in values.items():
            setattr(header, name, value(z) if callable(value) else value)

    return edit


def echo(number: int) -> ph.Edit:
    def edit(frame: Dataset, z: int) -> None:
        item = Dataset()
        item.EffectiveEchoTime = 80.0 + 10 * number
        frame.MREchoSequence = [item]

    return edit


def split(place: Place) -> None:
    frames(range(3))(place)
    header = dcmread(place.image(""))
    header.InConcatenationNumber, header.InConcatenationTotalNumber = 1, 2
    ph.save(header, place.image(""))


def heights(place: Place) -> str:
    """Positions of slices and frames as pydicom reads them, whatever the files are called."""
    found: list[float] = []
    for file in files(place):
        header = dcmread(file, stop_before_pixels=True, force=True)
        per_frame = header.get("PerFrameFunctionalGroupsSequence")
        planes = [each.PlanePositionSequence[0] for each in per_frame] if per_frame else [header]
        found += [float(each.ImagePositionPatient[2]) for each in planes if "Rows" in header]
    steps = np.diff(sorted(found))
    return f"{len(found)} slices, steps of {steps.min():.4g} to {steps.max():.4g} mm"


def of_headers(*names: str) -> Callable[[Place], str]:
    """What pydicom reads of the first slice, and the slices' positions."""

    def truth(place: Place) -> str:
        header = dcmread(files(place)[0], stop_before_pixels=True, force=True)
        shown = "".join(f", {name} {header.get(name)}" for name in names)
        return f"pydicom: {heights(place)}{shown}"

    return truth


def bytes_of(place: Place) -> str:
    """Which files have the preamble of DICOM, by their bytes; of a link, those behind it."""
    folder = place.image("")
    found = [each for each in folder.rglob("*") if each.is_file()]
    found += [*(folder / "t2").iterdir()] if (folder / "t2").exists() else []
    heads = [file.read_bytes()[:132] for file in found]
    marked = sum(head[128:] == b"DICM" for head in heads)
    return f"bytes: {marked} of {len(heads)} files have DICM at byte 128"


def used(kind: str, what: str, make: Make, truth: Callable[[Place], str], said: str = "") -> Faulty:
    row = Faulty(kind=kind, what=what, make=make, truth=truth, rule="", said=said)
    return replace(row, volumes_ml=VOLUMES_ML)


def refused(
    kind: str, what: str, make: Make, truth: Callable[[Place], str], rule: str, said: str
) -> Faulty:
    return Faulty(kind=kind, what=what, make=make, truth=truth, rule=rule, said=said)


INPUTS: dict[str, Faulty] = {
    "series_some_bare": used(
        "3",
        "two of five slices without preamble and suffix",
        slices(spoil=lambda found: without_preamble(found[3:])),
        bytes_of,
    ),
    "series_all_bare": used(
        "3", "all slices without preamble and suffix", slices(spoil=without_preamble), bytes_of
    ),
    "series_frames_unnamed": used(
        "3",
        "a multi-frame file without .dcm",
        frames([3, 0, 4, 1, 2]),
        of_headers("NumberOfFrames"),
    ),
    "series_linked": used(
        "3", "a linked folder of slices, beside a link to the folder around it", linked, bytes_of
    ),
    "series_beside": used(
        "3",
        "a report and a text beside the slices",
        slices(spoil=beside),
        of_headers(),
        "1 of 6 files left out of the scan: 1 report",
    ),
    "series_packed": refused(
        "3",
        "a slice that gzip compressed",
        slices(spoil=packed),
        bytes_of,
        "format",
        "gzip compressed 1 of its DICOM files",
    ),
    "series_emptied": refused(
        "3",
        "the last slice is an empty file",
        slices(spoil=emptied),
        bytes_of,
        "damaged",
        "1 of its DICOM files cannot be read",
    ),
    "series_short": refused(
        "3",
        "five slices are there, the headers count seven",
        slices(put(ImagesInAcquisition=7)),
        of_headers("ImagesInAcquisition"),
        "slices",
        "5 slices, its headers count 7 (ImagesInAcquisition)",
    ),
    "series_numbered": used(
        "3",
        "instance numbers 1 to 7 with a gap, even positions",
        slices(put(InstanceNumber=lambda z: z + 1 + 2 * (z > 2))),
        of_headers("InstanceNumber"),
        "2 of the numbers of its slices are missing",
    ),
    "series_halves": used("4", "Enhanced MR in two files", frames([0, 1, 2], [3, 4]), of_headers()),
    "series_frame_each": used(
        "4",
        "Enhanced MR, a file of each frame",
        frames([3], [0], [4], [1], [2]),
        of_headers("NumberOfFrames"),
    ),
    "series_two_echoes": refused(
        "4",
        "two Enhanced MR files of one series, two echoes",
        frames(range(5), range(5), edit=echo),
        of_headers(),
        "slices",
        "do not make one stack (two slices lie on one position, of several echo times)",
    ),
    "series_part": refused(
        "4",
        "one of two files that an Enhanced MR was split into",
        split,
        of_headers("InConcatenationTotalNumber"),
        "slices",
        "1 of the 2 files that it was split into",
    ),
}
