"""The layout of a site: what makes a case, and every mistake at once."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import client.data.folder.layout
from client.data.case import Case
from client.data.folder.layout import (
    LayoutError,
    find_cases,
    survey_folder,
)
from client.data.hashing import content_hash


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def mistakes_of(folder: Path) -> tuple[str, ...]:
    with pytest.raises(LayoutError) as caught:
        find_cases(folder)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    return caught.value.mistakes


def save_scan(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(size=(4, 5, 6)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True)
    return path


def save_label(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:3, 1:3] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def test_cases_of_every_part(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz", "imagesTr/a.mha")
    touch(tmp_path, "labelsTr/a.nii.gz", "imagesUn/u.nrrd", "imagesVal/v.nii", "labelsVal/v.nii")
    touch(tmp_path, "imagesTs/t/1.dcm", "labelsTs/t.mha", "dataset.json", "imagesTr/._a.mha")
    cases = find_cases(tmp_path)
    assert [(case.part, case.name) for case in cases] == [
        ("labelled", "a"),
        ("labelled", "b"),
        ("unlabelled", "u"),
        ("validation", "v"),
        ("test", "t"),
    ]
    assert cases[1].image == tmp_path / "imagesTr" / "b_0000.nii.gz"
    assert cases[1].label == tmp_path / "labelsTr" / "b.nii.gz"
    assert cases[2].label is None
    assert cases[4].image == tmp_path / "imagesTs" / "t"


def test_a_site_without_labels_is_valid(tmp_path: Path) -> None:
    touch(tmp_path, "imagesUn/u_0000.nii.gz")
    case = Case(
        name="u", part="unlabelled", image=tmp_path / "imagesUn" / "u_0000.nii.gz", label=None
    )
    assert find_cases(tmp_path) == (case,)


def test_numbers_of_subjects_are_not_channels(tmp_path: Path) -> None:
    touch(tmp_path, "imagesUn/p_0000.mha", "imagesUn/p_0001.mha")
    touch(tmp_path, "imagesTr/q_0000.mha", "labelsTr/q_0000.mha")
    assert [case.name for case in find_cases(tmp_path)] == ["q_0000", "p_0000", "p_0001"]


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    assert "does not exist" in mistakes_of(tmp_path / "nowhere")[0]
    assert "holds no training case" in mistakes_of(tmp_path)[0]
    touch(tmp_path, "imagesTs/t.mha", "labelsTs/t.mha")
    assert "holds no training case" in mistakes_of(tmp_path)[0]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.mha", "imagesTr/b.mha", "labelsTr/b.mha", "labelsTr/c.mha")
    touch(tmp_path, "imagesUn/b.mha", "imagesUn/d.mha", "imagesUn/e.mha", "imagesUn/e.nrrd")
    touch(tmp_path, "imagesVal/b.mha", "labelsVal/b.mha", "imagesTs/x.mha", "imagesTs/y.mha")
    expected = [
        "case a: imagesTr holds its image, labelsTr no label map",
        "case c: labelsTr holds its label map, imagesTr no image",
        "folder imagesUn: case e is there more than once; keep one (e.mha, e.nrrd)",
        "imagesTs: 2 images, but no folder labelsTs",
        "case b: is in the parts labelled and unlabelled; keep it in one",
        "case b: is in the parts labelled and validation; keep it in one",
    ]
    mistakes = mistakes_of(tmp_path)
    assert len(mistakes) == len(expected)
    for mistake, start in zip(mistakes, expected, strict=True):
        assert mistake.startswith(start)


def test_image_with_and_without_channel_is_not_merged(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.mha", "imagesTr/a_0000.mha", "labelsTr/a.mha")
    assert mistakes_of(tmp_path)[0].startswith("case a_0000: imagesTr holds its image")


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(LayoutError(["one", "two"])))
    assert error.mistakes == ("one", "two")
    assert str(error) == "one\ntwo"


def test_content_hash_changes_with_whatever_would_be_read(tmp_path: Path) -> None:
    mhd = save_scan(tmp_path / "a.mhd", seed=1)
    before = content_hash(mhd)
    assert content_hash(mhd) == before
    save_scan(tmp_path / "b.mhd", seed=2)
    (tmp_path / "b.zraw").replace(tmp_path / "a.zraw")
    assert content_hash(mhd) != before
    touch(tmp_path, "series/1.dcm", "series/2.dcm")
    before = content_hash(tmp_path / "series")
    (tmp_path / "series" / "2.dcm").write_bytes(b"x")
    changed = content_hash(tmp_path / "series")
    assert changed != before
    touch(tmp_path, "series/.DS_Store")
    assert content_hash(tmp_path / "series") == changed
    with pytest.raises(ValueError, match="does not exist"):
        content_hash(tmp_path / "nowhere.mha")


def test_an_entry_that_breaks_its_reader_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "log"))
    for name in ("a.mha", "b.mha"):
        (tmp_path / "imagesUn").mkdir(exist_ok=True)
        (tmp_path / "imagesUn" / name).touch()
    check = client.data.folder.layout.check_entry

    def breaks(path: Path, location: str) -> None:
        if path.name == "b.mha":
            raise KeyError("Doe^Jane")
        check(path, location)

    monkeypatch.setattr(client.data.folder.layout, "check_entry", breaks)
    survey = survey_folder(tmp_path)
    assert [case.name for case in survey.cases] == ["a"]
    (refusal,) = survey.refused
    assert (refusal.case, refusal.problem.rule) == ("b", "unexpected")
    assert "for a reason that this program did not expect (KeyError in" in str(refusal.problem)
    assert "Doe" not in str(refusal.problem)
