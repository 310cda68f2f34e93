"""Sites in memory, a Grid that speaks with them, and a clock that costs no time."""

import heapq
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from made_scores import sums_of

from asdnet_models.reliability import Reliability
from asdnet_models.sums import SumCount
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol
from protocol.wire.compression import pack_update, read_global
from protocol.wire.description import Description, describe
from protocol.wire.messages import (
    SEGMENTER,
    pack_evaluation,
    pack_facts,
    pack_training,
    read_plan,
    read_protocol,
    sent_shapes,
)
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from protocol.wire.weights import Weights, raw_weights
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher

Answer = RecordDict | Error | None
Spoil = Callable[[Message, RecordDict], Answer]
RUN = "tiny-1"


class Clock:
    """Stands for the module `time`: sleeping moves it on, and does what is due by then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self._due and self._due[0][0] <= self.now:
            heapq.heappop(self._due)[2]()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), action))


class Site:
    """A hospital that adds `step` to every weight and scores what it is asked to.

    `state` is "online", "offline", or "busy" for one that is online and answers later.
    """

    def __init__(
        self,
        name: str,
        protocol: StudyProtocol,
        *,
        labelled: int = 2,
        unlabelled: int = 0,
        validation: int = 1,
        step: float = 0.01,
        dsc: Iterable[float] = (0.5,),
        spoil: dict[str, Spoil] | None = None,
        registered_as: str = "",
    ) -> None:
        self.name, self.protocol, self.step = name, protocol, step
        box = (SumCount(sum=0.25 * labelled, count=float(labelled)),) * 3
        high = (SumCount(sum=0.75 * labelled, count=float(labelled)),) * 3
        self.facts = SiteFacts(
            labelled=labelled,
            unlabelled=unlabelled,
            validation=validation,
            test=1,
            box=(*box, *high),
        )
        self.dsc = itertools.cycle(dsc)
        self.spoil = spoil or {}
        self.registered_as = registered_as
        self.state: Literal["online", "offline", "busy"] = "online"
        self.since = "first start"
        self.rounds: list[int] = []
        self.reliability: dict[str, Reliability] = {}
        self.gammas: list[float | None] = []
        self.residuals: dict[str, Weights] = {}
        self.asked: Counter[str] = Counter()
        # What this side knows of the messages, as its own audit log would.
        self.received: list[Description] = []
        self.sent: list[Description] = []

    def goes(self, state: Literal["online", "offline", "busy"]) -> None:
        self.state = state

    def answer(self, message: Message) -> Answer:
        kind = message.metadata.message_type
        self.asked[kind] += 1
        content = {"query": self._facts, "train": self._train, "evaluate": self._evaluate}[kind](
            message
        )
        return self.spoil[kind](message, content) if kind in self.spoil else content

    def update(self, number: int, network: str, weights: Weights) -> Weights:
        return {name: tensor + self.step for name, tensor in weights.items()}

    def score(self, segmenter: Weights) -> float:
        return next(self.dsc)

    def _facts(self, _: Message) -> RecordDict:
        return pack_facts(self.name, self.facts, self.protocol)

    def _train(self, message: Message) -> RecordDict:
        plan = read_plan(message.content)
        self.rounds.append(plan.round)
        self.gammas.append(plan.gamma)
        networks: dict[str, ArrayRecord] = {}
        for key, record in message.content.items():
            if isinstance(record, ArrayRecord):
                sent = weights_in(message.content, key)
                trained = self.update(plan.round, key, sent)
                networks[key], self.residuals[key] = pack_update(
                    trained, sent, self.protocol.wire, self.residuals.get(key)
                )
        report = TrainReport(
            labelled=self.facts.labelled,
            unlabelled=self.facts.unlabelled,
            steps=2,
            seconds=0.1,
            losses={"dice": SumCount(sum=1.0, count=2.0)},
            attention=self._attention(plan),
        )
        confidence = networks.get("confidence") if self.facts.labelled else None
        return pack_training(self.name, report, self.protocol, networks[SEGMENTER], confidence)

    def _attention(self, plan: RoundPlan) -> SumCount:
        """Another one each round; of no case there is none."""
        count = 2.0 if self.facts.labelled else 0.0
        return SumCount(sum=min(0.3 * plan.round * plan.attention_scale, count), count=count)

    def _evaluate(self, message: Message) -> RecordDict:
        dsc = self.score(weights_in(message.content, SEGMENTER))
        of_part = {
            part: {
                organ: sums_of(*[dsc] * getattr(self.facts, part))
                for organ in self.protocol.organ_names
            }
            for part in ("validation", "test")
        }
        cases = {"validation": self.facts.validation, "test": self.facts.test}
        report = EvaluationReport(
            seconds=0.1,
            cases=cases,
            scores=of_part,
            reliability=self.reliability,
        )
        return pack_evaluation(self.name, report, self.protocol)


class Learner(Site):
    """A hospital whose update depends on its name, the round and every weight that it got."""

    def update(self, number: int, network: str, weights: Weights) -> Weights:
        seed = 1000 * ord(self.name[0]) + 10 * number + len(network)
        noise = torch.Generator().manual_seed(seed)
        return {
            name: tensor * (1 + 0.01 * number) + 0.02 * torch.randn(tensor.shape, generator=noise)
            for name, tensor in sorted(weights.items())
        }

    def score(self, segmenter: Weights) -> float:
        total = math.fsum(float(w.double().sum()) for w in segmenter.values())
        return 0.5 + 0.4 * math.sin(7 * total + ord(self.name[0]))


def weights_in(content: RecordDict, name: str) -> Weights:
    """What the centre sent."""
    wire = read_protocol(content).wire
    if wire.plain:
        weights = raw_weights(content, name)
    else:
        like = {key: torch.zeros(shape) for key, shape in sent_shapes(content)[name].items()}
        weights = read_global(content, name, like, wire)
    assert weights is not None
    return weights


class MemoryGrid(Grid):
    """Content crosses as bytes; a reply is there as soon as its site is online and not busy."""

    def __init__(
        self, sites: Iterable[Site], *, last_first: bool = False, as_bytes: bool = True
    ) -> None:
        self.sites: dict[int, Site] = {}
        self.pushed: list[tuple[int, str]] = []
        self._messages: dict[str, Message] = {}
        self._waiting: set[str] = set()
        self._inbox: dict[str, Message] = {}
        self._numbers = itertools.count()
        self._last_first = last_first
        self._as_bytes = as_bytes
        for site in sites:
            self.add(site)

    def add(self, site: Site) -> None:
        self.sites[100 + len(self.sites)] = site

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [node for node, site in self.sites.items() if site.state != "offline"]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(
                node_id=node,
                name=self.sites[node].registered_as,
                last_activated_at=self.sites[node].since,
            )
            for node in self.get_node_ids()
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            name = f"m{next(self._numbers):06d}"
            message.metadata.__dict__["_message_id"] = name
            names.append(name)
            self.pushed.append((message.metadata.dst_node_id, message.metadata.message_type))
            self._messages[name] = message
            self._waiting.add(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = sorted(message_ids)
        found = []
        for name in reversed(asked) if self._last_first else asked:
            site = self.sites[self._messages[name].metadata.dst_node_id]
            if name in self._waiting and site.state == "online":
                self._waiting.remove(name)
                self._hand_over(self._messages[name], site)
            if name in self._inbox:
                found.append(self._inbox.pop(name))
            elif site.state == "offline":
                gone = Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable")
                found.append(Message(gone, reply_to=self._messages[name]))
        return found

    def _hand_over(self, message: Message, site: Site) -> None:
        """The site gets its own copy, through bytes, and so does the centre of the reply."""
        original, message.content = message.content, _copied(message.content)
        site.received.append(describe(message))
        answer = site.answer(message)
        message.content = original
        if answer is None:
            return
        reply = Message(answer, reply_to=message)
        if self._as_bytes:
            site.sent.append(describe(reply))
        if self._as_bytes and reply.has_content():
            reply = Message(_copied(reply.content), reply_to=message)
        self._inbox[message.metadata.message_id] = reply


def _copied(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


class Witness(Watcher):
    """Notes every event; does something after a round."""

    def __init__(self, after: dict[int, Callable[[], object]] | None = None) -> None:
        self.events: list[str] = []
        self.called: list[tuple[int, str, list[str]]] = []
        self._after = after or {}

    def study_started(self, record: StudyRecord) -> None:
        self.events.append("started")

    def sites_called(self, round_number: int, kind: str, sites: Sequence[str]) -> None:
        self.called.append((round_number, kind, list(sites)))

    def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
        assert 0 <= done <= expected
        assert site

    def round_finished(self, record: StudyRecord) -> None:
        number = record.rounds[-1].plan.round
        self.events.append(f"round {number}")
        self._after.get(number, int)()

    def study_finished(self, record: StudyRecord) -> None:
        self.events.append("finished")


def study(
    sites: Iterable[Site],
    protocol: StudyProtocol,
    watcher: Watcher | None = None,
    **options: Any,
) -> StudyRecord:
    """A whole study with these sites."""
    grid = MemoryGrid(sites, **options)
    record = new_record(protocol, run=RUN)
    return run_study(grid, record, watcher or Witness(), expected_sites=len(grid.sites))


def error(reason: str, code: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION) -> Spoil:
    """Each instruction fails at the site."""
    return lambda *_: Error(code, reason)


def silence(*_: Any) -> None:
    """Each instruction is taken and never answered."""
    return


def same(one: Weights | None, other: Weights | None) -> bool:
    """The same names and the same bits."""
    assert one is not None
    assert other is not None
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
