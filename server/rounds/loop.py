"""The study's round loop on Flower's Grid: train, aggregate, evaluate, each within a bound.

Flower's own strategies wait for nodes without limit and stop at the first odd reply; this loop
does neither.  A site that fails, is late or sends what it should not is left out of the round and
named; one that comes later joins, one that returns goes on; the study stops, with its state saved,
only when too few sites remain.
"""

from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

from flwr.serverapp import Grid

from protocol.agreement.first_weights import first_weights
from protocol.agreement.manifest import SignedManifest
from protocol.audit.log import AuditLog
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from server.rounds.channel import Channel
from server.rounds.errors import PausedError
from server.rounds.membership import Approved, Membership
from server.rounds.record import StudyRecord
from server.rounds.round import run_round
from server.rounds.schedule import add_round, next_plan
from server.rounds.updates import RoundUpdates
from server.rounds.watchers import Watcher


def new_record(protocol: StudyProtocol, run: str) -> StudyRecord:
    """A study of which no round is trained: seeded networks, no sites."""
    weights = first_weights(protocol)
    return StudyRecord(
        run=run,
        protocol=protocol,
        facts={},
        segmenter=weights[SEGMENTER],
        confidence=weights.get(CONFIDENCE),
    )


def run_study(
    grid: Grid,
    record: StudyRecord,
    watcher: Watcher,
    *,
    expected_sites: int | None = None,
    audit: AuditLog | None = None,
    updates: Path | None = None,
    agreement: SignedManifest | None = None,
    approved: Approved = lambda: None,
    rests: Callable[[], str] = lambda: "",
    only: Collection[str] | None = None,
) -> StudyRecord:
    """All rounds that the record does not hold yet.

    Args:
        grid: Flower's connection to the sites.
        record: A new study, or one to be resumed; it is changed in place.
        watcher: Gets every event, in order.
        expected_sites: Begin as soon as so many are there; else at the end of the joining time.
        audit: Log of all that is sent and received.
        updates: Folder of a round's updates, emptied now and at the end; None: a temporary one.
        agreement: What the centre has signed, sent with every instruction; None in a simulation.
        approved: How many training cases each site may declare; None: as many as it likes.
        rests: Asked before each round why it is not to be begun; "": it is.
        only: The sites that the study may call; None: all.

    Raises:
        PausedError: If it is to rest; the watcher has every complete round, and goes on with a
            later start.
        QuorumError: If fewer than `min_sites` answer; the watcher has been given what there is.
        RequirementsNotMetError: If a site's data are not what the study requires.
    """
    rules = record.protocol.aggregation
    channel = Channel(
        grid=grid,
        run=record.run,
        timeout_s=rules.round_timeout_s,
        absence_s=rules.absence_s,
        audit=audit,
        watcher=watcher,
        only=only,
        patience=rules.patience,
    )
    members = Membership(channel, record, agreement, approved)
    with closing(RoundUpdates(updates)) as round_updates:
        members.await_nodes(expected_sites)
        members.collect_facts(expected=expected_sites)
        watcher.study_started(record)
        why = ""
        try:
            while len(record.rounds) < record.protocol.training.rounds:
                if why := rests():
                    raise PausedError(why)
                if record.rounds:
                    members.collect_facts(wait=False)
                add_round(record, run_round(members, round_updates, next_plan(record)))
                watcher.round_finished(record)
        finally:
            if not why:
                watcher.study_finished(record)
    return record
