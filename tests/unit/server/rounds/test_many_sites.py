"""The centre's memory and disk do not grow with the sites, and its result stays what it was."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from memory_grid import (
    RUN,
    Learner,
    MemoryGrid,
    Site,
    Witness,
    error,
    same,
    silence,
    study,
)

from protocol.config.study import StudyProtocol
from protocol.wire.compression import as_sent
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.weights import Weights
from server.rounds.aggregation import average, confidence_weights, segmenter_weights
from server.rounds.errors import QuorumError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.updates import RoundUpdates

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")


def tensors_alive(shape: torch.Size) -> int:
    """Float tensors of this shape, wherever they are."""
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == shape]
    return len({o.data_ptr() for o in found})


def messages_alive() -> int:
    gc.collect()
    return sum(
        isinstance(o, Message) and o.has_content() and bool(o.metadata.reply_to_message_id)
        for o in gc.get_objects()
    )


class Counting(MemoryGrid):
    """Looks, before each reply is handed over, at what is still in memory."""

    def __init__(self, sites: Iterable[Site], shape: torch.Size) -> None:
        super().__init__(sites)
        self._shape = shape
        self.updates: list[int] = []
        self.messages: list[int] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = list(message_ids)
        kind = self._messages[asked[0]].metadata.message_type
        if kind == "train":
            self.updates.append(tensors_alive(self._shape))
            self.messages.append(messages_alive())
        return super().pull_messages(asked)


@pytest.mark.parametrize("count", [3, 12])
def test_no_two_updates_are_in_memory_at_once(make_protocol: MakeProtocol, count: int) -> None:
    protocol = make_protocol(training={"rounds": 1}, evaluation={"every_rounds": 9})
    record = new_record(protocol, run=RUN)
    shape = max((w.shape for w in record.segmenter.values()), key=torch.Size.numel)
    grid = Counting([Site(f"S{n}", protocol) for n in range(count)], shape)
    before, kept = tensors_alive(shape), messages_alive()  # of earlier tests
    run_study(grid, record, Witness(), expected_sites=count)
    assert len(grid.updates) == count
    # The reply before, which the loop still has in its hand, and no more.
    assert max(grid.updates) <= before + 1
    assert max(grid.messages) <= kept + 1


class Keeping(Learner):
    """Remembers what it has sent."""

    def update(self, number: int, network: str, weights: Weights) -> Weights:
        self.last = getattr(self, "last", {})
        self.last[network] = super().update(number, network, weights)
        return self.last[network]


@pytest.mark.parametrize("last_first", [False, True])
def test_the_result_is_the_plain_average_to_the_bit(
    make_protocol: MakeProtocol, last_first: bool
) -> None:
    rules = {"rule": "mean", "max_norm_ratio": 99.0}
    protocol = make_protocol(training={"rounds": 1}, aggregation=rules)
    sites = [Keeping(name, protocol, labelled=2 + i % 3) for i, name in enumerate("KCAHBDFEGIJ")]
    record = study(sites, protocol, last_first=last_first)
    plan = record.rounds[0].plan
    shares = segmenter_weights(record.facts, plan, protocol.aggregation)
    updates = {site.name: site.last for site in sites}
    expected = average({s: u[SEGMENTER] for s, u in updates.items()}, shares)
    assert same(record.segmenter, expected)
    shares = confidence_weights(record.facts, protocol.aggregation)
    assert same(record.confidence, average({s: u[CONFIDENCE] for s, u in updates.items()}, shares))


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_formats_train_to_nearly_the_same(make_protocol: MakeProtocol, form: str) -> None:
    def run(wire: dict[str, object], last_first: bool = False) -> StudyRecord:
        protocol = make_protocol(wire=wire, training={"rounds": 3})
        return study([Site(n, protocol) for n in "ABC"], protocol, last_first=last_first)

    plain = run({"format": "fp32", "compress": 0})
    found = run({"format": form, "compress": 3})
    again = run({"format": form, "compress": 3}, last_first=True)
    assert same(found.segmenter, again.segmenter)  # whoever is first
    assert all(not item.left_out for item in found.rounds)
    for name, w in plain.segmenter.items():
        torch.testing.assert_close(found.segmenter[name], w, atol=2e-3, rtol=0)
    if form == "fp32":
        assert same(found.segmenter, plain.segmenter)
    ups = [sum(record.rounds[0].bytes_up.values()) for record in (plain, found)]
    downs = [sum(record.rounds[0].bytes_down.values()) for record in (plain, found)]
    assert ups[1] < ups[0]
    assert downs[1] < downs[0]
    # What is kept as the best is what was scored.
    assert same(found.best_segmenter, as_sent(found.segmenter, found.protocol.wire))


# ---- the disk -----------------------------------------------------------------------------------


def test_updates_are_on_the_disk_while_the_round_lasts(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = make_protocol(training={"rounds": 2})
    folder = tmp_path / "updates"
    seen: list[list[str]] = []

    class Looking(Witness):
        def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
            seen.append(sorted(os.listdir(folder)))

    grid = MemoryGrid([Site(n, protocol) for n in "AB"])
    record = new_record(protocol, run=RUN)
    run_study(grid, record, Looking(), expected_sites=2, updates=folder)
    both = [f"{site}.{network}.f32" for site in "AB" for network in (CONFIDENCE, SEGMENTER)]
    assert both in seen
    assert seen[-1] == []  # while the scores come
    assert not folder.exists()


@pytest.mark.parametrize("given", [True, False])
def test_a_study_that_stops_leaves_nothing(
    make_protocol: MakeProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    protocol = make_protocol()
    folder = tmp_path / "updates" if given else None
    for spoil in (error("LayoutError"), silence):
        sites = [Site("A", protocol), Site("B", protocol, spoil={"train": spoil})]
        with pytest.raises(QuorumError):
            run_study(
                MemoryGrid(sites),
                new_record(protocol, run=RUN),
                Witness(),
                expected_sites=2,
                updates=folder,
            )
        assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_is_cleared(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol(training={"rounds": 1})
    folder = tmp_path / "updates"
    folder.mkdir()
    (folder / "A.segmenter.f32").write_bytes(b"torn")
    (folder / "Z.segmenter.f32").write_bytes(b"of a site that is gone")
    record = new_record(protocol, run=RUN)
    grid = MemoryGrid([Site(n, protocol) for n in "AB"])
    run_study(grid, record, Witness(), expected_sites=2, updates=folder)
    assert same(record.segmenter, study([Site(n, protocol) for n in "AB"], protocol).segmenter)
    assert not folder.exists()


def test_a_study_ended_within_a_round_and_resumed_gives_the_same_bits(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    """The first try of round 2 breaks off when one update is in."""
    protocol = make_protocol(training={"rounds": 3})
    folder = tmp_path / "updates"
    record = new_record(protocol, run=RUN)

    class Killed(Exception):
        pass

    class Killer(Witness):
        def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
            # Of the round's training: its scores are asked for when there are no updates left.
            if round_number == 2 and done == 1 and os.listdir(folder):
                raise Killed

    with pytest.raises(Killed):
        run_study(
            MemoryGrid([Learner(n, protocol) for n in "ABC"]),
            record,
            Killer(),
            expected_sites=3,
            updates=folder,
        )
    assert len(record.rounds) == 1
    assert not folder.exists()
    grid = MemoryGrid([Learner(n, protocol) for n in "ABC"])
    run_study(grid, record, Witness(), expected_sites=3, updates=folder)
    straight = study([Learner(n, protocol) for n in "ABC"], protocol)
    assert same(record.segmenter, straight.segmenter)


def test_updates_are_gone_from_the_disk_at_the_end(tmp_path: Path) -> None:
    from protocol.wire.reports import TrainReport

    updates = RoundUpdates(tmp_path / "u")
    report = TrainReport(labelled=1, unlabelled=0, steps=1, seconds=0.1)
    current: dict[str, Weights] = {SEGMENTER: {"w": torch.zeros(2)}}
    for site, value in (("A", 1.0), ("B", 3.0)):
        updates.add(site, report, 8, {SEGMENTER: {"w": torch.full((2,), value)}}, current)
    assert updates.norms["B"] == {SEGMENTER: pytest.approx(18**0.5)}
    assert sorted(os.listdir(tmp_path / "u")) == ["A.segmenter.f32", "B.segmenter.f32"]

    def mean() -> list[float]:
        halves = {"A": 0.5, "B": 0.5}
        combined = updates.combine(SEGMENTER, halves, current[SEGMENTER], "mean", 0)
        return combined["w"].tolist()

    assert mean() == [2.0, 2.0]
    updates.clip({"B": {SEGMENTER: 0.5}})
    assert mean() == [1.25, 1.25]
    updates.clear()
    assert (updates.norms, updates.clipped, os.listdir(tmp_path / "u")) == ({}, {}, [])
    updates.close()
    assert not (tmp_path / "u").exists()
