"""The study as its record has it, in the form of one that is read back from MLflow.

The report at the study's end is made of it: the same page as `asdnet-centre report` writes, without
a request for each number.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from server.monitoring.metrics import (
    BEST_TAG,
    HINTS_TAG,
    site_metrics,
    site_params,
    study_metrics,
    study_tags,
)
from server.monitoring.tracked import TrackedStudy, resumed_after, tracked_site
from server.rounds.record import RoundRecord, StudyRecord


def recorded_study(record: StudyRecord, run: Any, status: str) -> TrackedStudy:
    """What `read_run` would give of it.

    Args:
        record: The study.
        run: MLflow's parent run, with its parameters.
        status: As MLflow is about to have it: FINISHED or FAILED.
    """
    tags = study_tags(record)
    sites = sorted(set(record.facts).union(*(item.reports for item in record.rounds)))
    return TrackedStudy(
        name=str(run.info.run_name),
        status=status,
        started_ms=int(run.info.start_time),
        params=dict(run.data.params),
        best_round=int(tags[BEST_TAG]) if BEST_TAG in tags else None,
        metrics=_series(record, study_metrics),
        sites=tuple(
            tracked_site(
                site,
                site_params(record, site),
                _series(record, partial(site_metrics, site=site)),
                {r.plan.round: r.left_out[site] for r in record.rounds if site in r.left_out},
            )
            for site in sites
        ),
        hints=tuple(tags.get(HINTS_TAG, "").splitlines()),
        resumed=resumed_after(run),
    )


def _series(
    record: StudyRecord, read: Callable[[RoundRecord], Mapping[str, float]]
) -> dict[str, dict[int, float]]:
    """Values by metric and round."""
    series: dict[str, dict[int, float]] = {}
    for item in record.rounds:
        for key, value in read(item).items():
            series.setdefault(key, {})[item.plan.round] = value
    return series
