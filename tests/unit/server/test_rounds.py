"""The round loop against sites that are late, odd, broken or wrong; no network in between."""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from protocol.messages import (
    SEGMENTER,
    EvaluationReport,
    SiteFacts,
    TrainReport,
    pack_evaluation,
    pack_facts,
    pack_training,
    read_plan,
)
from protocol.study import StudyProtocol
from protocol.sums import ScoreSum, SumCount
from server.record import StudyRecord
from server.rounds import QuorumError, run_study

MakeProtocol = Callable[..., StudyProtocol]
Spoil = Callable[[Message, RecordDict], RecordDict | Error | None]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread")


class Site:
    """A hospital that adds `step` to every weight and scores what it is told to."""

    def __init__(
        self,
        name: str,
        protocol: StudyProtocol,
        *,
        labelled: int = 2,
        unlabelled: int = 0,
        step: float = 0.01,
        dsc: Iterable[float] = (0.5,),
        spoil: dict[str, Spoil] | None = None,
    ) -> None:
        self.name, self.protocol, self.step = name, protocol, step
        self.facts = SiteFacts(labelled=labelled, unlabelled=unlabelled, validation=1, test=1)
        self.dsc = itertools.cycle(dsc)
        self.spoil = spoil or {}
        self.rounds: list[int] = []

    def answer(self, message: Message) -> RecordDict | Error | None:
        kind = message.metadata.message_type
        content = {"query": self._facts, "train": self._train, "evaluate": self._evaluate}[kind](
            message
        )
        return self.spoil[kind](message, content) if kind in self.spoil else content

    def _facts(self, _: Message) -> RecordDict:
        return pack_facts(self.name, self.facts, self.protocol)

    def _train(self, message: Message) -> RecordDict:
        self.rounds.append(read_plan(message.content).round)
        networks = {
            key: {
                name: torch.from_numpy(a.numpy().copy()) + self.step for name, a in record.items()
            }
            for key, record in message.content.items()
            if isinstance(record, ArrayRecord)
        }
        report = TrainReport(
            labelled=self.facts.labelled,
            unlabelled=self.facts.unlabelled,
            steps=2,
            seconds=0.1,
            losses={"dice": SumCount(sum=1.0, count=2.0)},
        )
        confidence = networks["confidence"] if self.facts.labelled else None
        return pack_training(self.name, report, self.protocol, networks[SEGMENTER], confidence)

    def _evaluate(self, _: Message) -> RecordDict:
        dsc = next(self.dsc)
        table = {o: ScoreSum.of([dsc]) for o in self.protocol.organ_names}
        both = {"validation": table, "test": table}
        report = EvaluationReport(
            seconds=0.1, cases={"validation": 1, "test": 1}, dsc=both, asd_mm=both
        )
        return pack_evaluation(self.name, report, self.protocol)


class MemoryGrid(Grid):
    """Sites are objects; they answer when a message is pushed, replies wait to be pulled."""

    def __init__(self, sites: Iterable[Site], *, last_first: bool = False) -> None:
        self.sites = {100 + index: site for index, site in enumerate(sites)}
        self._inbox: dict[str, Message] = {}
        self._numbers = itertools.count()
        self._last_first = last_first

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            name = f"m{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = name
            names.append(name)
            answer = self.sites[message.metadata.dst_node_id].answer(message)
            if answer is not None:
                self._inbox[name] = Message(answer, reply_to=message)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        there = [name for name in sorted(self._inbox) if name in set(message_ids)]
        return [self._inbox.pop(n) for n in (reversed(there) if self._last_first else there)]


class Witness:
    def __init__(self) -> None:
        self.events: list[str] = []

    def study_started(self, record: StudyRecord) -> None:
        self.events.append("started")

    def site_answered(self, number: int, done: int, expected: int) -> None:
        assert done <= expected

    def round_finished(self, record: StudyRecord) -> None:
        self.events.append(f"round {record.rounds[-1].plan.round}")

    def study_finished(self, record: StudyRecord) -> None:
        self.events.append("finished")


def study(sites: Iterable[Site], protocol: StudyProtocol, **options: Any) -> StudyRecord:
    grid = MemoryGrid(sites, **options)
    return run_study(grid, protocol, Witness(), expected_sites=len(grid.sites))


def error(reason: str) -> Spoil:
    return lambda *_: Error(code=1, reason=reason)


def silence(*_: Any) -> None:
    return None


def change_weights(change: Callable[[Any], Any]) -> Spoil:
    def spoil(_: Message, content: RecordDict) -> RecordDict:
        record = content[SEGMENTER]
        name = sorted(record)[0]
        record[name] = change(record[name])
        return content

    return spoil


def nan(array: Array) -> Array:
    return Array(array.numpy() * float("nan"))


def wider(array: Array) -> Array:
    values = array.numpy()
    return Array(values.repeat(2, axis=0))


def garbage(array: Array) -> Array:
    return Array(array.dtype, array.shape, array.stype, b"not an array")


def lying(array: Array) -> Array:
    return Array(array.dtype, array.shape, array.stype, wider(array).data)


def wrong_name(_: Message, content: RecordDict) -> RecordDict:
    content["site"]["name"] = "A"
    return content


def unknown_name(_: Message, content: RecordDict) -> RecordDict:
    content["site"]["name"] = "Z"
    return content


def extra_metric(_: Message, content: RecordDict) -> RecordDict:
    content["metrics"]["age"] = 71.0
    return content


def more_cases(_: Message, content: RecordDict) -> RecordDict:
    content["metrics"]["labelled"] = 900.0
    return content


def no_weights(_: Message, content: RecordDict) -> RecordDict:
    del content[SEGMENTER]
    return content


def test_all_rounds_with_sound_sites(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 3})
    sites = [Site(name, protocol) for name in "BAC"]
    record = study(sites, protocol)
    assert [item.plan.round for item in record.rounds] == [1, 2, 3]
    assert all(not item.left_out for item in record.rounds)
    assert list(record.facts) == ["A", "B", "C"]
    assert sites[0].rounds == [1, 2, 3]
    first = record.rounds[0]
    sent = sum(w.numel() * 4 for w in (*record.segmenter.values(), *record.confidence.values()))
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


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (error("ContractError"), "ContractError"),
        (change_weights(nan), "NaN or infinity"),
        (change_weights(wider), "must be float32"),
        (wrong_name, "site A answered in its name"),
        (unknown_name, "site Z answered in its name"),
        (extra_metric, "allow-list"),
        (more_cases, "declared 2\\+0"),
        (no_weights, "sent no segmenter"),
        (change_weights(garbage), "segmenter"),
        (change_weights(lying), "must be float32"),
    ],
)
def test_a_bad_update_is_left_out_and_named(
    make_protocol: MakeProtocol, spoil: Spoil, reason: str
) -> None:
    protocol = make_protocol()
    sites = [Site("A", protocol), Site("B", protocol), Site("C", protocol, spoil={"train": spoil})]
    record = study(sites, protocol)
    assert len(record.rounds) == 2
    for item in record.rounds:
        assert set(item.reports) == {"A", "B"}
        assert set(item.left_out) == {"C"}
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(item.left_out["C"])
    assert all(torch.isfinite(w).all() for w in record.segmenter.values())


def test_an_outsized_update_is_left_out(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site("A", protocol), Site("B", protocol), Site("C", protocol, step=0.1)]
    record = study(sites, protocol)
    assert record.rounds[0].left_out == {"C": "update 10.0 times the median norm"}
    expected = study([Site("A", protocol), Site("B", protocol)], protocol)
    assert all(torch.equal(record.segmenter[n], w) for n, w in expected.segmenter.items())


def test_waiting_is_bounded(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 1}, aggregation={"round_timeout_s": 0.5})
    sites = [Site(n, protocol) for n in "AB"]
    sites.append(Site("C", protocol, spoil={"train": silence, "evaluate": silence}))
    started = time.monotonic()
    record = study(sites, protocol)
    assert time.monotonic() - started < 6
    assert record.rounds[0].left_out == {"C": "no answer within 0.5 s"}
    assert set(record.rounds[0].evaluation or {}) == {"A", "B"}


def test_without_quorum_the_study_stops_with_what_it_has(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 3})

    def fails_later(message: Message, content: RecordDict) -> RecordDict | Error:
        return content if read_plan(message.content).round == 1 else Error(1, "MemoryError")

    sites = [Site("A", protocol), Site("B", protocol, spoil={"train": fails_later})]
    witness = Witness()
    with pytest.raises(QuorumError, match=r"round 2: 1 sites answered.*B \(MemoryError\)"):
        run_study(MemoryGrid(sites), protocol, witness, expected_sites=2)
    assert witness.events == ["started", "round 1", "finished"]


def test_too_few_declarations(make_protocol: MakeProtocol, caplog: Any) -> None:
    protocol = make_protocol()
    bad = Site("B", protocol, spoil={"query": error("ContractError")})
    with pytest.raises(QuorumError, match="ContractError"):
        study([Site("A", protocol), bad], protocol)
    record = study([Site("A", protocol), bad, Site("C", protocol)], protocol)
    assert list(record.facts) == ["A", "C"]
    assert "ContractError" in caplog.text


def test_two_nodes_of_one_name(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    twin = Site("A", protocol)
    record = study([Site("A", protocol), Site("B", protocol), twin], protocol)
    assert list(record.facts) == ["A", "B"]
    assert twin.rounds == []


def test_nodes_are_awaited_within_a_bound(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    started = time.monotonic()
    with pytest.raises(QuorumError, match="joining: 1 sites are online, at least 2"):
        run_study(MemoryGrid([Site("A", protocol)]), protocol, Witness(), expected_sites=5)
    assert 0.25 < time.monotonic() - started < 3
    # Enough for the quorum, fewer than expected: the study begins when the time is up.
    sites = [Site(n, protocol) for n in "AB"]
    assert len(run_study(MemoryGrid(sites), protocol, Witness(), expected_sites=5).rounds) == 2


def test_a_label_free_site_rests_in_warm_up(make_protocol: MakeProtocol) -> None:
    ramp = {"adversarial_start": 0.5, "region_start": 0.5, "length": 0.0}
    protocol = make_protocol(training={"rounds": 4, "ramp": ramp})
    free = Site("F", protocol, labelled=0, unlabelled=4)
    record = study([Site("A", protocol), Site("B", protocol), free], protocol)
    assert free.rounds == [3, 4]
    assert [("F" in item.reports) for item in record.rounds] == [False, False, True, True]
    assert all(not item.left_out for item in record.rounds)


def test_the_best_round_is_chosen_by_validation(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 4})
    sites = [Site(n, protocol, dsc=(0.2, 0.8, 0.5, 0.3)) for n in "AB"]
    record = study(sites, protocol)
    assert (record.best_round, record.best_dsc) == (2, pytest.approx(0.8))
    assert [r.validation_dsc for r in record.rounds] == pytest.approx([0.2, 0.8, 0.5, 0.3])
    assert record.best_segmenter is not None
    name = next(iter(record.segmenter))
    torch.testing.assert_close(record.segmenter[name], record.best_segmenter[name] + 0.02)
    assert record.best_evaluation["A"].dsc["test"]["ball"].mean == pytest.approx(0.8)


def test_a_round_that_nobody_scored_is_not_the_best(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 2})
    calls = itertools.count()

    def once(_: Message, content: RecordDict) -> RecordDict | Error:
        return content if next(calls) < 2 else Error(1, "MemoryError")

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
