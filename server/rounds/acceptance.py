"""Compares a site's reply with what is agreed and declared, before anything of it is used."""

from flwr.app import Message

from protocol.wire.compression import read_update
from protocol.wire.messages import CONFIDENCE, SEGMENTER, read_training
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from protocol.wire.weights import MessageError, bytes_sent
from server.rounds.membership import Membership
from server.rounds.updates import RoundUpdates


def accept_update(members: Membership, updates: RoundUpdates, reply: Message) -> None:
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
    if report.twin.count > facts.validation:
        raise MessageError(f"{site}: compared more validation cases than it declared")


def refuse_undeclared(site: str, report: EvaluationReport, facts: SiteFacts) -> None:
    """Scores are of cases that were declared.

    Raises:
        MessageError: If they are not.
    """
    for part, declared in (("validation", facts.validation), ("test", facts.test)):
        if report.cases[part] > declared:
            raise MessageError(f"{site}: scored more cases than it declared")
    for of_organ in report.expected.values():
        if any(sums.unlabelled.count > facts.unlabelled for sums in of_organ.values()):
            raise MessageError(f"{site}: predicted more unlabelled scans than it declared")
