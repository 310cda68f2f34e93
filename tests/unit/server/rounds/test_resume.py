"""A study that is resumed after any round ends bit by bit as one that was never interrupted."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memory_grid import RUN, Learner, MemoryGrid, Site, Witness, same

from protocol.config.study import StudyProtocol
from server.monitoring.run_folder import CheckpointWatcher
from server.rounds.checkpoint import load_checkpoint
from server.rounds.loop import new_record, run_study
from server.rounds.record import RoundRecord, StudyRecord
from server.rounds.watchers import Watcher, Watchers

MakeProtocol = Callable[..., StudyProtocol]

ROUNDS = 5

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")


class PowerCut(Exception):
    """The end of a ServerApp without a last word."""


class DiesAfter(Watcher):
    def __init__(self, number: int) -> None:
        self._number = number

    def round_finished(self, record: StudyRecord) -> None:
        if record.rounds[-1].plan.round == self._number:
            raise PowerCut


class DiesIn(Learner):
    """A site whose answer is the last thing that the ServerApp sees in this round."""

    fatal = 0

    def update(
        self, number: int, network: str, weights: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if number == self.fatal:
            raise PowerCut
        return super().update(number, network, weights)


def sites(protocol: StudyProtocol) -> list[Site]:
    return [
        Learner("A", protocol, labelled=4),
        Learner("B", protocol, labelled=2, unlabelled=3, validation=2),
        Learner("C", protocol, labelled=0, unlabelled=5),
    ]


def protocol_of(make_protocol: MakeProtocol) -> StudyProtocol:
    ramp = {"adversarial_start": 0.0, "region_start": 0.4, "length": 0.4}
    return make_protocol(
        training={"rounds": ROUNDS, "ramp": ramp, "average_decay": 0.9},
        method={"sample_attention": "normalised"},
        evaluation={"every_rounds": 2},
        aggregation={"rule": "mean", "max_norm_ratio": 1e6, "momentum": 0.5},
    )


def timeless(rounds: list[RoundRecord]) -> list[RoundRecord]:
    """All of the rounds but how long they took."""
    return [replace(item, seconds=0.0, finished_at=0.0) for item in rounds]


def check_equal(resumed: StudyRecord, whole: StudyRecord) -> None:
    assert same(resumed.segmenter, whole.segmenter)
    assert same(resumed.confidence, whole.confidence)
    assert same(resumed.best_segmenter, whole.best_segmenter)
    assert same(resumed.best_confidence, whole.best_confidence)
    assert resumed.average is not None
    assert whole.average is not None
    assert same(resumed.average.weights, whole.average.weights)
    assert (resumed.average.round, resumed.average.mass) == (ROUNDS, whole.average.mass)
    assert all(same(resumed.before[name], weights) for name, weights in whole.before.items())
    assert resumed.before.keys() == whole.before.keys() == {"segmenter", "confidence"}
    assert resumed.facts == whole.facts
    assert list(resumed.facts) == list(whole.facts)
    assert (resumed.best_round, resumed.best_dsc) == (whole.best_round, whole.best_dsc)
    assert resumed.attention == whole.attention
    assert timeless(resumed.rounds) == timeless(whole.rounds)
    assert (resumed.run, resumed.protocol) == (whole.run, whole.protocol)


def uninterrupted(protocol: StudyProtocol) -> StudyRecord:
    return run_study(
        MemoryGrid(sites(protocol)), new_record(protocol, run=RUN), Watcher(), expected_sites=3
    )


def go_on(protocol: StudyProtocol, folder: Path) -> StudyRecord:
    """By a new ServerApp, to which the nodes come in another order."""
    record = load_checkpoint(folder) or new_record(protocol, run=RUN)
    grid = MemoryGrid(reversed(sites(protocol)))
    return run_study(grid, record, CheckpointWatcher(folder), expected_sites=3)


def test_the_study_that_is_compared_with_is_sensitive(make_protocol: MakeProtocol) -> None:
    protocol = protocol_of(make_protocol)
    whole = uninterrupted(protocol)
    assert whole.best_round in (2, 4)  # neither the first nor the last model
    assert not same(whole.segmenter, whole.best_segmenter)
    assert whole.attention != 1.0
    plans = [item.plan for item in whole.rounds]
    assert len({plan.attention_scale for plan in plans}) == ROUNDS
    assert [("C" in item.reports) for item in whole.rounds] == [False, False, True, True, True]
    assert all(plan.organ_box is not None for plan in plans)


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_after_every_round(make_protocol: MakeProtocol, tmp_path: Path, number: int) -> None:
    protocol = protocol_of(make_protocol)
    watchers = Watchers([CheckpointWatcher(tmp_path), DiesAfter(number)])
    record = new_record(protocol, run=RUN)
    with pytest.raises(PowerCut):
        run_study(MemoryGrid(sites(protocol)), record, watchers, expected_sites=3)
    saved = load_checkpoint(tmp_path)
    assert saved is not None
    assert len(saved.rounds) == number
    check_equal(go_on(protocol, tmp_path), uninterrupted(protocol))


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_in_the_middle_of_every_round(
    make_protocol: MakeProtocol, tmp_path: Path, number: int
) -> None:
    protocol = protocol_of(make_protocol)
    last = DiesIn("B", protocol, labelled=2, unlabelled=3, validation=2)
    last.fatal = number
    group = sites(protocol)
    group[1] = last
    with pytest.raises(PowerCut):
        run_study(
            MemoryGrid(group),
            new_record(protocol, run=RUN),
            CheckpointWatcher(tmp_path),
            expected_sites=3,
        )
    saved = load_checkpoint(tmp_path)
    assert (len(saved.rounds) if saved else 0) == number - 1
    check_equal(go_on(protocol, tmp_path), uninterrupted(protocol))


def test_after_each_round_anew(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = protocol_of(make_protocol)
    for number in range(1, ROUNDS + 1):
        record = load_checkpoint(tmp_path) or new_record(protocol, run=RUN)
        watchers = Watchers([CheckpointWatcher(tmp_path), DiesAfter(number)])
        with pytest.raises(PowerCut):
            run_study(MemoryGrid(sites(protocol)), record, watchers, expected_sites=3)
    check_equal(go_on(protocol, tmp_path), uninterrupted(protocol))


def test_a_finished_study_trains_no_further(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = protocol_of(make_protocol)
    whole = go_on(protocol, tmp_path)
    group = sites(protocol)
    witness = Witness()
    again = run_study(MemoryGrid(group), load_checkpoint(tmp_path), witness, expected_sites=3)  # type: ignore[arg-type]
    check_equal(again, whole)
    assert all(site.rounds == [] for site in group)
    assert witness.events == ["started", "finished"]


def test_a_resumed_study_goes_on_without_a_site_that_is_gone(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = protocol_of(make_protocol)
    watchers = Watchers([CheckpointWatcher(tmp_path), DiesAfter(3)])
    with pytest.raises(PowerCut):
        run_study(
            MemoryGrid(sites(protocol)), new_record(protocol, run=RUN), watchers, expected_sites=3
        )
    record = load_checkpoint(tmp_path)
    assert record is not None
    run_study(
        MemoryGrid(sites(protocol)[:2]), record, CheckpointWatcher(tmp_path), expected_sites=2
    )
    assert [dict(item.left_out) for item in record.rounds[3:]] == [{"C": "offline"}] * 2
    assert list(record.facts) == ["A", "B", "C"]


def test_each_round_is_seeded_by_the_ones_before(make_protocol: MakeProtocol) -> None:
    """A learner that forgot what it was given would make the comparisons above say nothing."""
    protocol = protocol_of(make_protocol)
    site = Learner("A", protocol)
    one = {"w": torch.ones(3)}
    assert not torch.equal(site.update(1, "s", one)["w"], site.update(2, "s", one)["w"])
    changed = {"w": torch.tensor([1.0, 1.0, 1.0 + 2**-23])}
    assert not torch.equal(site.update(1, "s", one)["w"], site.update(1, "s", changed)["w"])
    assert math.isfinite(site.score(one))
