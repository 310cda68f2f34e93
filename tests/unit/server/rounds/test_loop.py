"""The round loop against sound sites, and sites that are late or fail; no network in between."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from memory_grid import (
    RUN,
    Clock,
    Learner,
    MemoryGrid,
    Site,
    Witness,
    error,
    same,
    silence,
    study,
)

from asdnet_models.reliability import BINS, LOWEST, STEP, Reliability
from protocol.config.study import StudyProtocol
from protocol.wire.compression import as_sent
from protocol.wire.messages import read_plan
from protocol.wire.weights import pack_weights
from server.rounds.errors import QuorumError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")


def test_all_rounds_with_sound_sites(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 3})
    sites = [Site(name, protocol) for name in "BAC"]
    record = study(sites, protocol)
    assert [item.plan.round for item in record.rounds] == [1, 2, 3]
    assert all(not item.left_out for item in record.rounds)
    assert list(record.facts) == ["A", "B", "C"]
    assert sites[0].rounds == [1, 2, 3]
    first = record.rounds[0]
    values = sum(w.numel() * 4 for w in (*record.segmenter.values(), *record.confidence.values()))
    files = [pack_weights(record.segmenter), pack_weights(record.confidence)]
    sent = sum(len(file["safetensors"].data) for file in files)
    assert values < sent < 1.5 * values  # with the heads of the files, as they travel
    assert dict(first.bytes_down) == dict(first.bytes_up) == dict.fromkeys("ABC", sent)


def test_weights_are_averaged_by_cases(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 1}, aggregation={"max_site_share": 1.0})
    before = study([Site(n, protocol, step=0.0) for n in "AB"], protocol)
    after = study(
        [Site("A", protocol, labelled=3, step=0.1), Site("B", protocol, labelled=1, step=0.2)],
        protocol,
    )
    for old, new in ((before.segmenter, after.segmenter), (before.confidence, after.confidence)):
        assert old is not None
        assert new is not None
        for name in old:
            torch.testing.assert_close(new[name], old[name] + 0.125)


def test_waiting_is_bounded(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(training={"rounds": 1}, aggregation={"round_timeout_s": 50})
    sites = [Site(n, protocol) for n in "AB"]
    sites.append(Site("C", protocol, spoil={"train": silence, "evaluate": silence}))
    started = clock.now
    record = study(sites, protocol)
    assert 100 <= clock.now - started < 105  # once for the update, once for the scores
    assert record.rounds[0].left_out == {"C": "no answer within 50 s"}
    assert set(record.rounds[0].evaluation or {}) == {"A", "B"}


def test_without_quorum_the_study_stops_with_what_it_has(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 3})

    def fails_later(message: Message, content: RecordDict) -> RecordDict | Error:
        return content if read_plan(message.content).round == 1 else Error(2, "MemoryError")

    sites = [Site("A", protocol), Site("B", protocol, spoil={"train": fails_later})]
    witness = Witness()
    with pytest.raises(QuorumError, match=r"round 2: 1 sites answered.*B \(MemoryError\)"):
        study(sites, protocol, witness)
    assert witness.events == ["started", "round 1", "finished"]


def test_too_few_declarations(make_protocol: MakeProtocol, caplog: Any) -> None:
    protocol = make_protocol()
    bad = Site("B", protocol, spoil={"query": error("LayoutError")})
    with pytest.raises(QuorumError, match="LayoutError"):
        study([Site("A", protocol), bad], protocol)
    record = study([Site("A", protocol), bad, Site("C", protocol)], protocol)
    assert list(record.facts) == ["A", "C"]
    assert "LayoutError" in caplog.text


def test_two_nodes_of_one_name(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    twin = Site("A", protocol)
    record = study([Site("A", protocol), Site("B", protocol), twin], protocol)
    assert list(record.facts) == ["A", "B"]
    assert twin.rounds == []


def test_nodes_are_awaited_within_a_bound(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 90})

    def begin(sites: list[Site]) -> StudyRecord:
        record = new_record(protocol, run=RUN)
        return run_study(MemoryGrid(sites), record, Witness(), expected_sites=5)

    started = clock.now
    with pytest.raises(QuorumError, match="joining: 1 sites are online, at least 2"):
        begin([Site("A", protocol)])
    assert 90 <= clock.now - started < 91
    # Enough for the quorum, fewer than expected: the study begins when the time is up.
    sites = [Site(n, protocol) for n in "AB"]
    assert len(begin(sites).rounds) == 2
    assert 180 <= clock.now - started < 185


def test_a_label_free_site_rests_in_warm_up(make_protocol: MakeProtocol) -> None:
    ramp = {"adversarial_start": 0.5, "region_start": 0.5, "length": 0.0}
    protocol = make_protocol(training={"rounds": 4, "ramp": ramp})
    free = Site("F", protocol, labelled=0, unlabelled=4)
    record = study([Site("A", protocol), Site("B", protocol), free], protocol)
    assert free.rounds == [3, 4]
    assert [("F" in item.reports) for item in record.rounds] == [False, False, True, True]
    assert all(not item.left_out for item in record.rounds)


@pytest.mark.parametrize(("name", "worked"), [("semi-fcn", [3, 4]), ("semi-embed", [])])
def test_when_a_label_free_site_works_for_the_other_methods(
    make_protocol: MakeProtocol, name: str, worked: list[int]
) -> None:
    method = {"name": name, "pseudo_labels_at": (0.5, 0.75)}
    protocol = make_protocol(training={"rounds": 4}, method=method)
    free = Site("F", protocol, labelled=0, unlabelled=4)
    record = study([Site("A", protocol), Site("B", protocol), free], protocol)
    assert free.rounds == worked
    assert all(not item.left_out for item in record.rounds)
    assert [item.plan.pseudo_labels for item in record.rounds] == (
        [0, 0, 1, 2] if name == "semi-fcn" else [0] * 4
    )
    assert record.confidence is None


def test_the_best_round_is_chosen_by_validation(make_protocol: MakeProtocol) -> None:
    # Steps as long as before at a tenth of the rate would be shortened.
    protocol = make_protocol(training={"rounds": 4, "lr_decay": 1.0})
    sites = [Site(n, protocol, dsc=(0.2, 0.8, 0.5, 0.3)) for n in "AB"]
    record = study(sites, protocol)
    assert (record.best_round, record.best_dsc) == (2, pytest.approx(0.8))
    assert [r.validation_dsc for r in record.rounds] == pytest.approx([0.2, 0.8, 0.5, 0.3])
    assert record.best_segmenter is not None
    name = next(iter(record.segmenter))
    torch.testing.assert_close(record.segmenter[name], record.best_segmenter[name] + 0.02)
    assert record.best_evaluation["A"].scores["test"]["ball"].dsc.mean == pytest.approx(0.8)


def test_momentum_carries_the_last_change_into_the_next_round(make_protocol: MakeProtocol) -> None:
    def moved(momentum: float) -> float:
        protocol = make_protocol(
            training={"rounds": 3, "lr_decay": 1.0}, aggregation={"momentum": momentum}
        )
        record = study([Site(n, protocol) for n in "AB"], protocol)
        start = new_record(protocol, run=RUN).segmenter
        name = next(iter(start))
        return float((record.segmenter[name] - start[name]).mean())

    # A site's update is .01 a round: three of them, or .01 + .015 + .0175.
    assert moved(0.0) == pytest.approx(0.03, rel=1e-4)
    assert moved(0.5) == pytest.approx(0.0425, rel=1e-4)


@pytest.mark.parametrize("wire", [{}, {"format": "bf16"}])
def test_the_average_over_rounds_is_kept_and_the_weights_go_on(
    make_protocol: MakeProtocol, wire: dict[str, str]
) -> None:
    def run(decay: float) -> tuple[StudyRecord, list[dict[str, torch.Tensor]]]:
        protocol = make_protocol(
            training={"rounds": 3, "lr_decay": 1.0, "average_decay": decay},
            evaluation={"every_rounds": 1},
            wire=wire,
        )
        after: list[dict[str, torch.Tensor]] = []

        class Keeper(Witness):
            def round_finished(self, record: StudyRecord) -> None:
                after.append(as_sent(record.segmenter, protocol.wire))

        sites = [Learner(n, protocol) for n in "AB"]
        return study(sites, protocol, Keeper()), after

    plain, globals_of = run(0.0)
    found, globals_again = run(0.5)
    # Sites train from the plain global weights, with an average or without.
    assert all(same(a, b) for a, b in zip(globals_of, globals_again, strict=True))
    assert same(found.segmenter, plain.segmenter)
    assert plain.average is None
    assert found.average is not None
    for name, weights in found.average.weights.items():
        one, two, three = (after[name].double() for after in globals_of)
        by_hand = ((one + 2 * two + 4 * three) / 7).float()
        torch.testing.assert_close(weights, by_hand)
    assert found.best_segmenter is not None
    of_best = globals_of[0]
    for number, weights in enumerate(globals_of[1 : found.best_round], 2):
        mass = sum(0.5**n for n in range(number))
        of_best = {name: of_best[name] + (w - of_best[name]) / mass for name, w in weights.items()}
    for name, weights in of_best.items():
        torch.testing.assert_close(found.best_segmenter[name], weights)


def test_a_round_that_nobody_scored_is_not_the_best(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 2})
    calls = itertools.count()

    def once(_: Message, content: RecordDict) -> RecordDict | Error:
        return content if next(calls) < 2 else Error(2, "MemoryError")

    sites = [Site(n, protocol, dsc=(0.8,), spoil={"evaluate": once}) for n in "AB"]
    record = study(sites, protocol)
    assert (record.best_round, record.best_dsc) == (1, pytest.approx(0.8))


def test_scores_are_asked_for_every_few_rounds_and_at_the_end(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 5}, evaluation={"every_rounds": 2})
    record = study([Site(n, protocol) for n in "AB"], protocol)
    assert [r.evaluation is not None for r in record.rounds] == [False, True, False, True, True]


def test_the_order_of_replies_does_not_matter(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    steps = {"A": 0.011, "B": 0.017, "C": 0.013}

    def run(**options: Any) -> StudyRecord:
        return study([Site(n, protocol, step=s) for n, s in steps.items()], protocol, **options)

    one, other = run(), run(last_first=True)
    assert all(torch.equal(w, other.segmenter[n]) for n, w in one.segmenter.items())
    assert list(one.rounds[0].reports) == list(other.rounds[0].reports) == ["A", "B", "C"]


@pytest.mark.parametrize(("rule", "announced"), [("calibrated", True), ("fixed", False)])
def test_gamma_is_announced_after_the_first_scores(
    make_protocol: MakeProtocol, rule: str, announced: bool
) -> None:
    protocol = make_protocol(
        training={"rounds": 4},
        evaluation={"every_rounds": 2},
        method={"gamma_rule": rule, "trusted_precision": 0.9},
    )
    sites = [Site(n, protocol) for n in "AB"]
    for site in sites:
        right, wrong = [0] * BINS, [0] * BINS
        right[20], wrong[20] = 95, 5
        right[19], wrong[19] = 5, 95
        site.reliability = {"confidence": Reliability(right=tuple(right), wrong=tuple(wrong))}
    record = study(sites, protocol)
    edge = pytest.approx(1 / (1 + math.exp(-(LOWEST + 20 * STEP))))
    expected = [None, None, edge, edge] if announced else [None] * 4
    assert sites[0].gammas == sites[1].gammas == expected
    assert [r.plan.gamma for r in record.rounds] == expected
