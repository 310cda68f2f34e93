"""DICOM files that end too early, in every encoding; and whole ones with more behind."""

from pathlib import Path

import dicom_phantoms as ph
import numpy as np
import pytest
from bad_cases import Place
from faulty.contours import BLADDER, PROSTATE, column, drawn
from faulty.truncated import undefined
from pydicom import dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from client.data.case import Case
from client.data.dicom.headers import load
from client.data.dicom.labels.contours import read_structures
from client.data.errors import ScanError
from client.data.files.image_io import read_image
from protocol.config.site import SiteConfig

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def structures(root: Path, syntax: str, *, marks: bool) -> Path:
    root.mkdir(exist_ok=True)
    place = Place(root=root, name="case", seed=7)
    drawn(column("bladder", BLADDER, [4, 5]), column("prostate", PROSTATE, [4, 5]))(place)
    found = dcmread(place.label(".dcm"))
    found.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    if marks:
        undefined(found)
    list(found.iterall())  # all values parsed, to be written in another order of bytes
    dcmwrite(
        place.label(".dcm"),
        found,
        implicit_vr=syntax == "implicit",
        little_endian=syntax != "big",
        force_encoding=True,
    )
    return place.label(".dcm")


@pytest.mark.parametrize("marks", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_cut_anywhere_is_refused(tmp_path: Path, syntax: str, marks: bool) -> None:
    path = structures(tmp_path / "A", syntax, marks=marks)
    whole = path.read_bytes()
    assert "ROIContourSequence" in load(path, location="case 1", pixels=True)
    size = len(whole) - (syntax == "deflated")  # which a byte may fill up to an even length
    lengths = np.linspace(size * 0.2, size - 1, 25).astype(int)
    for length in [*lengths, *range(size - 9, size)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ScanError) as caught:
            load(path, location="case 1", pixels=True)
        assert caught.value.problem.rule == "damaged"


@pytest.mark.parametrize(
    "more", [b"\0" * 512, b"\0" * 3, b" " * 100, b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0abcd"]
)
def test_padding_behind_is_no_damage(tmp_path: Path, more: bytes) -> None:
    path = structures(tmp_path / "A", "explicit", marks=False)
    path.write_bytes(path.read_bytes() + more)
    assert len(load(path, location="case 1", pixels=True).ROIContourSequence) == 2


def test_without_preamble(tmp_path: Path) -> None:
    path = structures(tmp_path / "A", "implicit", marks=True)
    whole = path.read_bytes()
    bare = whole[whole.index(b"\x08\x00\x16\x00") :]
    path.write_bytes(bare)
    assert len(load(path, location="case 1").ROIContourSequence) == 2
    path.write_bytes(bare[:-100])
    with pytest.raises(ScanError):
        load(path, location="case 1")


def test_a_part_that_is_missing_as_a_whole(tmp_path: Path) -> None:
    """Cut between two elements: no length tells of it, the part that must be there does."""
    path = structures(tmp_path / "A", "implicit", marks=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\x06\x30\x39\x00")])
    site = SiteConfig(site="A", data=tmp_path, cache=tmp_path, state=tmp_path)
    case = Case(
        name="case", part="labelled", image=tmp_path / "A/imagesTr/case", label=path, site=site
    )
    with pytest.raises(ScanError) as caught:
        read_structures(path, case.read_scan(), location="case 1", series=None)
    assert caught.value.problem.rule == "damaged"


def test_compressed_pixels(tmp_path: Path) -> None:
    ph.write_classic(tmp_path, ph.phantom())
    file = sorted(tmp_path.iterdir())[0]
    header = dcmread(file)
    header.compress(RLELossless)
    header.save_as(file)
    whole = file.read_bytes()
    read_image(tmp_path, case="1")
    file.write_bytes(whole[:-60])
    with pytest.raises(ScanError) as caught:
        read_image(tmp_path, case="1")
    assert caught.value.problem.rule == "damaged"
