"""A run's folder: what it holds, who holds it, and what is written into it."""

import fcntl
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from memory_grid import RUN, MemoryGrid, Site, same
from round_records import round_record

from protocol.config.study import StudyProtocol
from protocol.model_io import load_model
from protocol.wire.reports import SiteFacts
from server.monitoring.follow import read_events
from server.monitoring.run_folder import (
    CheckpointWatcher,
    EventWriter,
    RunError,
    RunFacts,
    RunFolder,
)
from server.rounds.checkpoint import load_checkpoint
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher, Watchers

MakeProtocol = Callable[..., StudyProtocol]

FACTS = RunFacts(name="one", mlflow_uri="sqlite:///x.db", expected_sites=3)
PROTOCOL = StudyProtocol(seed=9, organs={"bladder": 3})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "one")
    made.create(FACTS, PROTOCOL)
    return made


# ---- what was decided ---------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_made(folder: RunFolder) -> None:
    assert folder.read() == (FACTS, PROTOCOL)
    assert sorted(os.listdir(folder.path)) == ["protocol.json", "run.json"]
    later = FACTS.model_copy(update={"flower_run_id": 2**63 + 5})
    folder.write(later)
    assert folder.read() == (later, PROTOCOL)


def test_there_is_one_run_of_a_name(folder: RunFolder) -> None:
    other = RunFacts(name="one", mlflow_uri="")
    with pytest.raises(RunError, match=r"run one: is there already; .* --name, or --resume it"):
        folder.create(other, PROTOCOL.model_copy(update={"seed": 1}))
    assert folder.read() == (FACTS, PROTOCOL)


def test_a_missing_run_is_reported_with_those_that_are_there(folder: RunFolder) -> None:
    RunFolder(folder.path.parent / "two").create(FACTS, PROTOCOL)
    (folder.path.parent / "no-run").mkdir()
    with pytest.raises(RunError, match=r"^run tree: has no run.json; .*: one, two$"):
        RunFolder(folder.path.parent / "tree").read()
    with pytest.raises(RunError, match="runs of this centre: none"):
        RunFolder(folder.path.parent / "none" / "tree").read()


def test_a_damaged_run_is_reported(folder: RunFolder) -> None:
    (folder.path / "run.json").write_text('{"name": "one", "mlflow": "x"}')
    with pytest.raises(RunError, match="mlflow_uri") as found:
        folder.read()
    assert "unknown key" in str(found.value)  # all mistakes at once
    folder.write(FACTS)
    (folder.path / "protocol.json").unlink()
    with pytest.raises(RunError, match=r"run one: has no protocol.json"):
        folder.read()


# ---- who holds it -------------------------------------------------------------------------------


def hold(path: Path, line: Connection) -> None:
    """Another process's work on a run."""
    with RunFolder(path).lock():
        line.send("holding")
        line.recv()


@contextmanager
def other_process(folder: RunFolder) -> Iterator[tuple[Any, Connection]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(folder.path, there))
    process.start()
    try:
        assert here.poll(60)
        assert here.recv() == "holding"
        yield process, here
    finally:
        process.kill()
        process.join()


def test_one_process_works_on_a_run(folder: RunFolder) -> None:
    assert not folder.at_work()
    with other_process(folder) as (process, _):
        assert folder.at_work()
        refused = pytest.raises(RunError, match=r"at work on it; follow .* --follow, or .* --stop")
        with refused, folder.lock():
            pytest.fail("two processes hold one run")
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not folder.at_work()
    with folder.lock():
        pass


def test_a_run_that_is_given_back_can_be_taken(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), folder.lock():
        assert folder.at_work()
        _ = 1 / 0
    assert not folder.at_work()


def test_asking_who_is_at_work_refuses_nobody(folder: RunFolder) -> None:
    """Whoever follows a run holds its lock, shared, for an instant; a ServerApp waits that long."""
    looking, looked = threading.Event(), threading.Event()

    def look() -> None:
        with (folder.path / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            looking.set()
            looked.wait(0.2)

    follower = threading.Thread(target=look)
    follower.start()
    assert looking.wait(5)
    assert not folder.at_work()
    with folder.lock():
        assert folder.at_work()
    follower.join()


# ---- events -------------------------------------------------------------------------------------


def test_events_come_back_in_order(folder: RunFolder) -> None:
    assert read_events(folder.events) == []
    folder.add_event("started", sites=["A", "Ä"])
    folder.add_event("stopped", reason="line\nbreak")
    first, second = read_events(folder.events)
    assert (first["kind"], first["sites"]) == ("started", ["A", "Ä"])
    assert second["reason"] == "line\nbreak"
    assert first["time"] <= second["time"]


@pytest.mark.parametrize("torn", ['{"kind": "rou', "{", '{"kind": "round"}'])
def test_a_torn_last_line_is_not_read(folder: RunFolder, torn: str) -> None:
    folder.add_event("started")
    with folder.events.open("a") as file:
        file.write(torn)
    assert [event["kind"] for event in read_events(folder.events)] == ["started"]


def test_what_follows_a_torn_line_can_be_read(folder: RunFolder) -> None:
    folder.add_event("started")
    with folder.events.open("a") as file:
        file.write('{"kind": "rou')  # the power failed, or the disk was full
    folder.add_event("started")
    folder.add_event("finished")
    kinds = [event["kind"] for event in read_events(folder.events)]
    assert kinds == ["started", "started", "finished"]


# ---- watchers -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("flower_task", "clock")
def test_what_a_study_leaves_in_its_folder(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol(training={"rounds": 3})
    folder = RunFolder(tmp_path / "one")
    folder.create(FACTS, protocol)
    seen: list[tuple[int, ...]] = []

    class Reader(Watcher):
        """What is there when the other watchers are told."""

        def round_finished(self, record: StudyRecord) -> None:
            saved = load_checkpoint(folder.path)
            assert saved is not None
            assert same(load_model(folder.path / "model" / "final")[1], record.segmenter)
            facts = json.loads((folder.path / "model" / "best" / "model.json").read_text())
            seen.append((len(saved.rounds), facts["round"]))

    sites = [Site(n, protocol, dsc=(0.2, 0.8, 0.5), registered_as=n) for n in "AB"]
    record = run_study(
        MemoryGrid(sites),
        new_record(protocol, run=RUN),
        Watchers([CheckpointWatcher(folder.path), EventWriter(folder), Reader()]),
        expected_sites=2,
    )
    assert seen == [(1, 1), (2, 2), (3, 2)]
    assert same(load_model(folder.path / "model" / "best")[1], record.best_segmenter)
    final = json.loads((folder.path / "model" / "final" / "model.json").read_text())
    assert (final["run"], final["round"]) == (RUN, 3)
    best = json.loads((folder.path / "model" / "best" / "model.json").read_text())
    assert best["validation_dsc"] == pytest.approx(0.8)

    events = read_events(folder.events)
    kinds = [event["kind"] for event in events]
    a_round = ["called", "answered", "answered"] * 2 + ["round"]
    assert kinds == ["online", "called", "answered", "answered", "started", *a_round * 3]
    assert (events[0]["sites"], events[0]["awaited"]) == (["A", "B"], 2)
    started = events[4]
    assert (started["round"], started["rounds"], started["sites"]) == (0, 3, ["A", "B"])
    last = events[-1]
    assert last["line"].startswith("round   3/3  sites 2")
    assert last["validation_dsc"]["A"] == pytest.approx({"ball": 0.5, "rod": 0.5})
    assert last["mean_validation_dsc"] == pytest.approx(0.5)
    assert last["seconds"] == record.rounds[-1].seconds
    assert last["seconds_by_site"] == {s: r.seconds for s, r in record.rounds[-1].reports.items()}
    assert last["losses"].keys() == {"A", "B"}
    declared = record.facts["A"]
    assert started["cases"]["A"] == {
        "labelled": declared.labelled,
        "unlabelled": declared.unlabelled,
        "validation": declared.validation,
        "test": declared.test,
        "refused": {},
    }
    # What has been written once is not written with every round.
    assert [event["cases"] for event in events if event["kind"] == "round"] == [{}, {}, {}]


def test_a_round_says_who_has_joined_and_where_its_numbers_are(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = make_protocol(training={"rounds": 3})
    record = new_record(protocol, run=RUN)
    folder = RunFolder(tmp_path / "one")
    folder.create(FACTS, protocol)
    tracked = iter(["", "a1"])
    writer = EventWriter(folder, lambda: next(tracked))
    a = SiteFacts(labelled=3, unlabelled=1, validation=0, test=2, refused={"grid": 4})
    record.facts = {"A": a}
    writer.study_started(record)
    record.rounds.append(round_record(protocol, 1))
    writer.round_finished(record)
    record.facts = {"A": a, "B": replace(a, labelled=9)}
    record.rounds.append(round_record(protocol, 2))
    writer.round_finished(record)
    started, first, second = read_events(folder.events)
    assert started["cases"]["A"]["refused"] == {"grid": 4}
    assert (first["cases"], first["mlflow_run"]) == ({}, "")
    assert [(s, c["labelled"]) for s, c in second["cases"].items()] == [("B", 9)]
    assert (second["mlflow_run"], second["mean_validation_dsc"]) == ("a1", 0.7)
    # No sum is of nothing.
    assert second["losses"] == {"A": {"dice": 0.25}}


def test_what_is_wrong_at_the_end_is_an_event(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol(training={"rounds": 2})
    record = new_record(protocol, run=RUN)
    record.rounds += [round_record(protocol, number) for number in (1, 2)]
    record.best_round = 2
    folder = RunFolder(tmp_path / "one")
    folder.create(FACTS, protocol)
    EventWriter(folder).study_finished(record)
    (event,) = read_events(folder.events)
    assert event["kind"] == "hint"
    # The rod was missed in one of two cases, which says nothing after so few steps.
    assert event["line"].startswith("no site trained for more than 4 steps, too few to learn from")


def test_all_watchers_are_notified_in_order(make_protocol: MakeProtocol) -> None:
    told: list[tuple[str, str]] = []
    events = [name for name in vars(Watcher) if not name.startswith("_")]

    class Ear(Watcher):
        def __init__(self, name: str) -> None:
            for event in events:
                setattr(self, event, lambda *_, event=event: told.append((name, event)))

    both = Watchers([Ear("1"), Ear("2")])
    record = new_record(make_protocol(), run=RUN)
    both.sites_online(["A"], 2)
    both.site_waits("A", "is not approved")
    both.study_started(record)
    both.sites_called(1, "train", ["A"])
    both.site_answered(1, "A", 1, 1)
    both.round_finished(record)
    both.study_finished(record)
    assert sorted(told) == sorted((name, event) for event in events for name in "12")
    assert [name for name, _ in told] == ["1", "2"] * len(events)
