"""A trained model as files: back as it was, and whole or not there."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from asdnet_models.model_files import (
    MODEL_FILE,
    PROTOCOL_FILE,
    ModelFileError,
    read_model_files,
)
from protocol.config.study import StudyProtocol
from protocol.model_io import (
    load_model,
    model_digest,
    save_model,
)
from protocol.wire.weights import Weights

PROTOCOL = StudyProtocol(seed=9, organs={"bladder": 3})
S = {"a.weight": torch.tensor([[1.5, -2.0]]), "a.bias": torch.tensor([1e-30])}
D = {"d": torch.arange(4.0)}


FILES = sorted(["model.json", MODEL_FILE, PROTOCOL_FILE])


def same(one: Weights | None, other: Weights | None) -> bool:
    assert one is not None
    assert other is not None
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def fails(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "best"
    save_model(folder, PROTOCOL, S, D, {"round": 3, "dsc": 0.5})
    protocol, segmenter, confidence = load_model(folder)
    assert protocol == PROTOCOL
    assert protocol.digest == PROTOCOL.digest
    assert same(segmenter, S)
    assert same(confidence, D)
    assert json.loads((folder / "model.json").read_text()) == {
        "round": 3,
        "dsc": 0.5,
        "protocol_sha256": PROTOCOL.digest,
    }
    assert names(folder) == FILES


def test_a_study_without_d_saves_none(tmp_path: Path) -> None:
    save_model(tmp_path, PROTOCOL, S, None, {})
    assert load_model(tmp_path)[2] is None


def test_a_later_round_replaces_the_earlier(tmp_path: Path) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {"round": 1})
    later = {name: tensor + 1 for name, tensor in S.items()}
    save_model(tmp_path, PROTOCOL, later, D, {"round": 2})
    assert same(load_model(tmp_path)[1], later)
    assert json.loads((tmp_path / "model.json").read_text())["round"] == 2
    assert names(tmp_path) == FILES


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync", "protocol.model_io.save_file"])
def test_a_failure_in_the_middle_leaves_the_old_model_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {"round": 1})
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    monkeypatch.setattr(failing, fails)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path, PROTOCOL, {n: t * 2 for n, t in S.items()}, D, {"round": 2})
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_half_a_draft_of_weights_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_: Weights, path: Path, **__: Any) -> None:
        path.write_bytes(b"half")
        fails()

    monkeypatch.setattr("protocol.model_io.save_file", half)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path, PROTOCOL, S, D, {})
    assert names(tmp_path) == [PROTOCOL_FILE]
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path)


def test_model_json_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[str] = []
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        replaced.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    save_model(tmp_path, PROTOCOL, S, D, {"round": 1})
    assert sorted(replaced) == names(tmp_path)
    assert replaced[-1] == "model.json"


@pytest.mark.parametrize("missing", [PROTOCOL_FILE, MODEL_FILE])
def test_a_folder_without_a_model_is_reported(tmp_path: Path, missing: str) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {})
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {missing}; name a folder such as"):
        load_model(tmp_path)


def write_files(folder: Path, content: dict[str, Any]) -> str:
    """A protocol, and S's weights that say that they are of it; its digest."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / PROTOCOL_FILE).write_text(json.dumps(content))
    tensors = {f"segmenter/{name}": tensor for name, tensor in S.items()}
    facts = {"facts": json.dumps({"protocol_sha256": digest})}
    safetensors.torch.save_file(tensors, folder / MODEL_FILE, facts)
    return digest


def test_a_protocol_that_is_none_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"sed": 1})
    with pytest.raises(ModelFileError, match=f"{PROTOCOL_FILE}: is not a protocol"):
        load_model(tmp_path)


def test_weights_of_one_study_beside_the_protocol_of_another(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_model(one, PROTOCOL, S, D, {})
    save_model(other, PROTOCOL.model_copy(update={"seed": 10}), S, D, {})
    (other / MODEL_FILE).write_bytes((one / MODEL_FILE).read_bytes())
    with pytest.raises(ModelFileError, match="are of two studies; copy both from one"):
        load_model(other)
    assert same(load_model(one)[1], S)


def test_a_model_can_be_copied_to_where_it_is_needed(tmp_path: Path) -> None:
    save_model(tmp_path / "here", PROTOCOL, S, D, {})
    (tmp_path / "there").mkdir()
    for name in (PROTOCOL_FILE, MODEL_FILE):
        (tmp_path / "there" / name).write_bytes((tmp_path / "here" / name).read_bytes())
    assert same(load_model(tmp_path / "there")[1], S)


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    shared = {"all": base, "again": base, "half": base[:3]}
    save_model(tmp_path, PROTOCOL, shared, shared, {})
    _, segmenter, confidence = load_model(tmp_path)
    assert same(segmenter, shared)
    assert same(confidence, shared)


@pytest.mark.parametrize("damage", ["empty", "a few bytes", "a byte short", "zeros"])
def test_a_damaged_model_is_reported(tmp_path: Path, damage: str) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {})
    whole = (tmp_path / MODEL_FILE).read_bytes()
    damaged = {
        "empty": b"",
        "a few bytes": whole[:7],
        "a byte short": whole[:-1],
        "zeros": bytes(len(whole)),
    }
    (tmp_path / MODEL_FILE).write_bytes(damaged[damage])
    with pytest.raises(ModelFileError, match=MODEL_FILE):
        load_model(tmp_path)


def test_a_model_without_facts_is_of_no_study(tmp_path: Path) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {})
    (tmp_path / MODEL_FILE).write_bytes(safetensors.torch.save(S))
    with pytest.raises(ModelFileError, match="of two studies"):
        load_model(tmp_path)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {})
    expected = hashlib.sha256((tmp_path / MODEL_FILE).read_bytes()).hexdigest()
    assert model_digest(tmp_path) == expected


def test_a_model_of_an_earlier_form_of_the_protocol_is_still_read(tmp_path: Path) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {})
    content = json.loads((tmp_path / PROTOCOL_FILE).read_text())
    del content["contract"]
    digest = write_files(tmp_path, content)
    protocol, segmenter, _ = load_model(tmp_path)
    assert (protocol, read_model_files(tmp_path).protocol_sha256) == (PROTOCOL, digest)
    assert same(segmenter, S)


def test_the_saved_protocol_s_digest_is_the_protocol_s(tmp_path: Path) -> None:
    save_model(tmp_path, PROTOCOL, S, D, {})
    assert read_model_files(tmp_path).protocol_sha256 == PROTOCOL.digest
