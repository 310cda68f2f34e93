"""dataset.json of nnU-Net 2, nnU-Net 1 and the decathlon."""

import json
from pathlib import Path
from typing import Any

import pytest

from client.data.errors import ScanError
from client.data.folder.dataset_files import dataset_problems
from client.data.folder.dataset_json import (
    DatasetJson,
    organ_name,
    read_dataset_json,
)

NNUNET_2 = {
    "channel_names": {"0": "T2"},
    "labels": {"background": 0, "Prostate": 1, "Central Gland": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
DECATHLON = {
    "name": "Hippocampus",
    "tensorImageSize": "3D",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
    "numTraining": 2,
    "numTest": 1,
    "training": [
        {"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"}
        for n in (1, 2)
    ],
    "test": ["./imagesTs/case_3.nii.gz"],
}


def read(folder: Path, content: Any) -> DatasetJson:
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    described = read_dataset_json(folder)
    assert described is not None
    return described


def files(*names: str, suffix: str = ".nii.gz", folder: Path = Path("/x")) -> dict[str, Path]:
    return {name: folder / f"{name}{suffix}" for name in names}


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert read_dataset_json(tmp_path) is None


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    described = read(tmp_path, NNUNET_2)
    assert described.values == {"Prostate": 1, "Central Gland": 2}
    assert described.organs() == {"prostate": 1, "central_gland": 2}
    assert (described.channels, described.file_ending) == (("T2",), ".nii.gz")
    described = read(tmp_path, DECATHLON)
    assert described.organs() == {"anterior": 1, "posterior": 2}
    assert (described.channels, described.file_ending) == (("MRI",), None)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": "0", "gland": "1"},
        {"0": "BG", "1": "Gland"},
        {" 0 ": "clear", "1": "gland "},
    ],
)
def test_numbers_and_names_as_people_write_them(tmp_path: Path, labels: Any) -> None:
    assert read(tmp_path, {"labels": labels}).organs() == {"gland": 1}


@pytest.mark.parametrize(
    ("written", "name"),
    [("Non-enhancing Tumor", "non_enhancing_tumor"), (" T1 ", "t1"), ("kidney (l)", "kidney_l")],
)  # fmt: skip
def test_names_become_those_of_a_study(written: str, name: str) -> None:
    assert organ_name(written) == name


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "whole": [1, 2], "core": 2}, "regions of several values"),
        ({"background": 0, "gland": 1, "ignore": 2}, "ignores the value 2"),
        ({"background": 0, "4th ventricle": 1}, "beginning with a letter"),
        ({"background": 0, "Höhle": 1}, "must be lower-case letters"),
        ({"background": 0, "a b": 1, "a-b": 2}, "two of its labels are one name"),
        ({"background": 0, "a": 1, "b": 1}, "both have the value 1"),
        ({"background": 0, "a": 256}, "is not from 1 to 255"),
        ({"background": 0}, "none is given"),
        ({}, "has no `labels`"),
    ],
)
def test_labels_that_are_no_organs(tmp_path: Path, labels: Any, words: str) -> None:
    described = read(tmp_path, {"labels": labels})
    with pytest.raises(ScanError) as caught:
        described.organs()
    assert words in str(caught.value)
    assert caught.value.problem.rule == "values"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe{\x00}\x00"[:3], b"[1]", b'{"labels": {"a": 1.5}}', b"[" * 100_000,
        b'{"labels": {"a": true}}', b'{"labels": {"a": -1}}', b'{"labels": {"0": "a", "1": "a"}}',
        b'{"labels": [1]}', b'{"training": ["a"]}', b'{"numTraining": "many"}',
    ],
)  # fmt: skip
def test_a_file_that_says_nothing_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(ScanError, match=r"dataset\.json") as caught:
        read_dataset_json(tmp_path)
    assert caught.value.problem.rule == "format"
    assert "\n" not in str(caught.value)


def test_one_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ScanError, match="cannot be opened: No such file"):
        read_dataset_json(tmp_path)
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(ScanError, match="cannot be opened: Is a directory"):
        read_dataset_json(tmp_path)


def test_a_folder_that_is_as_described(tmp_path: Path) -> None:
    there = files("case_1", "case_2")
    for content in (NNUNET_2, DECATHLON):
        assert dataset_problems(read(tmp_path, content), there, there) == []
    windows = json.loads(json.dumps(DECATHLON).replace("./imagesTr/", "imagesTr\\\\"))
    assert dataset_problems(read(tmp_path, windows), there, there) == []
    # nnU-Net 1 lists case_1.nii.gz of a file case_1_0000.nii.gz; other tools list the file itself.
    channel = json.loads(json.dumps(DECATHLON).replace("case_1.nii.gz", "case_1_0000.nii.gz"))
    assert dataset_problems(read(tmp_path, channel), there, there) == []


def test_what_differs_is_all_told(tmp_path: Path) -> None:
    images, labels = (
        files("case_1", "case_4", suffix=".mha", folder=tmp_path / name)
        for name in ("imagesTr", "labelsTr")
    )
    for path in (*images.values(), *labels.values()):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    content = DECATHLON | {"file_ending": ".nii.gz", "modality": {"0": "T2", "1": "ADC"}}
    lines = [str(p) for p in dataset_problems(read(tmp_path, content), images, labels)]
    assert lines == [
        "dataset.json: names 2 channels a case, one can be read; keep the files of one channel, as"
        " case_0000, and name it alone (T2, ADC)",
        "dataset.json: `file_ending` is '.nii.gz', but 4 file(s) have another one; take them away,"
        " or correct it (imagesTr/case_1.mha, imagesTr/case_4.mha,"
        " labelsTr/case_1.mha, labelsTr/case_4.mha)",
        "dataset.json: `training` lists 1 case(s) that are not in imagesTr; add their files,"
        " or take them out of the list (case_2)",
        "dataset.json: `training` lists 1 case(s) that are not in labelsTr; add their files,"
        " or take them out of the list (case_2)",
        "dataset.json: `training` does not list 1 case(s) that are in imagesTr; list them, or"
        " take them out of the folder (case_4)",
    ]


def test_endings_and_counts(tmp_path: Path) -> None:
    there = files("case_1")
    (problem,) = dataset_problems(read(tmp_path, NNUNET_2), there, there)
    assert "`numTraining` is 2, but imagesTr holds 1 case(s)" in str(problem)
    (problem,) = dataset_problems(read(tmp_path, {"file_ending": ".png"}), there, there)
    assert "`file_ending` is '.png', which cannot be read" in str(problem)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"labels": {"background": 0, "a": 1}, "labels": {"a": 2}}', "has the key 'labels' twice"),
        ('{"labels": {"background": 0, "a": 1, "a": 2}}', "has the key 'a' twice"),
        ('{"labels": {"background": 1, "a": 2}}', "background is 1, must be 0"),
        ('{"labels": {"1": "background", "2": "a"}}', "background is 1, must be 0"),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(ScanError, match=said):
        read_dataset_json(tmp_path)
