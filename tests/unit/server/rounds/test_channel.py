"""What the centre notes of every message, against what the site knows of it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, Error, Message, RecordDict
from memory_grid import RUN, Answer, Clock, MemoryGrid, Site, Witness, error, silence

from protocol.audit.log import AuditEntry, AuditError, AuditLog
from protocol.audit.verification import verify
from protocol.config.study import StudyProtocol
from protocol.wire.description import Description
from protocol.wire.messages import SEGMENTER
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread")


def run(sites: list[Site], protocol: StudyProtocol, log: Path) -> StudyRecord:
    record = new_record(protocol, run=RUN)
    return run_study(
        MemoryGrid(sites), record, Witness(), expected_sites=len(sites), audit=AuditLog(log)
    )


def of(entries: list[AuditEntry], site: Site, *directions: str) -> Counter[tuple[Any, ...]]:
    """Entries about one site, by all that both sides can know."""
    return Counter(
        (e.what, e.round, e.sha256, e.bytes, tuple(sorted(e.items.items())))
        for e in entries
        if e.peer == site.name and e.direction in directions
    )


def known(descriptions: list[Description]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (d["what"], d["round"], d["sha256"], d["bytes"], tuple(sorted(d["items"].items())))
        for d in descriptions
    )


def test_every_message_is_in_the_log_once_as_the_site_knows_it(
    make_protocol: MakeProtocol, clock: Clock, tmp_path: Path
) -> None:
    protocol = make_protocol()
    sites = [Site(n, protocol, step=0.01 + 0.001 * ord(n), registered_as=n) for n in "ABC"]
    run(sites, protocol, tmp_path / "audit.jsonl")
    assert verify(tmp_path / "audit.jsonl").faults == ()
    entries = verify(tmp_path / "audit.jsonl").entries
    # A declaration, then two rounds of training and scoring; each out and back.
    assert len(entries) == len(sites) * (1 + 2 * 2) * 2
    assert {entry.direction for entry in entries} == {"sent", "received"}
    assert {entry.run for entry in entries} == {RUN}
    for site in sites:
        assert of(entries, site, "sent") == known(site.received)
        assert of(entries, site, "received") == known(site.sent)
        assert set(of(entries, site, "sent").values()) == {1}
    replies = [e for e in entries if e.what == "train reply"]
    assert len({entry.sha256 for entry in replies}) == 6
    assert [(e.what, e.round) for e in entries if e.peer == "A"] == [
        ("facts instruction", 0),
        ("facts reply", 0),
        ("train instruction", 1),
        ("train reply", 1),
        ("evaluate instruction", 1),
        ("evaluate reply", 1),
        ("train instruction", 2),
        ("train reply", 2),
        ("evaluate instruction", 2),
        ("evaluate reply", 2),
    ]


def test_a_refused_reply_is_logged_as_such_and_why(
    make_protocol: MakeProtocol, clock: Clock, tmp_path: Path
) -> None:
    def nan(_: Message, content: RecordDict) -> Answer:
        name, array = min(content[SEGMENTER].items())
        content[SEGMENTER][name] = Array(array.numpy() * float("nan"))
        return content

    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(n, protocol, registered_as=n) for n in "ABC"]
    sites[2].spoil["train"] = nan
    record = run(sites, protocol, tmp_path / "audit.jsonl")
    entries = verify(tmp_path / "audit.jsonl").entries
    refused = [entry for entry in entries if entry.direction == "refused"]
    assert [(e.peer, e.what, e.reason) for e in refused] == [
        ("C", "train reply", record.rounds[0].left_out["C"])
    ]
    assert of(entries, sites[2], "received", "refused") == known(sites[2].sent)
    assert of(entries, sites[0], "refused") == Counter()


def test_errors_and_every_further_attempt_are_logged(
    make_protocol: MakeProtocol, clock: Clock, tmp_path: Path
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(n, protocol, registered_as=n) for n in "ABC"]
    sites[2].spoil["train"] = error("ClientAppCrashed")
    run(sites, protocol, tmp_path / "audit.jsonl")
    found = [
        (e.direction, e.what, e.reason)
        for e in verify(tmp_path / "audit.jsonl").entries
        if e.peer == "C" and e.what.startswith("train")
    ]
    assert found == 3 * [
        ("sent", "train instruction", ""),
        ("received", "train error reply", "ClientAppCrashed"),
    ]


def test_what_was_never_answered_was_sent_only(
    make_protocol: MakeProtocol, clock: Clock, tmp_path: Path
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(n, protocol, registered_as=n) for n in "ABC"]
    sites[2].spoil["train"] = silence
    run(sites, protocol, tmp_path / "audit.jsonl")
    found = [
        e.direction
        for e in verify(tmp_path / "audit.jsonl").entries
        if e.peer == "C" and e.what.startswith("train")
    ]
    assert found == ["sent"]


def test_a_late_declaration_is_logged_too(
    make_protocol: MakeProtocol, clock: Clock, tmp_path: Path
) -> None:
    protocol = make_protocol(training={"rounds": 3})
    grid = MemoryGrid(Site(n, protocol, registered_as=n) for n in "AB")
    late = Site("C", protocol, registered_as="C")
    witness = Witness(after={1: lambda: grid.add(late)})
    audit = AuditLog(tmp_path / "audit.jsonl")
    run_study(grid, new_record(protocol, run=RUN), witness, expected_sites=2, audit=audit)
    entries = verify(tmp_path / "audit.jsonl").entries
    assert of(entries, late, "sent") == known(late.received)
    assert of(entries, late, "received") == known(late.sent)
    assert len(late.sent) == 5


def test_what_cannot_be_logged_is_not_sent(
    make_protocol: MakeProtocol, clock: Clock, tmp_path: Path
) -> None:
    class FullDisk(AuditLog):
        def append(self, *_: Any, **__: Any) -> AuditEntry:
            raise AuditError("no space left")

    protocol = make_protocol()
    grid = MemoryGrid(Site(n, protocol) for n in "AB")
    with pytest.raises(AuditError, match="no space left"):
        run_study(
            grid,
            new_record(protocol, run=RUN),
            Witness(),
            expected_sites=2,
            audit=FullDisk(tmp_path / "audit.jsonl"),
        )
    assert grid.pushed == []


def test_the_watcher_is_notified_of_every_call_and_every_answer(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    class Counting(Witness):
        answers: list[tuple[int, str, int, int]]

        def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
            self.answers.append((round_number, site, done, expected))

    protocol = make_protocol(training={"rounds": 1})
    watcher = Counting()
    watcher.answers = []
    crashed = iter([Error(8, "ClientAppCrashed")])
    sites = [Site(n, protocol, registered_as=n) for n in "AB"]
    sites[0].spoil["train"] = lambda _, content: next(crashed, content)
    run_study(MemoryGrid(sites), new_record(protocol, run=RUN), watcher, expected_sites=2)
    assert watcher.called == [
        (0, "query", ["A", "B"]),
        (1, "train", ["A", "B"]),
        (1, "evaluate", ["A", "B"]),
    ]
    # A's crash is told as an answer, and leaves as many to come as before.
    assert [(number, site) for number, site, _, _ in watcher.answers].count((1, "A")) == 3
    for number, expected in ((0, 2), (1, 4)):
        told = [answer for answer in watcher.answers if answer[0] == number]
        assert len(told) == expected + number
        assert told[-1][2:] == (2, 2)
    assert (1, "A", 1, 2) in watcher.answers
