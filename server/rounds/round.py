"""One round: sites train, the centre averages, sites evaluate."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from flwr.app import Message, MessageType

from protocol.config.schedule import RoundPlan
from protocol.wire.compression import as_sent, read_update
from protocol.wire.messages import (
    CONFIDENCE,
    SEGMENTER,
    pack_instruction,
    read_evaluation,
    read_training,
)
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from protocol.wire.weights import MessageError, bytes_sent
from server.rounds.aggregation import confidence_weights, segmenter_weights
from server.rounds.channel import Exchange
from server.rounds.membership import Membership, listed
from server.rounds.record import RoundRecord, StudyRecord, macro_validation_dsc
from server.rounds.schedule import evaluation_is_due, keep_if_best
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
    aggregate(members.record, updates, plan)
    if left_out:
        log.warning("round %d: left out: %s", plan.round, listed(left_out))
    accepted = dict(sorted(updates.accepted.items()))
    updates.clear()
    finished = RoundRecord(
        plan=plan,
        seconds=time.monotonic() - started,
        bytes_down=bytes_down,
        bytes_up={site: update.bytes_up for site, update in accepted.items()},
        reports={site: update.report for site, update in accepted.items()},
        left_out=left_out,
        finished_at=time.time(),
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
        left_out.update({site: "offline" for site in attendance.members if site not in asked})
        size = _collect_updates(members, updates, plan, asked, left_out)
        count = len(updates.accepted)
        if count >= needed:
            break
        still_online = len(set(members.channel.roster.sites_online()) & set(asked))
        if last_attempt or still_online >= needed:
            members.require_quorum(f"round {plan.round}", count, left_out, needed)
        log.warning("round %d: sites were lost: %s", plan.round, listed(left_out))
    return dict.fromkeys(asked, size)


def _collect_updates(
    members: Membership,
    updates: RoundUpdates,
    plan: RoundPlan,
    asked: list[str],
    left_out: dict[str, str],
) -> int:
    """Ask these sites to train; what was sent to each of them, bytes."""
    record = members.record
    updates.clear()
    content = pack_instruction(
        record.protocol, plan, record.segmenter, record.confidence, run=record.run
    )
    accept = partial(_accept_update, members, updates)
    training = Exchange(members.channel, plan.round, MessageType.TRAIN, accept)
    left_out |= training.request(members.addressed(asked, content))
    for site, ratio in updates.outsized(record.protocol.aggregation.max_norm_ratio).items():
        left_out[site] = f"update {ratio:.1f} times the median norm"
        updates.leave_out(site)
    return bytes_sent(content)


def _accept_update(members: Membership, updates: RoundUpdates, reply: Message) -> None:
    """Compare one update with what is agreed, and store it on the disk."""
    record = members.record
    wire, size = record.protocol.wire, bytes_sent(reply.content)
    site = members.site_of(reply)
    segmenter = read_update(reply.content, SEGMENTER, record.segmenter, wire, consume=True)
    if segmenter is None:
        raise MessageError(f"{site}: sent no segmenter")
    networks, current = {SEGMENTER: segmenter}, {SEGMENTER: record.segmenter}
    if record.confidence is not None:
        confidence = read_update(reply.content, CONFIDENCE, record.confidence, wire, consume=True)
        if confidence is not None:
            networks[CONFIDENCE], current[CONFIDENCE] = confidence, record.confidence
        elif record.facts[site].labelled:
            raise MessageError(f"{site}: has labels and sent no {CONFIDENCE}")
    report = read_training(reply.content, record.protocol)
    _refuse_other_counts(site, report, record.facts[site])
    updates.add(site, report, size, networks, current)


def _refuse_other_counts(site: str, report: TrainReport, facts: SiteFacts) -> None:
    """A site's weight comes from what it declared, not from what a reply claims."""
    if (report.labelled, report.unlabelled) != (facts.labelled, facts.unlabelled):
        raise MessageError(
            f"{site}: trained on {report.labelled}+{report.unlabelled} cases, "
            f"declared {facts.labelled}+{facts.unlabelled}"
        )


def aggregate(record: StudyRecord, updates: RoundUpdates, plan: RoundPlan) -> None:
    """Replace the record's networks by the weighted means of the accepted updates."""
    # The case counts of a reply equal this (`_refuse_other_counts`).
    facts = {site: record.facts[site] for site in updates.accepted}
    shares = segmenter_weights(facts, plan, record.protocol.aggregation)
    if shares:
        record.segmenter = updates.average(SEGMENTER, shares, record.segmenter)
    shares = confidence_weights({site: facts[site] for site in updates.with_network(CONFIDENCE)})
    if shares and record.confidence is not None:
        record.confidence = updates.average(CONFIDENCE, shares, record.confidence)


# ---- evaluation ---------------------------------------------------------------------------------


def _evaluate(members: Membership, round_number: int) -> Mapping[str, EvaluationReport]:
    """The scores of the sites that are online and have cases; the best weights are kept."""
    record = members.record
    online = set(members.channel.roster.sites_online())
    asked = [s for s, f in record.facts.items() if (f.validation or f.test) and s in online]
    reports: dict[str, EvaluationReport] = {}

    def accept(reply: Message) -> None:
        site = members.site_of(reply)
        report = read_evaluation(reply.content, record.protocol)
        _refuse_implausible(site, report, record.facts[site])
        reports[site] = report

    content = pack_instruction(
        record.protocol, None, record.segmenter, record.confidence, run=record.run
    )
    scoring = Exchange(members.channel, round_number, MessageType.EVALUATE, accept)
    missing = scoring.request(members.addressed(asked, content))
    if missing:
        log.warning("round %d: not evaluated: %s", round_number, listed(missing))
    reports = dict(sorted(reports.items()))
    # What was scored is what the sites had.
    keep_if_best(record, round_number, reports, partial(as_sent, wire=record.protocol.wire))
    return reports


def _refuse_implausible(site: str, report: EvaluationReport, facts: SiteFacts) -> None:
    """Scores are of cases that were declared, DSC is in [0, 1], and of no case there is no score.

    An organ that a site has not drawn has a count of zero, and is in no mean.

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
