"""One round: sites train, the centre averages, sites evaluate."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from flwr.app import Message, MessageType, RecordDict

from protocol.agreement.bounds import clip, update_bound
from protocol.config.schedule import RoundPlan, evaluation_is_due
from protocol.wire.compression import as_sent
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_instruction,
    read_evaluation,
)
from protocol.wire.reports import EvaluationReport
from protocol.wire.weights import Weights, bytes_sent
from server.rounds.acceptance import accept_update, refuse_undeclared
from server.rounds.aggregation import confidence_weights, segmenter_weights, with_momentum
from server.rounds.channel import Exchange
from server.rounds.clipping import clip_factors, shortened
from server.rounds.membership import Attendance, Membership, listed
from server.rounds.record import RoundRecord, StudyRecord, macro_validation_dsc
from server.rounds.schedule import follow_average, keep_if_best
from server.rounds.statements import RoundStatements, proven
from server.rounds.updates import RoundUpdates

log = logging.getLogger(__name__)


def run_round(members: Membership, updates: RoundUpdates, plan: RoundPlan) -> RoundRecord:
    """Train, aggregate into the study's record, and evaluate where the protocol asks for it.

    Args:
        members: The sites.
        updates: Keeps what they send until it is averaged; empty afterwards.
        plan: Of this round.

    Raises:
        QuorumError: If too few sites answer.
    """
    started = time.monotonic()
    left_out: dict[str, str] = {}
    bytes_down = _train(members, updates, plan, left_out)
    began = members.record.networks
    aggregate(members.record, updates, plan)
    if members.agreement is not None or members.record.protocol.aggregation.momentum:
        members.record.before = began
    sent = partial(as_sent, wire=members.record.protocol.wire)
    follow_average(members.record, plan.round, sent)
    if left_out:
        log.warning("round %d: left out: %s", plan.round, listed(left_out))
    accepted = dict(sorted(updates.accepted.items()))
    norms, clipped = updates.norms, dict(updates.clipped)
    if clipped:
        log.warning("round %d: shortened: %s", plan.round, listed(shortened(clipped)))
    updates.clear()
    finished = RoundRecord(
        plan=plan,
        seconds=time.monotonic() - started,
        bytes_down=bytes_down,
        bytes_up={site: update.bytes_up for site, update in accepted.items()},
        reports={site: update.report for site, update in accepted.items()},
        left_out=left_out,
        finished_at=time.time(),
        norms=norms,
        clipped=clipped,
    )
    if not evaluation_is_due(members.record.protocol, plan.round):
        return finished
    evaluation = _evaluate(members, plan.round)
    return replace(
        finished,
        seconds=time.monotonic() - started,
        evaluation=evaluation,
        validation_dsc=macro_validation_dsc(evaluation),
        finished_at=time.time(),
    )


def _instructions(
    members: Membership,
    sites: Sequence[str],
    *,
    plan: RoundPlan | None = None,
    scored_round: int | None = None,
) -> dict[str, RecordDict]:
    """The global weights for each of these sites, to train by a plan or to score after a round."""
    record = members.record
    content = pack_instruction(
        record.protocol,
        plan,
        record.segmenter,
        record.confidence,
        run=record.run,
        agreement=members.agreement,
        scored_round=scored_round,
    )
    return proven(members, sites, content)


# ---- training -----------------------------------------------------------------------------------


def _train(
    members: Membership, updates: RoundUpdates, plan: RoundPlan, left_out: dict[str, str]
) -> dict[str, int]:
    """Collect the updates of one round; who was asked, and what was sent, bytes.

    Where so many were lost that the quorum is not there, all are asked once more.
    """
    for last_attempt in (False, True):
        attendance = members.await_quorum(plan)
        asked, needed = attendance.online, attendance.needed
        left_out.clear()
        left_out.update(attendance.absent)
        statements = RoundStatements(members, plan.round)
        sizes = _collect_updates(members, updates, plan, attendance, left_out, statements)
        count = len(updates.accepted)
        if count >= needed:
            break
        still_online = len(set(members.channel.roster.sites_online()) & set(asked))
        if last_attempt or still_online >= needed:
            members.require_quorum(f"round {plan.round}", count, left_out, needed)
        log.warning("round %d: sites were lost: %s", plan.round, listed(left_out))
    if members.agreement is not None:
        members.record.statements = statements.all()
    return sizes


def _collect_updates(
    members: Membership,
    updates: RoundUpdates,
    plan: RoundPlan,
    attendance: Attendance,
    left_out: dict[str, str],
    statements: RoundStatements,
) -> dict[str, int]:
    """Ask these sites to train; what was sent to each of them, bytes."""
    updates.clear()
    asked = attendance.online
    instructions = _instructions(members, asked, plan=plan)

    def accept(reply: Message) -> None:
        statements.take(reply)
        accept_update(members, updates, reply)

    training = Exchange(members.channel, plan.round, MessageType.TRAIN, accept)
    left_out |= training.request(members.addressed(instructions), attendance.needed)
    members.silence.note(asked, training.late)
    return {site: bytes_sent(content) for site, content in instructions.items()}


def aggregate(record: StudyRecord, updates: RoundUpdates, plan: RoundPlan) -> None:
    """Replace the record's networks by what the study's rule makes of the accepted updates.

    Updates that are too large are shortened first, and so is what comes of them: a median by
    coordinate can be longer than each of them, and so can a mean with momentum.
    """
    labelled = {site: bool(update.report.labelled) for site, update in updates.accepted.items()}
    updates.clip(clip_factors(record, plan, updates.norms, labelled))
    # The case counts of a reply equal this (`acceptance.py`).
    facts = {site: record.facts[site] for site in updates.accepted}
    rules = record.protocol.aggregation
    shares = segmenter_weights(facts, plan, rules)
    if shares:
        record.segmenter = _combined(record, updates, plan, SEGMENTER, shares, record.segmenter)
    shares = confidence_weights({s: facts[s] for s in updates.with_network(CONFIDENCE)}, rules)
    if shares and record.confidence is not None:
        record.confidence = _combined(record, updates, plan, CONFIDENCE, shares, record.confidence)


def _combined(
    record: StudyRecord,
    updates: RoundUpdates,
    plan: RoundPlan,
    network: str,
    shares: Mapping[str, float],
    current: Weights,
) -> Weights:
    """One network after the round, no further from its weights before it than the bound."""
    rules = record.protocol.aggregation
    weights = updates.combine(network, shares, current, rules.rule, rules.hostile)
    weights = with_momentum(weights, current, record.before.get(network), rules.momentum)
    return clip(weights, current, update_bound(record.protocol, plan, network, current))[0]


# ---- evaluation ---------------------------------------------------------------------------------


def _evaluate(members: Membership, round_number: int) -> Mapping[str, EvaluationReport]:
    """The scores of the sites that are online and have cases; the best weights are kept.

    One that has unlabelled scans alone says what the maps expect of these.
    """
    record = members.record
    online = members.sites_to_call()
    asked = [
        site
        for site, facts in record.facts.items()
        if (facts.validation or facts.test or facts.unlabelled) and site in online
    ]
    reports: dict[str, EvaluationReport] = {}

    def accept(reply: Message) -> None:
        site = members.site_of(reply)
        report = read_evaluation(reply.content, record.protocol)
        refuse_undeclared(site, report, record.facts[site])
        reports[site] = report

    instructions = _instructions(members, asked, scored_round=round_number)
    scoring = Exchange(members.channel, round_number, MessageType.EVALUATE, accept)
    # Scores need no quorum; where most sites have sent theirs, the model can be chosen.
    missing = scoring.request(members.addressed(instructions), (len(asked) + 1) // 2)
    members.silence.note(asked, scoring.late)
    if missing:
        log.warning("round %d: not evaluated: %s", round_number, listed(missing))
    reports = dict(sorted(reports.items()))
    # What was scored is what the sites had.
    keep_if_best(record, round_number, reports, partial(as_sent, wire=record.protocol.wire))
    return reports
