"""Slices that headers count and a folder lacks: at the ends nothing else tells of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import pytest
from pydicom import Dataset

from client.data.case import Case
from client.data.dicom.series import find_series
from client.data.errors import ScanError
from client.data.files.image_io import read_image
from protocol.config.site import SiteConfig


def notes_of(folder: Path) -> list[str]:
    notes: list[str] = []
    read_image(folder, case="1", note=notes.append)
    return notes


def counting(number: Callable[[int], int] = lambda z: z + 1, **values: Any) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        header.InstanceNumber = number(z)
        for name, value in values.items():
            setattr(header, name, value)

    return edit


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ImagesInAcquisition": 19}, ": 5 slices, its headers count 19 (ImagesInAcquisition);"),
        ({"NumberOfSlices": 6}, ": 5 slices, its headers count 6 (NumberOfSlices);"),
        ({"InConcatenationTotalNumber": 6}, ": 5 of the 6 files that it was split into"),
    ],
)
def test_slices_missing_at_an_end(tmp_path: Path, values: dict[str, int], said: str) -> None:
    folder = ph.write_classic(tmp_path, ph.phantom(), edit=counting(**values))
    with pytest.raises(ScanError) as caught:
        read_image(folder, case="1")
    problem = caught.value.problem
    assert problem.rule == "slices"
    assert problem.message.startswith(said)


@pytest.mark.parametrize("name", ["ImagesInAcquisition", "NumberOfSlices"])
def test_a_series_that_was_cut_on_purpose(tmp_path: Path, name: str) -> None:
    images = tmp_path / "data" / "imagesTr"
    for case in ("1", "caf\u00e9"):
        ph.write_classic(images / case, ph.phantom(), edit=counting(**{name: 19}))
    facts = {"data": tmp_path / "data", "cache": tmp_path, "state": tmp_path}
    site = SiteConfig(site="A", incomplete=("cafe\u0301",), **facts)
    cut = Case(
        name="caf\u00e9", part="unlabelled", image=images / "caf\u00e9", label=None, site=site
    )
    notes: list[str] = []
    assert cut.read_scan(notes.append).GetSize()[2] == 5
    assert cut.series is not None
    assert notes == [
        f"5 slices, its headers count 19 ({name}): cut on purpose, as the site's file says"
        " (`incomplete`)"
    ]
    with pytest.raises(ScanError, match="name the case in `incomplete` of the site's file"):
        replace(cut, name="1", image=images / "1").read_scan()


def test_a_part_of_a_split_object_is_missed_all_the_same(tmp_path: Path) -> None:
    edit = counting(InConcatenationTotalNumber=6)
    folder = ph.write_classic(tmp_path, ph.phantom(), edit=edit)
    with pytest.raises(ScanError, match="files that it was split into"):
        find_series(folder, location="", cut=True)


@pytest.mark.parametrize(
    "edit",
    [
        counting(ImagesInAcquisition=5),
        counting(ImagesInAcquisition=10),  # of two echoes, one kept
        counting(ImagesInAcquisition=3),
        counting(ImagesInAcquisition=""),
        counting(lambda z: 2 * z + 1),  # echoes numbered in turn
        counting(lambda z: z + 6),  # the second of two
        counting(lambda z: 1),
        counting(lambda z: 5 - z),
        counting(lambda z: [1, 3, 5, 2, 4][z]),  # interleaved
    ],
)
def test_numbers_that_tell_of_nothing_missing(tmp_path: Path, edit: ph.Edit) -> None:
    assert notes_of(ph.write_classic(tmp_path, ph.phantom(), edit=edit)) == []


def test_acquisitions_of_their_own_count_for_themselves(tmp_path: Path) -> None:
    def edit(header: Dataset, z: int) -> None:
        header.ImagesInAcquisition, header.AcquisitionNumber = 8, z % 2 + 1

    find_series(ph.write_classic(tmp_path, ph.phantom(), edit=edit), location="")


def test_a_derived_series_keeps_the_count_of_another(tmp_path: Path) -> None:
    edit = counting(ImagesInAcquisition=18, ImageType=["DERIVED", "SECONDARY", "MPR"])
    notes = notes_of(ph.write_classic(tmp_path, ph.phantom(), edit=edit))
    assert len(notes) == 1
    assert notes[0].startswith("its headers count 18 slices (ImagesInAcquisition) of the scan")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (lambda z: z + 1 + (z > 2) * 3, "3 of the numbers of its slices are missing; look"),
        (lambda z: z + 4, "its slices are numbered from 4; look"),
    ],
)
def test_numbers_with_gaps_are_noted(
    tmp_path: Path, number: Callable[[int], int], said: str
) -> None:
    notes = notes_of(ph.write_classic(tmp_path, ph.phantom(), edit=counting(number)))
    assert len(notes) == 1
    assert notes[0].startswith(said)


@pytest.mark.parametrize(
    ("told_mm", "thick_mm", "noted"),
    [
        ("0.3", "2.7", False),  # the gap, as some scanners write it
        ("0.3", "3", False),
        ("0.3", "", False),
        ("1", "2", False),
        ("1.5", "1.5", True),  # a gap as wide as a slice, or every second slice
        ("0.3", "1.5", True),  # a gap, and twice the thickness from slice to slice
        ("1.5", "3", True),  # slices that lay over each other
        ("1", "1", True),
        ("0", "1", False),  # nothing said
    ],
)
def test_a_gap_written_as_the_spacing(
    tmp_path: Path, told_mm: str, thick_mm: str, noted: bool
) -> None:
    edit = counting(SpacingBetweenSlices=told_mm, SliceThickness=thick_mm)
    notes = notes_of(ph.write_classic(tmp_path, ph.phantom(), edit=edit))
    assert len(notes) == noted
    assert all(note.startswith("its slices are 3 mm apart, its headers say") for note in notes)


@pytest.mark.parametrize(
    ("told_mm", "said"),
    [
        ("1.5", ["its slices are 3 mm apart, its headers say 1.5 mm; look whether it is whole"]),
        ("1", ["its slices are 3 mm apart, its headers say 1 mm; look whether it is whole"]),
        ("3", []),
        ("3.3", []),
        ("0", []),
        ("", []),
    ],
)
def test_every_second_slice(tmp_path: Path, told_mm: str, said: list[str]) -> None:
    edit = counting(SpacingBetweenSlices=told_mm)
    assert notes_of(ph.write_classic(tmp_path, ph.phantom(), edit=edit)) == said
