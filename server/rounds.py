"""The study's round loop on Flower's Grid: configure, wait within a bound, aggregate, evaluate.

Flower's own strategies wait for nodes without limit and stop at the first odd reply; this loop
does neither.  A site that fails, is late or sends what it should not is left out of the round and
named; the study stops, with its model saved, only when too few sites remain.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from asdnet_models.networks import build_confidence, build_segmenter
from protocol.messages import (
    CONFIDENCE,
    SEGMENTER,
    EvaluationReport,
    MessageError,
    SiteFacts,
    TrainReport,
    Weights,
    bytes_of,
    pack_instruction,
    read_evaluation,
    read_facts,
    read_site_name,
    read_training,
    read_weights,
    wire_weights,
)
from protocol.schedule import RoundPlan, plan_round
from protocol.study import StudyProtocol
from protocol.sums import SumCount
from server.aggregation import (
    average,
    confidence_weights,
    outsized_updates,
    segmenter_weights,
)
from server.record import RoundRecord, StudyRecord, macro_validation_dsc
from server.stopped import QuorumError
from server.watchers import Watcher

log = logging.getLogger(__name__)

_PULL_INTERVAL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Update:
    """One site's accepted answer to a round of training."""

    report: TrainReport
    segmenter: Weights
    confidence: Weights | None


def run_study(
    grid: Grid, protocol: StudyProtocol, watcher: Watcher, *, expected_sites: int | None = None
) -> StudyRecord:
    """All rounds of a study.

    Args:
        grid: Flower's connection to the sites.
        protocol: What the study agrees on.
        watcher: Told of every event, in order.
        expected_sites: Begin as soon as so many are there; else at the end of the joining time.

    Raises:
        QuorumError: If fewer than `min_sites` answer; the watcher has been given what there is.
    """
    centre = _Centre(grid, protocol, watcher)
    centre.await_nodes(expected_sites)
    facts = centre.ask_facts()
    record = StudyRecord(
        protocol=protocol,
        facts=facts,
        segmenter=wire_weights(build_segmenter(protocol).state_dict()),
        confidence=wire_weights(build_confidence(protocol).state_dict())
        if protocol.method.trains_confidence
        else None,
    )
    watcher.study_started(record)
    attention = SumCount(sum=1.0, count=1.0)
    try:
        for number in range(1, protocol.training.rounds + 1):
            plan = plan_round(
                protocol,
                number,
                attention_scale=max(attention.mean or 1.0, 1e-3),
                organ_box=_mean_box(facts),
            )
            finished = centre.run_round(record, plan)
            record.rounds.append(finished)
            measured = sum((r.attention for r in finished.reports.values()), SumCount())
            attention = _running(attention, measured)
            watcher.round_finished(record)
    finally:
        watcher.study_finished(record)
    return record


class _Centre:
    """The coordinating centre's side of one study: who is there, and one round with them."""

    def __init__(self, grid: Grid, protocol: StudyProtocol, watcher: Watcher) -> None:
        self._grid = grid
        self._protocol = protocol
        self._watcher = watcher
        self._nodes: dict[str, int] = {}
        self._facts: dict[str, SiteFacts] = {}

    def await_nodes(self, expected: int | None) -> None:
        """Wait for nodes, never longer than the joining time."""
        rules = self._protocol.aggregation
        deadline = time.monotonic() + rules.join_timeout_s
        while True:
            present = len(list(self._grid.get_node_ids()))
            if expected is not None and present >= expected:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_PULL_INTERVAL_S)
        if present < rules.min_sites:
            raise QuorumError(
                f"joining: {present} sites are online, at least {rules.min_sites} must be, "
                f"after {rules.join_timeout_s:g} s; start the missing sites or lower min_sites"
            )

    def ask_facts(self) -> dict[str, SiteFacts]:
        """Every site checks and caches its data and declares its counts."""
        content = pack_instruction(self._protocol)
        instructions = {node: content for node in sorted(self._grid.get_node_ids())}
        failures: dict[str, str] = {}

        def accept(reply: Message) -> None:
            name = read_site_name(reply.content)
            if name in self._nodes:
                raise MessageError(f"site {name} has joined twice; give each node its own site")
            self._facts[name] = read_facts(reply.content, self._protocol)
            self._nodes[name] = reply.metadata.src_node_id

        self._exchange(0, MessageType.QUERY, instructions, accept, failures)
        self._require_quorum("declaring the data", len(self._nodes), failures)
        if failures:
            log.warning("not part of the study: %s", _listed(failures))
        self._nodes = dict(sorted(self._nodes.items()))
        return dict(sorted(self._facts.items()))

    def run_round(self, record: StudyRecord, plan: RoundPlan) -> RoundRecord:
        """Train, aggregate into `record`, and evaluate where the protocol says so."""
        started = time.monotonic()
        called = {site: node for site, node in self._nodes.items() if self._has_work(site, plan)}
        content = pack_instruction(self._protocol, plan, record.segmenter, record.confidence)
        left_out: dict[str, str] = {}
        updates = self._train(called, content, plan, record, left_out)
        self._aggregate(record, updates, plan, left_out)
        record_of_round = RoundRecord(
            plan=plan,
            seconds=time.monotonic() - started,
            bytes_down=dict.fromkeys(
                called, bytes_of(record.segmenter) + bytes_of(record.confidence)
            ),
            bytes_up={
                s: bytes_of(u.segmenter) + bytes_of(u.confidence) for s, u in updates.items()
            },
            reports={site: update.report for site, update in updates.items()},
            left_out=left_out,
        )
        rounds, every = self._protocol.training.rounds, self._protocol.evaluation.every_rounds
        if plan.round % every and plan.round != rounds:
            return record_of_round
        return self._evaluate(record, record_of_round, started)

    def _has_work(self, site: str, plan: RoundPlan) -> bool:
        """A label-free site rests until Eq. 6 begins: before that its update weighs nothing."""
        facts = self._facts[site]
        return facts.labelled > 0 or (facts.unlabelled > 0 and plan.region_ramp > 0)

    def _train(
        self,
        called: Mapping[str, int],
        content: RecordDict,
        plan: RoundPlan,
        record: StudyRecord,
        left_out: dict[str, str],
    ) -> dict[str, Update]:
        updates: dict[str, Update] = {}

        def accept(reply: Message) -> None:
            site = self._known_site(reply)
            segmenter = read_weights(reply.content, SEGMENTER, record.segmenter)
            if segmenter is None:
                raise MessageError(f"{site}: sent no segmenter")
            confidence = None
            if record.confidence is not None:
                confidence = read_weights(reply.content, CONFIDENCE, record.confidence)
            updates[site] = Update(
                report=self._declared(site, read_training(reply.content, self._protocol)),
                segmenter=segmenter,
                confidence=confidence,
            )

        instructions = dict.fromkeys(called.values(), content)
        self._exchange(plan.round, MessageType.TRAIN, instructions, accept, left_out)
        # Label-free sites are held near the global weights; they have a median of their own.
        for labelled in (True, False):
            alike = {
                s: u.segmenter for s, u in updates.items() if bool(u.report.labelled) is labelled
            }
            ratio = self._protocol.aggregation.max_norm_ratio
            for site, times in outsized_updates(alike, record.segmenter, ratio).items():
                left_out[site] = f"update {times:.1f} times the median norm"
                del updates[site]
        # Where only label-free sites or a few are called, the quorum is those that were.
        needed = min(self._protocol.aggregation.min_sites, len(called))
        self._require_quorum(f"round {plan.round}", len(updates), left_out, needed)
        return dict(sorted(updates.items()))

    def _declared(self, site: str, report: TrainReport) -> TrainReport:
        """A site's weight comes from what it declared, not from what a reply claims."""
        facts = self._facts[site]
        if (report.labelled, report.unlabelled) != (facts.labelled, facts.unlabelled):
            raise MessageError(
                f"{site}: trained on {report.labelled}+{report.unlabelled} cases, "
                f"declared {facts.labelled}+{facts.unlabelled}"
            )
        return report

    def _aggregate(
        self,
        record: StudyRecord,
        updates: Mapping[str, Update],
        plan: RoundPlan,
        left_out: Mapping[str, str],
    ) -> None:
        reports = {site: update.report for site, update in updates.items()}
        shares = segmenter_weights(reports, plan, self._protocol.aggregation)
        if shares:
            record.segmenter = average({s: u.segmenter for s, u in updates.items()}, shares)
        graded = {s: u.confidence for s, u in updates.items() if u.confidence is not None}
        shares = confidence_weights({site: reports[site] for site in graded})
        if shares:
            record.confidence = average(graded, shares)
        if left_out:
            log.warning("round %d: left out: %s", plan.round, _listed(left_out))

    def _evaluate(self, record: StudyRecord, finished: RoundRecord, started: float) -> RoundRecord:
        evaluated = [s for s, f in self._facts.items() if f.validation or f.test]
        reports: dict[str, EvaluationReport] = {}
        missing: dict[str, str] = {}

        def accept(reply: Message) -> None:
            reports[self._known_site(reply)] = read_evaluation(reply.content, self._protocol)

        content = pack_instruction(self._protocol, None, record.segmenter)
        instructions = {self._nodes[site]: content for site in evaluated}
        self._exchange(finished.plan.round, MessageType.EVALUATE, instructions, accept, missing)
        if missing:
            log.warning("round %d: not evaluated: %s", finished.plan.round, _listed(missing))
        reports = dict(sorted(reports.items()))
        dsc = macro_validation_dsc(reports)
        # While nothing was validated there is nothing to choose by: the last model is the best.
        if record.best_dsc is None or (dsc is not None and dsc >= record.best_dsc):
            record.best_round, record.best_dsc = finished.plan.round, dsc
            record.best_segmenter = record.segmenter
            record.best_confidence = record.confidence
        return replace(
            finished,
            seconds=time.monotonic() - started,
            evaluation=reports,
            validation_dsc=dsc,
        )

    def _known_site(self, reply: Message) -> str:
        """The site by its node; the name in the reply must agree."""
        name = read_site_name(reply.content)
        if self._nodes.get(name) != reply.metadata.src_node_id:
            raise MessageError(f"a node that is not site {name} answered in its name")
        return name

    def _exchange(
        self,
        number: int,
        kind: str,
        instructions: Mapping[int, RecordDict],
        accept: Callable[[Message], None],
        failures: dict[str, str],
    ) -> None:
        """Send, and take replies as they come until all are there or the time is up."""
        timeout_s = self._protocol.aggregation.round_timeout_s
        names = {node: site for site, node in self._nodes.items()}
        messages = [
            Message(content, node, kind, ttl=timeout_s, group_id=str(number))
            for node, content in instructions.items()
        ]
        waiting = set(self._grid.push_messages(messages))
        silent = set(instructions)
        deadline = time.monotonic() + timeout_s
        while waiting and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                node = reply.metadata.src_node_id
                silent.discard(node)
                site = names.get(node, f"node {node}")
                if reply.has_error():
                    failures[site] = reply.error.reason or f"error {reply.error.code}"
                else:
                    try:
                        accept(reply)
                    except MessageError as error:
                        failures[site] = str(error)
                self._watcher.site_answered(
                    number, len(instructions) - len(silent), len(instructions)
                )
            if waiting:
                time.sleep(_PULL_INTERVAL_S)
        for node in silent:
            failures[names.get(node, f"node {node}")] = f"no answer within {timeout_s:g} s"

    def _require_quorum(
        self, doing: str, count: int, failures: Mapping[str, str], needed: int | None = None
    ) -> None:
        needed = self._protocol.aggregation.min_sites if needed is None else needed
        if count < needed or count == 0:
            raise QuorumError(
                f"{doing}: {count} sites answered, at least {max(needed, 1)} must; "
                f"{_listed(failures) or 'no site failed'}; each site's own log says more"
            )


def _listed(failures: Mapping[str, str]) -> str:
    return ", ".join(f"{site} ({reason})" for site, reason in sorted(failures.items()))


def _running(old: SumCount, new: SumCount) -> SumCount:
    """Running mean of Eq. 2's weight: half the old, half the new round."""
    if new.mean is None or old.mean is None:
        return old
    return SumCount(sum=(old.mean + new.mean) / 2, count=1.0)


def _mean_box(
    facts: Mapping[str, SiteFacts],
) -> tuple[float, float, float, float, float, float] | None:
    """Mean organ box over all labelled cases of all sites."""
    edges = [sum((f.box[index] for f in facts.values()), SumCount()).mean for index in range(6)]
    known = [edge for edge in edges if edge is not None]
    if len(known) < 6:
        return None
    return (known[0], known[1], known[2], known[3], known[4], known[5])
