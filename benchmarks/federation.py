"""The rounds of a federation in this process: no Flower, no clock, nothing on a wire."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.config.schedule import RoundPlan
from server.rounds.record import RoundRecord, StudyRecord
from server.rounds.schedule import add_round
from server.rounds.updates import RoundUpdates


def finish_round(
    record: StudyRecord,
    plan: RoundPlan,
    updates: RoundUpdates,
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Put a round whose updates are aggregated on the record, as the next plan needs it."""
    finished = RoundRecord(
        plan=plan,
        seconds=0.0,
        bytes_down={},
        bytes_up={},
        reports={site: update.report for site, update in updates.accepted.items()},
        left_out=left_out or {},
        norms=updates.norms,
        clipped=dict(updates.clipped),
    )
    add_round(record, finished)
