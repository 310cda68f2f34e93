"""Content decides what is DICOM, not a name; what is left out of a folder is said."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import numpy as np
import pydicom.uid as uids
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite

from client.data.case import Case
from client.data.dicom.objects import case_stem, is_dicom, is_dicom_folder
from client.data.errors import ScanError
from client.data.files.image_io import read_image
from client.data.folder.entries import scan_files

SYNTAXES = {
    "implicit": uids.ImplicitVRLittleEndian,
    "explicit": uids.ExplicitVRLittleEndian,
    "big": uids.ExplicitVRBigEndian,
}
STRUCTURES, REPORT = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.88.11"


def bare(file: Path, syntax: str = "implicit", meta: bool = False) -> Path:
    """A data set without preamble and, unless `meta`, without the group of the file's facts."""
    header = dcmread(file)
    uid = SYNTAXES[syntax]
    if syntax == "big":
        header.PixelData = np.frombuffer(header.PixelData, "<u2").astype(">u2").tobytes()
    if meta:
        header.file_meta.TransferSyntaxUID = uid
        header.preamble = None
        dcmwrite(file, header, enforce_file_format=False)
        return file
    header.file_meta = FileMetaDataset()
    header.preamble = None
    dcmwrite(
        file,
        header,
        implicit_vr=syntax == "implicit",
        little_endian=syntax != "big",
        enforce_file_format=False,
        force_encoding=True,
    )
    return file


def read(folder: Path, **facts: Any) -> tuple[sitk.Image, list[str]]:
    notes: list[str] = []
    return read_image(folder, case="1", note=notes.append, **facts), notes


def same(image: sitk.Image, made: ph.Phantom) -> None:
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), made.voxels)


def refusal(folder: Path) -> Any:
    with pytest.raises(ScanError) as caught:
        read_image(folder, case="1")
    return caught.value.problem


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("which", ["all", "some"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_slices_without_preamble(tmp_path: Path, syntax: str, which: str, meta: bool) -> None:
    """Some of them alone were left out, and half a scan was used."""
    made = ph.phantom()
    folder = ph.write_classic(tmp_path / "images" / "1", made)
    files = sorted(folder.iterdir())
    for file in files if which == "all" else files[:2]:
        bare(file, syntax, meta)
        assert file.read_bytes()[128:132] != b"DICM"
    assert list(scan_files(tmp_path / "images")) == ["1"]
    image, notes = read(folder)
    same(image, made)
    assert notes == []


@pytest.mark.parametrize("how", ["", "implicit", "explicit"])
@pytest.mark.parametrize("name", ["1", "1.IMA", "1.img", "1.dicom", "1.nii", "1.nii.gz", "1.mha"])
def test_a_multiframe_file_of_any_name(tmp_path: Path, name: str, how: str) -> None:
    made = ph.phantom()
    path = ph.write_enhanced(tmp_path / name, made, order=[3, 0, 4, 1, 2])
    if how:
        bare(path, how)
    assert scan_files(tmp_path) == {"1": path}
    same(read(path)[0], made)


@pytest.mark.parametrize(
    "name", ["IM{}.IMA", "{}.img", "{}.nii", "MR.1.2.840.{}", "{}.dcm", "{}.DCM"]
)
def test_slices_of_any_name(tmp_path: Path, name: str) -> None:
    made = ph.phantom()
    for z, file in enumerate(sorted(ph.write_classic(tmp_path / "a", made).iterdir())):
        file.rename(file.with_name(name.format(z)))
    same(read(tmp_path)[0], made)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("1.2.840.7", "1.2.840.7"), ("a.dcm", "a"), ("a.IMA", "a"), ("a", "a"), ("a.dcm.gz", "a")],
)
def test_a_number_at_the_end_of_a_name_is_part_of_it(name: str, stem: str) -> None:
    assert case_stem(Path(name)) == stem


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00" + bytes(4000),
        b"\x02\x00\x00\x00 a text that begins as DICOM might",
        b"hello " * 100,
        gzip.compress(b"hello " * 100, mtime=0),
        b"\x1f\x8b\x08" + bytes(100),
        bytes(range(256)) * 8,
    ],
)
def test_what_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert not is_dicom(tmp_path / "a")
    assert not is_dicom_folder(tmp_path)


@pytest.mark.parametrize("share", [1, 5])
def test_slices_packed_by_gzip_are_told(tmp_path: Path, share: int) -> None:
    folder = ph.write_classic(tmp_path / "1", ph.phantom())
    for file in sorted(folder.iterdir())[:share]:
        file.write_bytes(gzip.compress(file.read_bytes()))
        file.rename(f"{file}.dcm.gz")
    assert list(scan_files(tmp_path)) == ["1"]
    problem = refusal(folder)
    assert problem.rule == "format"
    assert problem.message == f": gzip compressed {share} of its DICOM files; unpack them"


@pytest.mark.parametrize("name", ["IM9999", "other.dcm"])
@pytest.mark.parametrize("content", [b"", bytes(700), b"\xff\xd8\xff\xe0" + bytes(300)])
def test_a_slice_that_is_no_dicom_is_no_other_file(
    tmp_path: Path, name: str, content: bytes
) -> None:
    """Of the first or last slice nothing else would tell that it is missing."""
    folder = ph.write_classic(tmp_path, ph.phantom())
    (folder / name).write_bytes(content)
    problem = refusal(folder)
    assert problem.rule == "damaged"
    assert problem.message.startswith(": 1 of its DICOM files cannot be read")


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        ("IM{:04d}", "IM0099"),
        ("im_{}", "IM_12"),
        ("1.2.840.113619.{}", "1.2.840.113619.12.4"),
        ("MR.1.3.12.{}", "MR.1.3.12.99"),
        ("{:08d}", "00000010"),
        ("4A0F2{}C3", "9E01B7FD"),
        ("0f8f{}c1e-5a6b-4c7d-8e9f-0a1b2c3d4e5f", "1f8fac1e-5b6b-4c7d-8e9f-0a1b2c3d4e5f"),
        ("{:04d}.IMA", "lost.ima"),
    ],
)
@pytest.mark.parametrize("content", [b"", bytes(700)])
def test_named_as_the_slices_are(tmp_path: Path, names: str, lost: str, content: bytes) -> None:
    """A slice that is damaged is none of the clutter that exports put beside slices."""
    made = ph.phantom()
    for z, file in enumerate(sorted(ph.write_classic(tmp_path, made).iterdir())):
        file.rename(file.with_name(names.format(z)))
    for name in ("LOCKFILE", "VERSION", "index", "viewer", "libview.so.1", "run.exe"):
        (tmp_path / name).write_bytes(content)
    image, notes = read(tmp_path)
    same(image, made)
    assert notes == ["4 of 9 files left out of the scan: 4 that are no DICOM"]
    (tmp_path / lost).write_bytes(content)
    assert refusal(tmp_path).rule == "damaged"


def test_names_drawn_at_random(tmp_path: Path) -> None:
    made = ph.phantom()
    drawn = ("Q3X9ZK1P", "7PLMW2RT", "ZZ81QWER", "K4K4XY0O", "WERT5YUI")
    for name, file in zip(drawn, sorted(ph.write_classic(tmp_path, made).iterdir()), strict=True):
        file.rename(file.with_name(name))
    for name in ("LOCKFILE", "VERSION"):
        (tmp_path / name).touch()
    same(read(tmp_path)[0], made)
    (tmp_path / "U8IOPASD").touch()
    assert refusal(tmp_path).rule == "damaged"


@pytest.mark.parametrize(
    "name",
    [
        "Thumbs.db",
        ".DS_Store",
        "desktop.ini",
        "autorun.inf",
        "DICOMDIR",
        "LOCKFILE",
        "README",
        "Readme_first",
        "a.json",
        "a.JPG",
        "a.png",
        "a.txt",
        "a.html",
        "a.css",
        "a.js",
        "a.exe",
        "a.dll",
        "a.ico",
        "a.xml",
    ],
)
def test_clutter_is_no_news(tmp_path: Path, name: str) -> None:
    made = ph.phantom()
    folder = ph.write_classic(tmp_path, made)
    (folder / name).write_bytes(b"\0" * 200)
    image, notes = read(folder)
    same(image, made)
    assert notes == []


def test_a_file_that_is_not_there_is_missed(tmp_path: Path) -> None:
    folder = ph.write_classic(tmp_path, ph.phantom())
    (folder / "IM0003").unlink()
    (folder / "IM0003").symlink_to(tmp_path / "nowhere")
    problem = refusal(folder)
    assert problem.rule == "missing"
    assert problem.message.startswith(": a file is a link to what is not there; copy")


def link_to_series(case: Path, series: Path) -> None:
    case.symlink_to(series)


def link_within(case: Path, series: Path) -> None:
    case.mkdir()
    (case / "t2").symlink_to(series)
    (case / "again").symlink_to(series)


def link_to_parents(case: Path, series: Path) -> None:
    link_within(case, series)
    (case / "self").symlink_to(case)
    (case / "parent").symlink_to(case.parent)
    (series / "back").symlink_to(case)
    (series / "up").symlink_to(series.parent)


def links_to_files(case: Path, series: Path) -> None:
    case.mkdir()
    for file in series.iterdir():
        (case / file.name).symlink_to(file)


@pytest.mark.parametrize("link", [link_to_series, link_within, link_to_parents, links_to_files])
def test_linked_folders_are_followed(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    made = ph.phantom()
    series = ph.write_classic(tmp_path / "store" / "s", made)
    ph.write_classic(tmp_path / "store" / "other", ph.phantom())
    ph.write_classic(tmp_path / "imagesTr" / "2", ph.phantom())
    link(tmp_path / "imagesTr" / "1", series)
    assert list(scan_files(tmp_path / "imagesTr")) == ["1", "2"]
    image, notes = read(tmp_path / "imagesTr" / "1")
    same(image, made)
    assert notes == []


def test_a_pipe_is_no_slice(tmp_path: Path) -> None:
    made = ph.phantom()
    folder = ph.write_classic(tmp_path, made)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.dcm")
    same(read(folder)[0], made)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    made = ph.phantom()
    ph.write_classic(tmp_path / "s", made)
    ph.write_classic(tmp_path / "l", ph.phantom((2, 14, 18), description="localizer"))
    ph.write_other(tmp_path / "SR1", made, REPORT, "SR")
    ph.write_other(tmp_path / "RS", made, STRUCTURES, "RTSTRUCT")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "VERSION").write_text("1")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    image, notes = read(tmp_path, series_patterns=["t2*"])
    same(image, made)
    assert notes == [
        "5 of 10 files left out of the scan: 2 of another series, 1 report, 1 that is no DICOM,"
        " 1 with contours or segments"
    ]


def test_contours_beside_the_slices_are_its_label_or_said(tmp_path: Path) -> None:
    made = ph.phantom()
    ph.write_classic(tmp_path / "1", made)
    label = ph.write_other(tmp_path / "1" / "RS", made, STRUCTURES, "RTSTRUCT")
    assert read(tmp_path / "1")[1] == []
    said = "1 file(s) with contours or segments in its folder are not its label"
    for drawn, expected in ((label, []), (None, [said]), (tmp_path / "1.nii.gz", [said])):
        notes: list[str] = []
        case = Case(name="1", part="labelled", image=tmp_path / "1", label=drawn)
        case.read_scan(notes.append)
        assert notes == expected


def test_a_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ph.write_classic(tmp_path / "1" / "s", ph.phantom())
    (tmp_path / "1" / "more").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    problem = refusal(tmp_path / "1")
    assert (problem.rule, problem.detail) == ("closed", "more")
    assert problem.message.startswith(": a folder cannot be opened: Permission denied; check")
