"""One run from the ServerApp's side: what it takes up, and its last word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from memory_grid import MemoryGrid, Site, error, same
from signed_studies import SigningCentre

from protocol.agreement.digests import weights_digest
from protocol.agreement.manifest import StudyFile
from protocol.agreement.statements import SignedStatement, Statement
from protocol.agreement.statements import sign as sign_statement
from protocol.audit.verification import verify
from protocol.config.study import StudyProtocol
from protocol.keys import make_key, openssh_fingerprint, openssh_line
from protocol.model_io import load_model
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    read_plan,
    read_site_name,
)
from protocol.wire.proofs import add_statement, read_study_file
from protocol.wire.weights import raw_weights
from server.app import serve
from server.monitoring.follow import read_events
from server.monitoring.run_folder import RunError, RunFacts, RunFolder
from server.monitoring.wanted import want
from server.rounds.checkpoint import CheckpointError, load_checkpoint
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")


class NoTracker(Watcher):
    """Stands for MLflow."""

    made: list[tuple[Any, ...]]
    run_id = "a1"

    def __init__(self, *arguments: Any, run_name: str, tags: dict[str, str]) -> None:
        self.made.append((*arguments, run_name))

    def pending(self, record: StudyRecord) -> int:
        return 7


@pytest.fixture(autouse=True)
def tracker(monkeypatch: pytest.MonkeyPatch) -> type[NoTracker]:
    NoTracker.made = []
    monkeypatch.setattr("server.app.MlflowWatcher", NoTracker)
    return NoTracker


def make(centre: Path, protocol: StudyProtocol, uri: str = "x://") -> RunFolder:
    folder = RunFolder(centre / "runs" / "one")
    folder.create(RunFacts(name="one", mlflow_uri=uri, expected_sites=2), protocol)
    return folder


def sites(protocol: StudyProtocol) -> list[Site]:
    return [Site(name, protocol) for name in "AB"]


def test_a_run_to_its_end(
    make_protocol: MakeProtocol, tmp_path: Path, tracker: type[NoTracker]
) -> None:
    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    serve(MemoryGrid(sites(protocol)), tmp_path, "one")
    last = read_events(folder.events)[-1]
    assert (last["kind"], last["unsent"]) == ("finished", 7)
    rounds = [event for event in read_events(folder.events) if event["kind"] == "round"]
    assert [event["mlflow_run"] for event in rounds] == ["a1", "a1"]
    record = load_checkpoint(folder.path)
    assert record is not None
    assert (record.run, len(record.rounds)) == ("one", 2)
    assert load_model(folder.path / "model" / "final")[0] == protocol
    assert tracker.made == [("x://", tmp_path / "mlartifacts", "tiny", "one")]
    assert len(verify(tmp_path / "audit.jsonl").entries) == 2 * (1 + 2 * 2) * 2
    assert not folder.at_work()


def test_a_tracking_server_keeps_the_artifacts_itself(
    make_protocol: MakeProtocol, tmp_path: Path, tracker: type[NoTracker]
) -> None:
    protocol = make_protocol()
    make(tmp_path, protocol, "https://mlflow.example.org")
    serve(MemoryGrid(sites(protocol)), tmp_path, "one")
    assert tracker.made == [("https://mlflow.example.org", None, "tiny", "one")]


def test_a_run_that_stops_can_go_on(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol(training={"rounds": 3})
    folder = make(tmp_path, protocol)
    group = sites(protocol)
    fails = error("MemoryError")
    group[1].spoil["train"] = lambda m, c: fails(m, c) if len(group[1].rounds) > 1 else c
    serve(MemoryGrid(group), tmp_path, "one")
    last = read_events(folder.events)[-1]
    assert last["kind"] == "stopped"
    assert "B (MemoryError)" in last["reason"]
    serve(MemoryGrid(sites(protocol)), tmp_path, "one")
    kinds = [event["kind"] for event in read_events(folder.events)]
    assert [kind for kind in kinds if kind in ("started", "round", "stopped", "finished")] == [
        *("started", "round", "stopped"),
        *("started", "round", "round", "finished"),
    ]
    make(tmp_path / "whole", protocol)
    serve(MemoryGrid(sites(protocol)), tmp_path / "whole", "one")
    found = load_checkpoint(folder.path)
    whole = load_checkpoint(tmp_path / "whole" / "runs" / "one")
    assert found is not None
    assert whole is not None
    assert same(found.segmenter, whole.segmenter)


def test_a_run_rests_between_two_rounds_and_goes_on(
    make_protocol: MakeProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = make_protocol(training={"rounds": 3})
    folder = make(tmp_path, protocol)
    finished: list[int] = []
    monkeypatch.setattr(
        NoTracker, "study_finished", lambda self, record: finished.append(len(record.rounds))
    )

    def pauses(message: Message, content: RecordDict) -> RecordDict:
        if read_plan(message.content).round == 2:
            want(folder.path, "paused")
        return content

    group = sites(protocol)
    group[0].spoil["train"] = pauses
    serve(MemoryGrid(group), tmp_path, "one")
    last = read_events(folder.events)[-1]
    assert (last["kind"], last["reason"]) == ("paused", "paused by a person")
    found = load_checkpoint(folder.path)
    assert found is not None and len(found.rounds) == 2, "its round was completed"
    assert finished == [], "nothing is closed"
    serve(MemoryGrid(sites(protocol)), tmp_path, "one")
    found = load_checkpoint(folder.path)
    assert found is not None and len(found.rounds) == 2, "it still rests"
    want(folder.path, "running")
    serve(MemoryGrid(sites(protocol)), tmp_path, "one")
    make(tmp_path / "whole", protocol)
    serve(MemoryGrid(sites(protocol)), tmp_path / "whole", "one")
    rested, whole = (
        load_checkpoint(path / "runs" / "one") for path in (tmp_path, tmp_path / "whole")
    )
    assert rested is not None and whole is not None
    assert same(rested.segmenter, whole.segmenter)
    assert finished == [3, 3]


def test_a_run_that_fails_says_so(
    make_protocol: MakeProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    monkeypatch.setattr("protocol.model_io.save_file", full)
    with pytest.raises(OSError, match="No space"):
        serve(MemoryGrid(sites(protocol)), tmp_path, "one")
    last = read_events(folder.events)[-1]
    assert (last["kind"], last["reason"]) == (
        "failed",
        "OSError: [Errno 28] No space left on device",
    )
    assert not folder.at_work()


def test_a_checkpoint_of_another_protocol_is_refused(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    serve(MemoryGrid(sites(protocol)), tmp_path, "one")
    other = make_protocol(seed=5)
    (folder.path / "protocol.json").write_text(other.model_dump_json())
    with pytest.raises(CheckpointError, match="run one: its checkpoint is of another protocol"):
        serve(MemoryGrid(sites(other)), tmp_path, "one")
    assert read_events(folder.events)[-1]["kind"] == "failed"


def test_a_damaged_checkpoint_does_not_begin_the_study_anew(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    (folder.path / "checkpoint.safetensors").write_bytes(b"half a")
    grid = MemoryGrid(sites(protocol))
    with pytest.raises(CheckpointError):
        serve(grid, tmp_path, "one")
    assert grid.pushed == []
    assert (folder.path / "checkpoint.safetensors").read_bytes() == b"half a"


def test_a_second_server_app_of_a_run_does_nothing(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    grid = MemoryGrid(sites(protocol))
    with folder.lock(), pytest.raises(RunError, match="a ServerApp is at work on it"):
        serve(grid, tmp_path, "one")
    assert grid.pushed == []
    assert read_events(folder.events) == []
    with pytest.raises(RunError, match=r"run two: has no run.json; runs of this centre: one"):
        serve(grid, tmp_path, "two")


# ---- what the centre has signed -----------------------------------------------------------------


def sign(
    folder: RunFolder,
    protocol: StudyProtocol,
    centre: SigningCentre | None = None,
    **changes: Any,
) -> StudyFile:
    """As `asdnet-centre run` leaves it."""
    centre = centre or SigningCentre("AB")
    centre.pin(folder.path.parents[1] / "study.pub")
    file = centre.study(protocol, **{"run": "one"} | changes)
    folder.write_study(file)
    return file


def signed_statement(message: Message, site: str, centre: SigningCentre) -> SignedStatement:
    """What a site's executor adds to its reply."""
    networks = {name: raw_weights(message.content, name) for name in (SEGMENTER, CONFIDENCE)}
    digests = {name: weights_digest(weights) for name, weights in networks.items() if weights}
    statement = Statement(
        run="one",
        round=read_plan(message.content).round,
        site=site,
        segmenter=digests[SEGMENTER],
        confidence=digests.get(CONFIDENCE, ""),
        audit_seq=1,
        audit_head="0" * 64,
    )
    return sign_statement(statement, centre.keys[site])


def test_every_instruction_carries_the_signed_manifest(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    centre = SigningCentre("AB")
    file = sign(folder, protocol, centre)
    seen: list[tuple[str, StudyFile]] = []
    group = sites(protocol)

    def look(message: Message, content: RecordDict) -> RecordDict:
        seen.append((message.metadata.message_type, read_study_file(message.content)))
        if message.metadata.message_type == "train":
            add_statement(content, signed_statement(message, read_site_name(content), centre))
        return content

    for site in group:
        site.spoil = dict.fromkeys(("query", "train", "evaluate"), look)
    serve(MemoryGrid(group), tmp_path, "one")
    assert {kind for kind, _ in seen} == {"query", "train", "evaluate"}
    assert all(sent == file for _, sent in seen)


def test_the_private_key_is_not_needed(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol()
    sign(make(tmp_path, protocol), protocol)
    assert not (tmp_path / "study.key").exists()
    serve(MemoryGrid(sites(protocol)), tmp_path, "one")


@pytest.mark.parametrize(
    "changes", [{"run": "other"}, {"protocol_digest": "0" * 64}], ids=["run", "protocol"]
)
def test_a_manifest_of_another_study_is_refused(
    make_protocol: MakeProtocol, tmp_path: Path, changes: dict[str, Any]
) -> None:
    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    sign(folder, protocol, **changes)
    grid = MemoryGrid(sites(protocol))
    with pytest.raises(RunError, match="its manifest is of another run or protocol"):
        serve(grid, tmp_path, "one")
    assert grid.pushed == []
    assert read_events(folder.events)[-1]["kind"] == "failed"


def test_a_site_declares_no_more_than_sites_json_allows(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    key = make_key().public_key()
    entry = {
        "public_key": openssh_line(key),
        "fingerprint": openssh_fingerprint(key),
        "added": "2026-11-29T12:00:00Z",
    }
    entries = {"A": entry, "B": entry | {"max_cases": 1}, "C": entry | {"max_cases": 2}}
    (tmp_path / "sites.json").write_text(json.dumps(entries))
    protocol = make_protocol()
    folder = make(tmp_path, protocol)
    serve(MemoryGrid([*sites(protocol), Site("C", protocol)]), tmp_path, "one")
    events = read_events(folder.events)
    assert events[-1]["kind"] == "finished"
    (told,) = [e for e in events if e["kind"] == "waits"]
    assert told["why"].startswith(
        "site B declares 2 training cases, the centre has approved at most 1; if the hospital has"
    )
    record = load_checkpoint(folder.path)
    assert record is not None
    assert list(record.facts) == ["A", "C"]
