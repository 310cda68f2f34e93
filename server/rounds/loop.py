"""The study's round loop on Flower's Grid: configure, wait within a bound, aggregate, evaluate.

Flower's own strategies wait for nodes without limit and stop at the first odd reply; this loop
does neither.  A site that fails, is late or sends what it should not is left out of the round and
named; one that comes later joins, one that returns goes on; the study stops, with its state saved,
only when too few sites remain.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from asdnet_models.networks import build_confidence, build_segmenter
from protocol.audit.log import AuditLog
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol
from protocol.wire.compression import as_sent, read_update
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    EvaluationReport,
    SiteFacts,
    TrainReport,
    pack_instruction,
    read_evaluation,
    read_facts,
    read_site_name,
    read_training,
)
from protocol.wire.weights import MessageError, bytes_sent, wire_weights
from server.rounds.aggregation import confidence_weights, segmenter_weights
from server.rounds.channel import Exchange, Line
from server.rounds.errors import QuorumError, UnmetContractError
from server.rounds.record import RoundRecord, StudyRecord, macro_validation_dsc
from server.rounds.requirements import unmet
from server.rounds.roster import Roster
from server.rounds.schedule import add_round, evaluation_is_due, keep_if_best, next_plan
from server.rounds.updates import RoundUpdates
from server.rounds.watchers import Watcher

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2


def new_record(protocol: StudyProtocol, run: str) -> StudyRecord:
    """A study of which no round is trained: seeded networks, no sites."""
    return StudyRecord(
        run=run,
        protocol=protocol,
        facts={},
        segmenter=wire_weights(build_segmenter(protocol).state_dict()),
        confidence=wire_weights(build_confidence(protocol).state_dict())
        if protocol.method.trains_confidence
        else None,
    )


def run_study(
    grid: Grid,
    record: StudyRecord,
    watcher: Watcher,
    *,
    expected_sites: int | None = None,
    audit: AuditLog | None = None,
    updates: Path | None = None,
) -> StudyRecord:
    """All rounds that the record does not hold yet.

    Args:
        grid: Flower's connection to the sites.
        record: A new study, or one to be resumed; it is changed in place.
        watcher: Told of every event, in order.
        expected_sites: Begin as soon as so many are there; else at the end of the joining time.
        audit: Log of all that is sent and received.
        updates: Folder of a round's updates, emptied now and at the end; None: a temporary one.

    Raises:
        QuorumError: If fewer than `min_sites` answer; the watcher has been given what there is.
        UnmetContractError: If a site's data are not what the protocol's contract demands.
    """
    with closing(RoundUpdates(updates)) as kept:
        centre = _Centre(grid, record, watcher, audit, kept)
        centre.await_nodes(expected_sites)
        centre.ask_facts()
        watcher.study_started(record)
        try:
            _all_rounds(centre, record, watcher)
        finally:
            watcher.study_finished(record)
    return record


def _all_rounds(centre: "_Centre", record: StudyRecord, watcher: Watcher) -> None:
    while len(record.rounds) < record.protocol.training.rounds:
        if record.rounds:
            centre.ask_facts(wait=False)
        add_round(record, centre.run_round(next_plan(record)))
        watcher.round_finished(record)


class _Centre:
    """The coordinating centre's side of one study: who is there, and one round with them."""

    def __init__(
        self,
        grid: Grid,
        record: StudyRecord,
        watcher: Watcher,
        audit: AuditLog | None,
        updates: RoundUpdates,
    ) -> None:
        self.updates = updates
        self._protocol = record.protocol
        self._record = record
        self._watcher = watcher
        self._roster = Roster(grid)
        rules = record.protocol.aggregation
        self._line = Line(
            grid=grid,
            roster=self._roster,
            run=record.run,
            timeout_s=rules.round_timeout_s,
            absence_s=rules.absence_s,
            audit=audit,
            watcher=watcher,
        )
        self._unmet: list[str] = []
        # Newcomers are asked in passing, over many rounds.
        self._newcomers = Exchange(self._line, 0, MessageType.QUERY, self._welcome)

    def await_nodes(self, expected: int | None) -> None:
        """Wait for nodes, never longer than the joining time."""
        rules = self._protocol.aggregation
        deadline = time.monotonic() + rules.join_timeout_s
        told: list[str] | None = None
        while True:
            online = self._roster.online()
            names = sorted(there.registered_as or str(node) for node, there in online.items())
            if names != told:
                told = names
                self._watcher.sites_online(names, expected or rules.min_sites)
            if expected is not None and len(online) >= expected:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_EVERY_S)
        if len(online) < rules.min_sites:
            raise QuorumError(
                f"joining: {len(online)} sites are online, at least {rules.min_sites} must be, "
                f"after {rules.join_timeout_s:g} s; start the missing sites or lower min_sites"
            )

    def ask_facts(self, *, wait: bool = True) -> None:
        """Every site that has not done so checks and caches its data and declares its counts.

        Args:
            wait: For all of them; else a declaration, which may take the time of preparing the
                site's cache, is taken when it has come, and holds no round up.
        """
        content = pack_instruction(self._protocol, run=self._record.run)
        instructions = dict.fromkeys(self._roster.strangers(), content)
        if wait:
            failures = Exchange(self._line, 0, MessageType.QUERY, self._welcome).call(instructions)
            self._refuse_unmet()
            self._require_quorum("declaring the data", len(self._record.facts), failures)
        else:
            failures = self._newcomers.ask_in_passing(instructions)
        if failures:
            log.warning("not part of the study: %s", _listed(failures))
        self._record.facts = dict(sorted(self._record.facts.items()))

    def _welcome(self, reply: Message) -> None:
        name = read_site_name(reply.content)
        facts = read_facts(reply.content, self._protocol)
        found = unmet(name, facts, self._protocol)
        if found:
            self._unmet += found
            raise MessageError("; ".join(found))
        self._roster.introduce(reply.metadata.src_node_id, name)
        self._record.facts[name] = facts

    def _refuse_unmet(self) -> None:
        """A study is not begun on data that are not what was agreed; one under way goes on."""
        if self._unmet and self._protocol.contract.unmet == "stop" and not self._record.rounds:
            raise UnmetContractError(
                "the study's contract is not met:\n"
                + "\n".join(self._unmet)
                + "\nwhich cases, and what to do, says client/check.py at the site; or set "
                "contract.unmet to leave-out"
            )

    def run_round(self, plan: RoundPlan) -> RoundRecord:
        """Train, aggregate into the record, and evaluate where the protocol says so."""
        started = time.monotonic()
        left_out: dict[str, str] = {}
        sent = self._train(plan, left_out)
        self._aggregate(plan, left_out)
        updates = dict(sorted(self.updates.accepted.items()))
        self.updates.clear()
        finished = RoundRecord(
            plan=plan,
            seconds=time.monotonic() - started,
            bytes_down=sent,
            bytes_up={site: update.bytes_up for site, update in updates.items()},
            reports={site: update.report for site, update in updates.items()},
            left_out=left_out,
            finished_at=time.time(),
        )
        if not evaluation_is_due(self._protocol, plan.round):
            return finished
        return self._evaluate(finished, started)

    def _has_work(self, site: str, plan: RoundPlan) -> bool:
        """A label-free site rests while its scans have no target: its update weighs nothing."""
        facts = self._record.facts[site]
        return facts.labelled > 0 or (facts.unlabelled > 0 and plan.learns_from_unlabelled)

    def _train(self, plan: RoundPlan, left_out: dict[str, str]) -> dict[str, int]:
        """Have the updates of one round collected; who was called, and what was sent, bytes.

        Where so many were lost that the quorum is not there, they are called once more.
        """
        for last_attempt in (False, True):
            members, called, needed = self._await_quorum(plan)
            left_out.clear()
            left_out.update({site: "offline" for site in members if site not in called})
            size = self._collect(called, plan, left_out)
            count = len(self.updates.accepted)
            if count >= needed:
                break
            still_there = len(set(self._roster.sites_online()) & set(called))
            if last_attempt or still_there >= needed:
                self._require_quorum(f"round {plan.round}", count, left_out, needed)
            log.warning("round %d: sites were lost: %s", plan.round, _listed(left_out))
        return dict.fromkeys(called, size)

    def _await_quorum(self, plan: RoundPlan) -> tuple[list[str], list[str], int]:
        """Who has work in this round, who of them is online, and how many are needed.

        Waits for enough of them, within the joining time; newcomers are welcome meanwhile.
        """
        rules = self._protocol.aggregation
        deadline = time.monotonic() + rules.join_timeout_s
        told = False
        while True:
            members = [site for site in self._record.facts if self._has_work(site, plan)]
            # Where the plan has work for a few sites only, the quorum is those.
            needed = max(1, min(rules.min_sites, len(members)))
            online = set(self._roster.sites_online())
            called = [site for site in members if site in online]
            if len(called) >= needed:
                return members, called, needed
            if time.monotonic() >= deadline:
                raise QuorumError(
                    f"round {plan.round}: {len(called)} sites are online, at least {needed} must "
                    f"be, after waiting {rules.join_timeout_s:g} s; offline: "
                    f"{', '.join(sorted(set(members) - online))}"
                )
            if not told:
                told = True
                log.warning(
                    "round %d: %d of at least %d sites are online; waiting for at most %.0f s",
                    *(plan.round, len(called), needed, rules.join_timeout_s),
                )
            time.sleep(_LOOK_EVERY_S)
            self.ask_facts(wait=False)

    def _collect(self, called: list[str], plan: RoundPlan, left_out: dict[str, str]) -> int:
        """Ask these sites to train; what was sent to each of them, bytes."""
        record = self._record
        self.updates.clear()
        content = pack_instruction(
            self._protocol, plan, record.segmenter, record.confidence, run=record.run
        )
        training = Exchange(self._line, plan.round, MessageType.TRAIN, self._accept)
        left_out |= training.call(self._addressed(called, content))
        ratio = self._protocol.aggregation.max_norm_ratio
        for site, times in self.updates.outsized(ratio).items():
            left_out[site] = f"update {times:.1f} times the median norm"
            self.updates.leave_out(site)
        return bytes_sent(content)

    def _accept(self, reply: Message) -> None:
        """One update: held against what is agreed, then on the disk."""
        record, wire = self._record, self._protocol.wire
        size = bytes_sent(reply.content)
        site = self._known_site(reply)
        segmenter = read_update(reply.content, SEGMENTER, record.segmenter, wire, consume=True)
        if segmenter is None:
            raise MessageError(f"{site}: sent no segmenter")
        networks, current = {SEGMENTER: segmenter}, {SEGMENTER: record.segmenter}
        if record.confidence is not None:
            confidence = read_update(
                reply.content, CONFIDENCE, record.confidence, wire, consume=True
            )
            if confidence is not None:
                networks[CONFIDENCE], current[CONFIDENCE] = confidence, record.confidence
            elif record.facts[site].labelled:
                raise MessageError(f"{site}: has labels and sent no {CONFIDENCE}")
        report = self._declared(site, read_training(reply.content, self._protocol))
        self.updates.add(site, report, size, networks, current)

    def _addressed(self, sites: list[str], content: RecordDict) -> dict[int, RecordDict]:
        nodes = [self._roster.node_of(site) for site in sites]
        return {node: content for node in nodes if node is not None}

    def _declared(self, site: str, report: TrainReport) -> TrainReport:
        """A site's weight comes from what it declared, not from what a reply claims."""
        facts = self._record.facts[site]
        if (report.labelled, report.unlabelled) != (facts.labelled, facts.unlabelled):
            raise MessageError(
                f"{site}: trained on {report.labelled}+{report.unlabelled} cases, "
                f"declared {facts.labelled}+{facts.unlabelled}"
            )
        return report

    def _aggregate(self, plan: RoundPlan, left_out: Mapping[str, str]) -> None:
        record, updates = self._record, self.updates
        # What a reply says of its cases was held against this (`_declared`).
        facts = {site: record.facts[site] for site in updates.accepted}
        shares = segmenter_weights(facts, plan, self._protocol.aggregation)
        if shares:
            record.segmenter = updates.average(SEGMENTER, shares, record.segmenter)
        graded = {site: facts[site] for site in updates.with_network(CONFIDENCE)}
        shares = confidence_weights(graded)
        if shares and record.confidence is not None:
            record.confidence = updates.average(CONFIDENCE, shares, record.confidence)
        if left_out:
            log.warning("round %d: left out: %s", plan.round, _listed(left_out))

    def _evaluate(self, finished: RoundRecord, started: float) -> RoundRecord:
        record = self._record
        online = set(self._roster.sites_online())
        evaluated = [s for s, f in record.facts.items() if (f.validation or f.test) and s in online]
        reports: dict[str, EvaluationReport] = {}

        def accept(reply: Message) -> None:
            site = self._known_site(reply)
            report = read_evaluation(reply.content, self._protocol)
            _refuse_implausible(site, report, record.facts[site])
            reports[site] = report

        content = pack_instruction(
            self._protocol, None, record.segmenter, record.confidence, run=record.run
        )
        scoring = Exchange(self._line, finished.plan.round, MessageType.EVALUATE, accept)
        missing = scoring.call(self._addressed(evaluated, content))
        if missing:
            log.warning("round %d: not evaluated: %s", finished.plan.round, _listed(missing))
        reports = dict(sorted(reports.items()))
        # What was scored is what the sites had.
        scored = partial(as_sent, wire=self._protocol.wire)
        keep_if_best(record, finished.plan.round, reports, scored)
        return replace(
            finished,
            seconds=time.monotonic() - started,
            evaluation=reports,
            validation_dsc=macro_validation_dsc(reports),
            finished_at=time.time(),
        )

    def _known_site(self, reply: Message) -> str:
        """The site by its node; the name in the reply must agree."""
        name = read_site_name(reply.content)
        if self._roster.node_of(name) != reply.metadata.src_node_id:
            raise MessageError(f"a node that is not site {name} answered in its name")
        return name

    def _require_quorum(
        self, doing: str, count: int, failures: Mapping[str, str], needed: int | None = None
    ) -> None:
        needed = self._protocol.aggregation.min_sites if needed is None else needed
        if count < needed or count == 0:
            raise QuorumError(
                f"{doing}: {count} sites answered, at least {max(needed, 1)} must; "
                f"{_listed(failures) or 'no site failed'}; each site's own log says more"
            )


def _refuse_implausible(site: str, report: EvaluationReport, facts: SiteFacts) -> None:
    """Scores are of cases that were declared, DSC is in [0, 1], and of no case there is no score.

    An organ that a site has not drawn has a count of nought, and is in no mean.

    Raises:
        MessageError: If they are not.
    """
    for part, declared in (("validation", facts.validation), ("test", facts.test)):
        if report.cases[part] > declared:
            raise MessageError(f"{site}: scored more cases than it declared")
        for total in (*report.dsc[part].values(), *report.asd_mm[part].values()):
            if max(total.count, total.failures) > report.cases[part]:
                raise MessageError(f"{site}: sent more scores than it has cases")
            if not total.count and (total.sum or total.sum_of_squares):
                raise MessageError(f"{site}: sent a sum over no case")
        for total in report.dsc[part].values():
            if not 0 <= total.sum <= total.count + 1e-6:
                raise MessageError(f"{site}: sent a DSC that is not in [0, 1]")


def _listed(failures: Mapping[str, str]) -> str:
    return ", ".join(f"{site} ({reason})" for site, reason in sorted(failures.items()))
