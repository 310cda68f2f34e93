"""A tracked study of two organs, as the federation's page reads it."""

from collections.abc import Sequence

from server.monitoring.tracked import TrackedSite, TrackedStudy


def tracked_study(sites: Sequence[TrackedSite], best_round: int) -> TrackedStudy:
    return TrackedStudy(
        name="tiny-1",
        status="FINISHED",
        started_ms=0,
        params={"organs.ball": "2", "organs.rod": "5"},
        best_round=best_round,
        metrics={},
        sites=tuple(sites),
    )
