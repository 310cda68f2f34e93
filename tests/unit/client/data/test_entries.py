"""What lies in a folder of scans: used, refused with its reason, or named as passed over."""

import gzip
import os
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.errors import ScanError
from client.data.files.image_io import read_grid, read_image
from client.data.folder.entries import list_folder, scan_files
from client.data.folder.layout import find_cases, survey_folder
from client.data.folder.survey import Survey
from client.data.hashing import content_hash
from protocol.config.site import SiteConfig

NFC, NFD = "M\u00fcller", "Mu\u0308ller"


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(4).normal(size=(4, 5, 6)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return path


def survey(folder: Path, **facts: object) -> Survey:
    site = {"site": "A", "data": folder, "cache": folder / "cache", "state": folder / "state"}
    return survey_folder(folder, SiteConfig.model_validate(site | facts))


def said(folder: Path, **facts: object) -> dict[str, str]:
    """By case, the rule and the line of what is refused."""
    return {r.case: f"{r.problem.rule}: {r.problem}" for r in survey(folder, **facts).refused}


@contextmanager
def another_user() -> Iterator[None]:
    """Whom permissions hold back, as they do not hold back root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_to_all(tmp_path: Path) -> Path:
    """A folder that another user reaches, whatever pytest's own folders allow."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            if not str(folder).startswith(os.path.realpath("/tmp") + "/"):
                pytest.skip(f"{folder} is closed to other users")
            folder.chmod(0o755)
    return tmp_path


# ---- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii.gz", "a.dcm", "a"])
@pytest.mark.parametrize("target", ["../nowhere/a.nii.gz", "a.nii.gz", "a.dcm", "a"])
def test_a_link_to_nowhere_or_round_is_a_case_that_is_missing(
    tmp_path: Path, name: str, target: str
) -> None:
    save(tmp_path / "imagesUn" / "b.nii.gz")
    os.symlink(target if target.startswith(".") else name, tmp_path / "imagesUn" / name)
    assert said(tmp_path) == {
        "a": f"missing: case a: image {name} is a link to what is not there; copy the scan itself,"
        " or mend the link"
    }
    for read in (lambda path: read_image(path, case="a"), content_hash):
        with pytest.raises(ScanError, match="is a link to what is not there"):
            read(tmp_path / "imagesUn" / name)


def test_a_text_that_is_a_link_to_nowhere_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "imagesUn" / "b.nii.gz")
    for name in ("README", "notes.txt", "dataset.json"):
        os.symlink("nowhere", tmp_path / "imagesUn" / name)
    assert survey(tmp_path).passed_over["imagesUn"] == ["README", "dataset.json", "notes.txt"]


def test_links_to_scans_and_to_series_are_cases(tmp_path: Path) -> None:
    save(tmp_path / "store" / "x.nii.gz")
    ph.write_classic(tmp_path / "store" / "y", ph.Phantom(voxels=np.arange(60).reshape(3, 4, 5)))
    folder = tmp_path / "data" / "imagesUn"
    folder.mkdir(parents=True)
    os.symlink("../../store/x.nii.gz", folder / "a.nii.gz")
    os.symlink("../../store/y", folder / "b")
    (folder / "c").mkdir()
    os.symlink("../../../store/y", folder / "c" / "series")
    assert [case.name for case in find_cases(tmp_path / "data")] == ["a", "b", "c"]
    sizes = {case.name: case.read_scan().GetSize() for case in find_cases(tmp_path / "data")}
    assert sizes == {"a": (6, 5, 4), "b": (5, 4, 3), "c": (5, 4, 3)}


def test_a_folder_of_the_layout_that_is_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "b.nii.gz")
    os.symlink("/mnt/nowhere", tmp_path / "labelsTr")
    os.symlink("/mnt/nowhere", tmp_path / "imagesUn")
    found = survey(tmp_path)
    assert [str(refusal.problem) for refusal in found.refused] == [
        f"folder {name}: is a link to what is not there; mount or mend it"
        for name in ("labelsTr", "imagesUn")
    ]
    assert not found.cases


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "imagesUn").touch()
    assert said(tmp_path) == {"": "missing: folder imagesUn: is no folder; correct the path"}


# ---- what this user may not open, and what is no file -------------------------------------------


@pytest.mark.parametrize("what", ["scan", "unnamed", "folder", "link"])
def test_what_is_closed_is_a_case_that_is_refused(open_to_all: Path, what: str) -> None:
    folder = open_to_all / "imagesUn"
    save(folder / "b.nii.gz")
    shut = open_to_all / "shut"
    if what == "scan":
        save(folder / "a.nii.gz").chmod(0)
    elif what == "unnamed":
        save(folder / "a.nii").rename(folder / "a").chmod(0)
    elif what == "folder":
        save(folder / "a" / "x.dcm.nii").parent.chmod(0)
    else:
        save(shut / "x.nii.gz")
        os.symlink("../shut/x.nii.gz", folder / "a.nii.gz")
        shut.chmod(0)
    try:
        with another_user():
            found = survey(open_to_all)
            problems = {refusal.case: refusal.problem for refusal in found.refused}
            for case in found.cases:  # a scan's own permissions show when it is opened
                try:
                    read_image(case.image, case=case.name)
                except ScanError as error:
                    problems[case.name] = error.problem
    finally:
        for path in (folder / "a", shut):
            if path.exists():
                path.chmod(0o755)
    assert list(problems) == ["a"]
    assert problems["a"].rule == "closed"
    assert "cannot be opened" in problems["a"].message


def test_a_closed_folder_of_the_layout_is_refused(open_to_all: Path) -> None:
    save(open_to_all / "imagesUn" / "a.nii.gz").parent.chmod(0)
    for folder in ("imagesTr", "labelsTr"):
        save(open_to_all / folder / "b.nii.gz")
    try:
        with another_user():
            refused = said(open_to_all)
    finally:
        (open_to_all / "imagesUn").chmod(0o755)
    assert list(refused) == [""]
    assert refused[""].startswith("closed: folder imagesUn: cannot be opened")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: socket.socket(socket.AF_UNIX).bind(path)])
def test_pipes_and_sockets_are_never_opened(
    tmp_path: Path, make: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "imagesUn" / "b.nii.gz")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    for name in ("a.nii.gz", "pipe", "c.dcm"):
        make(f"imagesUn/{name}")
    refused = said(tmp_path)
    assert list(refused) == ["a", "c"]
    for case in refused:
        assert "is a pipe, socket or device; give a file" in refused[case]
    assert survey(tmp_path).passed_over["imagesUn"] == ["pipe"]
    with pytest.raises(ScanError, match="is a pipe, socket or device"):
        read_grid(tmp_path / "imagesUn" / "a.nii.gz", case="a")


# ---- formats that are not read ------------------------------------------------------------------

UNREAD = {
    "a.zip": "is an archive; unpack it",
    "a.tar.gz": "is an archive",
    "a.nii.zip": "is an archive",
    "a.nii.bz2": "is compressed in a way that is not read; unpack it, or save it as .nii.gz",
    "a.nrrd.gz": "is compressed in a way that is not read",
    "a.mha.Z": "is compressed in a way that is not read",
    "a.dcm.gz": "is compressed in a way that is not read",
    "a.hdr": "is one half of a pair of .hdr and .img",
    "a.IMG": "is one half of a pair of .hdr and .img",
    "a.mgz": "is a volume of FreeSurfer; convert it to .nii.gz, for instance by mri_convert",
    "a.mnc": "is a volume of MINC",
    "a.PAR": "is an export of Philips as PAR and REC",
    "a.npy": "is an array without the place and the spacing of a scan",
    "a.tiff": "is a TIFF image",
    "a.raw": "is the voxels of a scan without their header",
    "a.nii.gz.part": "is an unfinished copy; copy it again, whole",
    "a.nii.gz.lnk": "is a shortcut; copy the scan itself",
    ".a.nii.gz.icloud": "is an unfinished copy",
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_format_that_is_not_read_is_a_case_that_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "imagesTr" / "b.nii.gz")
    save(tmp_path / "labelsTr" / "b.nii.gz")
    save(tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "imagesTr" / name).write_bytes(b"something")
    refused = said(tmp_path)
    assert list(refused) == ["a"]
    assert f"case a: image {name} {UNREAD[name]}" in refused["a"]
    assert refused["a"].startswith(("format: ", "damaged: "))


@pytest.mark.parametrize("name", UNREAD)
def test_beside_the_scan_itself_it_is_passed_over(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a.nrrd")
    (tmp_path / name).write_bytes(b"something")
    found = list_folder(tmp_path)
    assert found.scans == {"a": [tmp_path / "a.nrrd"]}
    assert found.passed_over == [name]


def test_both_halves_of_a_pair_are_one_case(tmp_path: Path) -> None:
    for name in ("a.hdr", "a.img", "b.PAR", "b.REC"):
        (tmp_path / name).write_bytes(b"something")
    assert list(scan_files(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("suffix", "name", "right"),
    [
        (".nii", "a", ".nii"),
        (".nii.gz", "a", ".nii.gz"),
        (".nii.gz", "a.nii.gz.bak", ".nii.gz"),
        (".nii", "a.scan", ".nii"),
        (".nrrd", "a", ".nrrd"),
        (".mha", "a.nii_old", ".mha"),
    ],
)
def test_content_tells_a_scan_whose_name_does_not(
    tmp_path: Path, suffix: str, name: str, right: str
) -> None:
    save(tmp_path / "imagesUn" / f"x{suffix}").rename(tmp_path / "imagesUn" / name)
    save(tmp_path / "imagesUn" / "b.nii.gz")
    refused = said(tmp_path)
    assert list(refused) == ["a"]
    assert "under a name that does not say so" in refused["a"]
    assert f"rename it to end in {right}" in refused["a"]


def test_dataset_json_of_the_data_folder_is_read_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "imagesUn").mkdir()
    for name in ("dataset.json", "plans.json"):
        (tmp_path / name).write_text("{}")
    assert survey(tmp_path).passed_over["."] == ["plans.json"]


def test_what_lies_beside_scans_is_passed_over_and_named(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz")
    for name in (
        "a.json",
        "notes.txt",
        "README",
        "LICENSE.md",
        "qc.png",
        "list.csv.gz",
        "Thumbs.db",
    ):
        (tmp_path / name).write_bytes(gzip.compress(b"text") if name.endswith("gz") else b"text")
    for name in (".DS_Store", "._a.nii.gz", ".draft-1.nii.gz", ".b.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    (tmp_path / "__MACOSX").mkdir()
    found = list_folder(tmp_path)
    assert list(found.scans) == ["a"]
    beside = "LICENSE.md README Thumbs.db __MACOSX a.json list.csv.gz notes.txt pictures qc.png"
    assert found.passed_over == [".b.nii.gz", *beside.split()]


def test_folders_that_hold_no_series_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "imagesUn" / "deep" / "t2" / "x.nii.gz")
    (tmp_path / "imagesUn" / "empty" / "series").mkdir(parents=True)
    (tmp_path / "imagesUn" / "packed").mkdir()
    (tmp_path / "imagesUn" / "packed" / "slices.zip").write_bytes(b"PK")
    refused = said(tmp_path)
    assert "format: case deep: image deep is a folder without DICOM files" in refused["deep"]
    assert refused["empty"].startswith("missing: case empty: image empty is an empty folder")
    assert (
        "format: case packed: image packed holds what is an archive; unpack it" in refused["packed"]
    )


# ---- names that are nearly the same -------------------------------------------------------------


@pytest.mark.parametrize(("image", "label"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_composed_and_decomposed_letters_are_one_name(
    tmp_path: Path, image: str, label: str
) -> None:
    save(tmp_path / "imagesTr" / f"{image}.nii.gz")
    save(tmp_path / "labelsTr" / f"{label}.nii.gz")
    [case] = survey(tmp_path).cases
    assert case.name == NFC
    assert case.read_scan().GetSize() == (6, 5, 4)
    found = survey(tmp_path, exclude={NFD: "prosthesis"})
    assert [case.name for case in found.excluded] == [NFC] and not found.cases


def test_one_name_in_both_ways_of_writing_is_told_as_that(tmp_path: Path) -> None:
    save(tmp_path / "imagesUn" / f"{NFC}.nii.gz")
    save(tmp_path / "imagesUn" / f"{NFD}.nii.gz")
    assert said(tmp_path)[NFC] == (
        "name: folder imagesUn: case Müller is there more than once, its letters composed in one"
        " name and taken apart in another (Unicode NFC and NFD); keep one"
        r" (Mu\u0308ller.nii.gz, M\u00fcller.nii.gz)"
    )


@pytest.mark.parametrize(
    ("image", "label"),
    [("Case01", "case01"), ("case01", "case01_seg"), ("case 01", "case01"), ("a-1", "a_1-label")],
)
def test_a_label_of_nearly_the_images_name_is_pointed_out(
    tmp_path: Path, image: str, label: str
) -> None:
    save(tmp_path / "imagesTr" / f"{image}.nii.gz")
    save(tmp_path / "labelsTr" / f"{label}.nii.gz")
    refused = said(tmp_path)
    assert refused[image] == (
        f"pair: case {image}: imagesTr holds its image, labelsTr no label map but one of nearly"
        f" this name; give both one name ({label})"
    )
    assert (
        f"imagesTr no image but one of nearly this name; give both one name ({image})"
        in (refused[label])
    )


def test_a_folder_that_is_nearly_called_as_the_layout_wants_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "imagesUn" / "a.nii.gz")
    save(tmp_path / "ImagesTr" / "b.nii.gz")
    assert said(tmp_path) == {
        "": "name: folder ImagesTr is not read under this name; rename it imagesTr"
    }


def test_a_file_that_is_a_suffix_alone_has_no_name(tmp_path: Path) -> None:
    save(tmp_path / "imagesUn" / "x.nii.gz").rename(tmp_path / "imagesUn" / ".nii.gz")
    assert "has no name before its suffix" in said(tmp_path)[".nii.gz"]
    save(tmp_path / "imagesTs" / "_0000.nii.gz")
    save(tmp_path / "labelsTs" / "_0000.nii.gz")
    assert [case.name for case in survey(tmp_path).cases] == ["_0000"]


def test_a_case_that_cannot_be_read_may_be_left_out_on_purpose(tmp_path: Path) -> None:
    save(tmp_path / "imagesUn" / "b.nii.gz")
    os.symlink("nowhere", tmp_path / "imagesUn" / "a.nii.gz")
    (tmp_path / "imagesUn" / "c.zip").touch()
    found = survey(tmp_path, exclude={"a": "lost", "c": "lost"})
    assert not found.refused
    assert sorted(case.name for case in found.excluded) == ["a", "c"]
    assert [case.name for case in found.cases] == ["b"]


def test_a_channel_is_no_part_of_the_name_of_what_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "imagesTr").mkdir()
    os.symlink("nowhere", tmp_path / "imagesTr" / "a_0000.nii.gz")
    assert list(said(tmp_path)) == ["a"]


# ---- nothing is left unsaid ---------------------------------------------------------------------

_STEM = st.sampled_from(["a", "b", "caf\udce9", NFC, NFD, " a", "A", "a_0000", "-", "\U0001f600"])
_ENDS = [".nii.gz", ".Nii", ".mhd", ".raw", ".dcm", "", ".zip", ".img", ".hdr", ".txt", ".part"]
_MADE: list[Callable[[Path], object]] = [
    Path.touch,
    Path.mkdir,
    os.mkfifo,
    lambda path: os.symlink("nowhere", path),
    lambda path: os.symlink(path.name, path),
    lambda path: os.symlink("..", path),
    lambda path: path.write_bytes(bytes(344) + b"n+1\0"),
    lambda path: path.write_bytes(bytes(128) + b"DICM"),
]


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["imagesTr", "labelsTr", "imagesUn"]), _STEM, st.sampled_from(_ENDS)
        ),
        st.sampled_from(_MADE),
        max_size=8,
    )
)
def test_every_entry_is_a_case_refused_or_passed_over(
    made: dict[tuple[str, str, str], Callable[[Path], object]],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        for folder in ("imagesTr", "labelsTr", "imagesUn"):
            Path(root, folder).mkdir()
        for (folder, stem, end), make in made.items():
            make(Path(root, folder, stem + end))
        found = survey_folder(Path(root))
        names = {case.name for case in found.cases} | {one.case for one in found.refused}
        for folder, stem, end in made:
            told = {stem, stem + end, stem.removesuffix("_0000")}
            assert names & {unicodedata.normalize("NFC", name) for name in told} or (
                stem + end in found.passed_over[folder]
            )
        for one in found.refused:
            assert str(one.problem).isprintable()
            str(one.problem).encode()
        for case in found.cases:
            for path in (case.image, case.label):
                assert path is None or path.exists()
