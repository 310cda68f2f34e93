"""A study file changes the preset that it names, at any depth, and what is sent is whole."""

from pathlib import Path

import pytest

from protocol.config.presets import PRESET_NAMES, PresetName, preset
from protocol.config.study import ProtocolError, StudyProtocol, merged
from protocol.config.study_file import read_study


def read(folder: Path, text: str) -> StudyProtocol:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return read_study(path)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_base_alone_is_the_preset_under_the_studys_name(tmp_path: Path, name: PresetName) -> None:
    assert read(tmp_path, f"base: {name}") == preset(name).model_copy(update={"name": "asdnet"})


def test_without_a_base_the_keys_change_the_paper(tmp_path: Path) -> None:
    text = "training: {rounds: 9}\n"
    assert read(tmp_path, text) == merged(StudyProtocol(), {"training": {"rounds": 9}})
    assert read(tmp_path, "base: paper\n" + text) == read(tmp_path, text)


def test_keys_change_the_base_at_any_depth(tmp_path: Path) -> None:
    text = "name: knee\nbase: planned\ntraining: {ramp: {length: 0.1}, flips: []}\nseed: 4\n"
    changes = {"name": "knee", "seed": 4, "training": {"ramp": {"length": 0.1}, "flips": ()}}
    found = read(tmp_path, text)
    assert found == merged(preset("planned"), changes)
    assert found.training.ramp.region_start == preset("planned").training.ramp.region_start
    assert found.training.views == "strong"


def test_organs_are_the_files_own(tmp_path: Path) -> None:
    found = read(tmp_path, "base: quick\norgans: {meniscus: 2}\n")
    assert found.organs == {"meniscus": 2}
    assert "organs" in found.model_fields_set
    # Who compares a folder's organs with a study's must know whether anybody has said them.
    assert "organs" not in read(tmp_path, "base: quick").model_fields_set


def test_the_base_is_no_part_of_what_is_sent(tmp_path: Path) -> None:
    found = read(tmp_path, "base: quick\n")
    assert "base" not in found.canonical_json()
    assert StudyProtocol.model_validate_json(found.canonical_json()).digest == found.digest


@pytest.mark.parametrize(
    ("text", "said"), [("fast", "'fast'"), ("", "None"), ("[quick]", "['quick']")]
)
def test_an_unknown_base_is_one_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(tmp_path, f"base: {text}\nsed: 3\n")
    assert str(caught.value) == (
        f"{tmp_path}/study.yaml: base: must be one of smoke, quick, planned, paper, not {said}; "
        "without it the other keys change the paper's study"
    )


def test_mistakes_beside_a_base_are_told_at_once(tmp_path: Path) -> None:
    text = "base: quick\nsed: 3\nseed: {a: 1}\ntraining: {rounds: 0, ramp: 5}\nmethod:\n"
    with pytest.raises(ProtocolError) as caught:
        read(tmp_path, text)
    lines = str(caught.value).splitlines()
    where = [line.split(": ")[1] for line in lines]
    assert sorted(where) == ["method", "sed", "seed", "training.ramp", "training.rounds"]


def test_a_preset_is_not_changed_by_a_file(tmp_path: Path) -> None:
    before = preset("quick").digest
    read(tmp_path, "base: quick\ntraining: {rounds: 3}\nnetwork: {width: 4}\n")
    assert preset("quick").digest == before
