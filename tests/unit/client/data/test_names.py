"""Whatever a file is called: it is read rightly or refused, and nobody's name ends a process."""

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import bad_cases as bad
import dicom_phantoms as ph
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.data.case import Case
from client.data.dicom.series import find_series
from client.data.errors import ScanError
from client.data.files.image_io import read_grid, read_image, write_label_map
from client.data.files.integrity import data_file
from client.data.folder.layout import survey_folder
from client.data.folder.names import is_utf8
from client.data.hashing import content_hash
from client.data.patients import read_patients
from client.data.pseudonyms import Pseudonyms
from client.datacheck.inspection import CaseReport
from client.datacheck.text import case_line
from protocol.config.site import SiteConfig

CAFE = "caf\udce9"  # how Python keeps the bytes of café in Latin-1
VOXELS = np.random.default_rng(4).normal(size=(4, 5, 6)).astype(np.float32)


def save(path: Path) -> Path:
    """A scan under any name: made under one that every library takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if path.name.lower().endswith(".gz") else path.suffix.lower()
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, f"plain{suffix}")
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(plain))
        path.write_bytes(plain.read_bytes())
    return path


def refusal(path: Path) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read_image(path, case=path.name)
    assert str(caught.value).isprintable()
    return caught.value


# ---- names that are not UTF-8 -------------------------------------------------------------------


def test_a_latin_1_name_is_refused_with_its_remedy(tmp_path: Path) -> None:
    error = refusal(save(tmp_path / f"{CAFE}.nii.gz"))
    assert error.problem.rule == "name"
    assert str(error) == (
        r"case caf\xe9.nii.gz: image caf\xe9.nii.gz has a name that is not UTF-8; rename it, for"
        r" instance with convmv"
    )
    assert error.problem.anonymous.isascii()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("read", [read_image, read_grid, lambda path, case: content_hash(path)])
def test_every_door_refuses_a_latin_1_folder(tmp_path: Path, read: object) -> None:
    path = save(tmp_path / "M\udcfcller" / "a.mha")
    with pytest.raises(ScanError, match=r"lies in a folder whose name is not UTF-8.*M\\xfcller"):
        read(path, case="a")  # type: ignore[operator]


def test_a_dicom_file_of_a_latin_1_name_is_refused_in_a_good_folder(tmp_path: Path) -> None:
    ph.write_classic(tmp_path / "a", ph.Phantom(voxels=np.arange(60).reshape(3, 4, 5)))
    first = sorted((tmp_path / "a").iterdir())[0]
    first.rename(tmp_path / "a" / f"{CAFE}.dcm")
    assert refusal(tmp_path / "a").problem.rule == "name"
    with pytest.raises(ScanError, match=r"file caf\\xe9.dcm has a name that is not UTF-8"):
        find_series(tmp_path / "a", location="case a")


def test_a_report_of_a_latin_1_name_beside_the_slices_is_no_matter(tmp_path: Path) -> None:
    ph.write_classic(tmp_path / "a", ph.Phantom(voxels=np.arange(60).reshape(3, 4, 5)))
    (tmp_path / "a" / f"{CAFE}.pdf").touch()
    assert read_image(tmp_path / "a", case="a").GetSize() == (5, 4, 3)


def test_nothing_is_written_under_a_latin_1_name(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VOXELS)
    with pytest.raises(ScanError, match="not UTF-8"):
        write_label_map(VOXELS > 0, image, tmp_path / f"{CAFE}.nii.gz")
    assert not list(tmp_path.iterdir())


def test_the_survey_refuses_it_by_name_and_keeps_the_others(tmp_path: Path) -> None:
    for name in ("good", CAFE):
        save(tmp_path / "imagesUn" / f"{name}.nii.gz")
        save(tmp_path / "imagesTr" / f"{name}_l.nii.gz")
        save(tmp_path / "labelsTr" / f"{name}_l.nii.gz")
    survey = survey_folder(tmp_path)
    assert [case.name for case in survey.cases] == ["good_l", "good"]
    assert {(r.case, r.problem.rule) for r in survey.refused} == {
        (f"{CAFE}_l", "name"),
        (CAFE, "name"),
    }


def test_a_data_folder_of_such_a_name_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "M\udcfcller" / "data"
    save(folder / "imagesUn" / "a.nii.gz")
    [refused] = survey_folder(folder).refused
    assert (refused.case, refused.problem.rule) == ("", "name")
    assert r"lies in a folder whose name is not UTF-8" in str(refused.problem)
    assert r"(M\xfcller)" in str(refused.problem)


def test_the_line_of_such_a_case_goes_through_any_terminal(tmp_path: Path) -> None:
    save(tmp_path / "imagesUn" / f"{CAFE}.nii.gz")
    [refused] = survey_folder(tmp_path).refused
    report = CaseReport(
        name=refused.case, part=refused.part, status="refused", problem=refused.problem
    )
    line = case_line(report, Pseudonyms(bytes(32)).of(refused.case))
    assert r"caf\xe9 (case-" in line
    line.encode("ascii")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_a_terminal_lacks_end_no_command(encoding: str) -> None:
    code = (
        "from reporting.commands import CommandGroup; from reporting.terminal import make_console\n"
        "group = CommandGroup('x', 'x', {})\n"
        "try: group.main(['--version'])\n"
        "except SystemExit: pass\n"
        "make_console().print('M\\u00fcller \\u00e9\\u732b \\U0001f600')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    assert (
        ran.stdout.decode(encoding)
        .splitlines()[-1]
        .startswith(r"M\xfcller \xe9\u732b" if encoding == "ascii" else "Müller é")
    )


# ---- any name -----------------------------------------------------------------------------------

_NAME = st.binary(min_size=1, max_size=60).map(
    lambda name: name.replace(b"/", b"-").replace(b"\0", b"-")
)


@settings(max_examples=150)
@given(name=_NAME, suffix=st.sampled_from([".nii.gz", ".nii", ".mha", ".nrrd", ".Nii", ".NII.GZ"]))
@example(name=b"%d", suffix=".nii.gz")
@example(name=b"a%03d", suffix=".nrrd")
@example(name=b"a\nb\t\x1b[31m", suffix=".mha")
@example(name=b"-x", suffix=".nii")
@example(name=b" a ", suffix=".nii.gz")
@example(name=b"x" * 248, suffix=".nii.gz")
@example(name="a\u202eb\U0001f600".encode(), suffix=".nii.gz")
@example(name=b"caf\xe9", suffix=".mha")
def test_any_bytes_are_read_rightly_or_refused(name: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder, os.fsdecode(name) + suffix))
        try:
            name.decode("utf-8")
        except UnicodeDecodeError:
            assert not is_utf8(path.name)
            assert refusal(path).problem.rule == "name"
            return
        if suffix == ".Nii":
            assert "small and capital letters" in str(refusal(path))
            return
        read = read_image(path, case="a")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read), VOXELS)
        assert Case(name="a", part="unlabelled", image=path, label=None).read_scan()


def test_nibabel_reads_what_a_suffix_of_two_kinds_of_letters_keeps_from_itk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.Nii.gz")
    assert "rename it, with .nii or .nii.gz" in str(refusal(path))
    plain = path.rename(tmp_path / "a.nii.gz")
    truth = np.asarray(nibabel.nifti1.load(plain).dataobj).T
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(read_image(plain, case="a")), truth.astype(np.float32)
    )


@pytest.mark.parametrize("name", ["M\u00fcller", "Mu\u0308ller", CAFE, "a b", "\U0001f600", "a'b"])
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_the_file_of_voxels_may_have_any_name(tmp_path: Path, name: str, suffix: str) -> None:
    image = sitk.GetImageFromArray(VOXELS)
    sitk.WriteImage(image, str(tmp_path / f"plain{suffix}"))
    [voxels] = [path for path in tmp_path.iterdir() if path.suffix != suffix]
    header = (tmp_path / f"plain{suffix}").read_bytes()
    assert voxels.name.encode() in header
    renamed = voxels.rename(tmp_path / f"{name}{voxels.suffix}")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(header.replace(voxels.name.encode(), os.fsencode(renamed.name)))
    assert data_file(path, location="") == renamed
    read = read_image(path, case="a")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), VOXELS)
    before = content_hash(path)
    renamed.write_bytes(bytes(len(renamed.read_bytes())))
    assert content_hash(path) != before
    renamed.unlink()
    assert "the file of its voxels is missing" in str(refusal(path))


@pytest.mark.parametrize("key", ["exclude", "undrawn"])
def test_a_site_s_file_names_a_case_however_its_letters_are_written(key: str) -> None:
    facts = {"site": "A", "data": "a", "cache": "b", "state": "c"}
    fact: object = "why" if key == "exclude" else ["bladder"]
    config = SiteConfig.model_validate(facts | {key: {"Mu\u0308ller": fact}})
    assert list(getattr(config, key)) == ["M\u00fcller"]
    with pytest.raises(ValueError, match="names a case twice, its letters composed"):
        SiteConfig.model_validate(facts | {key: {"Mu\u0308ller": fact, "M\u00fcller": fact}})


def test_so_does_the_table_of_patients(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\nMu\u0308ller,7\n", encoding="utf-8")
    names = {"M\u00fcller"}
    assert read_patients(table, names).of_case == {"M\u00fcller": "7"}
    table.write_text("case,patient\nMu\u0308ller,7\nM\u00fcller,8\n", encoding="utf-8")
    with pytest.raises(ValueError, match="names a case twice"):
        read_patients(table, names)


@pytest.mark.parametrize("kind", ["contours", "segments"])
def test_a_dicom_label_may_have_any_name_in_its_folder(tmp_path: Path, kind: str) -> None:
    place = bad.Place(root=tmp_path, name="a", seed=1)
    bad.labelled_dicom(kind, lambda *_: None)(place)
    place.label("").mkdir()
    place.label(".dcm").rename(place.label("") / f"{CAFE}.dcm")
    [case] = survey_folder(tmp_path).cases
    label = case.read_label(case.read_scan(), bad.ORGANS)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), bad.organs())
