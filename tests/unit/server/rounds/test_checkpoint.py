"""A study's state on disk: back as it was, and whole or not there."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from made_scores import MISSED, seen, sums_of
from memory_grid import same

from asdnet_models.model_files import load_tensors
from asdnet_models.sums import OrganSums, SumCount
from protocol.agreement.average import Average
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.model_io import save_tensors
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from server.rounds.checkpoint import (
    CHECKPOINT_FILE,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from server.rounds.record import RoundRecord, StudyRecord

PROTOCOL = StudyProtocol(seed=9, organs={"bladder": 3})
S = {"a.weight": torch.tensor([[1.5, -2.0]]), "a.bias": torch.tensor([1e-30])}
D = {"d": torch.arange(4.0)}


def study() -> StudyRecord:
    """A study after two rounds, the first of which gave the best model."""
    scores = {"bladder": sums_of(0.1, seen(1 / 3, 1 / 7), MISSED)}
    evaluation = EvaluationReport(
        seconds=0.1,
        cases={"validation": 3, "test": 0},
        scores={"validation": scores, "test": {"bladder": OrganSums()}},
    )
    report = TrainReport(
        labelled=2,
        unlabelled=1,
        steps=5,
        seconds=1e-7,
        losses={"dice": SumCount(sum=0.1 + 0.2, count=5.0)},
        attention=SumCount(sum=1e300, count=3.0),
    )
    rounds = [
        RoundRecord(
            plan=plan_round(PROTOCOL, number, organ_box=(0.1, 0.2, 0.3, 0.7, 0.8, 0.9)),
            seconds=2.5,
            bytes_down={"A": 70},
            bytes_up={"A": 60},
            reports={"A": report},
            left_out={"B": "offline"},
            finished_at=1.7e9 + 0.1,
            evaluation={"A": evaluation} if number == 1 else None,
            validation_dsc=0.1 + 0.2 if number == 1 else None,
        )
        for number in (1, 2)
    ]
    box = (SumCount(sum=1 / 3, count=2.0),) * 6
    return StudyRecord(
        run="hospital-study-1",
        protocol=PROTOCOL,
        facts={"A": SiteFacts(labelled=2, unlabelled=1, validation=2, test=0, box=box)},
        segmenter={name: tensor + 1 for name, tensor in S.items()},
        confidence=D,
        attention=1 / 7,
        rounds=rounds,
        best_round=1,
        best_dsc=0.1 + 0.2,
        best_segmenter=S,
        best_confidence=D,  # the very tensors of the last model
    )


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def fails(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def damages() -> dict[str, bytes]:
    """What may have become of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), study())
        whole = (Path(folder) / CHECKPOINT_FILE).read_bytes()
    return {
        "empty": b"",
        "a few bytes": whole[:7],
        "header torn": whole[:200],
        "a byte short": whole[:-1],
        "a byte long": whole + b"\0",
        "another file": b"PK\x03\x04" + whole,
        "header garbled": whole[:8] + b"\xff" * 64 + whole[72:],
        "zeros": bytes(len(whole)),
        "facts garbled": whole.replace(b"hospital-study-1", b'hospital"tudy-1'),
        "older version": whole.replace(b'"attention":', b'"attentive":'),
    }


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    record = study()
    save_checkpoint(tmp_path, record)
    found = load_checkpoint(tmp_path)
    assert found is not None
    for part in ("segmenter", "confidence", "best_segmenter", "best_confidence"):
        assert same(getattr(found, part), getattr(record, part))
    for part in ("run", "protocol", "facts", "rounds", "attention", "best_round", "best_dsc"):
        assert getattr(found, part) == getattr(record, part)
    assert names(tmp_path) == [CHECKPOINT_FILE]


def test_the_average_comes_back_to_the_bit(tmp_path: Path) -> None:
    record = study()
    record.average = Average(weights=S, round=2, mass=1 + 0.9)
    save_checkpoint(tmp_path, record)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.average is not None
    assert same(found.average.weights, S)
    assert (found.average.round, found.average.mass) == (2, 1 + 0.9)
    assert same(found.judged, S)


def test_without_an_average_the_weights_are_judged(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, study())
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.average is None
    assert found.judged is found.segmenter


def test_a_study_of_which_nothing_was_scored_comes_back(tmp_path: Path) -> None:
    record = study()
    record.confidence = record.best_segmenter = record.best_confidence = None
    record.best_round = record.best_dsc = None
    save_checkpoint(tmp_path, record)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.confidence is found.best_segmenter is found.best_confidence is None
    assert found.best_round is found.best_dsc is None


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_checkpoint_is_reported(tmp_path: Path, damage: str) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(damages()[damage])
    with pytest.raises(CheckpointError, match=CHECKPOINT_FILE):
        load_checkpoint(tmp_path)


def test_scores_of_before_the_surface_dice_are_of_another_version(tmp_path: Path) -> None:
    """Their failures have no kind: such a study ends with the version that began it."""
    save_checkpoint(tmp_path, study())
    tensors, texts = load_tensors(tmp_path / CHECKPOINT_FILE)
    rounds = json.loads(texts["rounds"])
    for evaluation in filter(None, (item["evaluation"] for item in rounds)):
        for report in evaluation.values():
            report["dsc"] = report["asd_mm"] = report.pop("scores")
    save_tensors(tmp_path / CHECKPOINT_FILE, tensors, texts | {"rounds": json.dumps(rounds)})
    with pytest.raises(CheckpointError, match="is not a checkpoint of this version"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync", "protocol.model_io.save_file"])
def test_a_death_in_the_middle_leaves_the_old_checkpoint_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    record = study()
    save_checkpoint(tmp_path, record)
    monkeypatch.setattr(failing, fails)
    record.attention = 0.5
    record.segmenter = {name: tensor * 3 for name, tensor in record.segmenter.items()}
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, record)
    monkeypatch.undo()
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.attention == 1 / 7
    assert same(found.segmenter, study().segmenter)
    assert names(tmp_path) == [CHECKPOINT_FILE]
