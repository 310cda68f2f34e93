"""Reads one study from MLflow into typed objects.

MLflow itself is imported by server/monitoring/tracking.py alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protocol.wire.reports import CASE_PARTS
from server.monitoring.metrics import (
    ANNOTATED,
    BEST_TAG,
    HINTS_TAG,
    LEFT_OUT_TAG,
    RESUMED_TAG,
    RUN_TAG,
    SITE_TAG,
    STUDY,
)
from server.monitoring.mlflow_client import OUTAGE, quieten, reason
from server.monitoring.tracking import open_client

# Value by round.
Series = Mapping[int, float]
_MOST_RUNS = 50_000


class TrackedError(RuntimeError):
    """MLflow is away, or has no study of this name."""


@dataclass(frozen=True, kw_only=True)
class TrackedSite:
    """What one site sent, as `MlflowWatcher` names it.

    Attributes:
        cases: Declared counts: labelled, unlabelled, validation, test.
        metrics: By name, such as "dsc/bladder".
        left_out: The reason, by round.
        annotated: Labelled training cases in which each organ is drawn; {}: not noted.
    """

    site: str
    cases: Mapping[str, int]
    metrics: Mapping[str, Series]
    left_out: Mapping[int, str]
    annotated: Mapping[str, int] = field(default_factory=dict)

    def series(self, name: str) -> Series:
        """Values by round; empty where the site sent none."""
        return self.metrics.get(name, {})


@dataclass(frozen=True, kw_only=True)
class TrackedStudy:
    """A study's own numbers and those of its sites.

    Attributes:
        status: MLflow's: RUNNING, FINISHED, FAILED or KILLED.
        started_ms: POSIX time in ms.
        params: Protocol, versions, hashes; nested keys joined by dots.
        best_round: None while the study is at work.
        hints: What was wrong with the best model's scores; () while the study is at work.
        resumed: After which rounds it was started again.
    """

    name: str
    status: str
    started_ms: int
    params: Mapping[str, str]
    best_round: int | None
    metrics: Mapping[str, Series]
    sites: tuple[TrackedSite, ...] = field(default=())
    hints: tuple[str, ...] = ()
    resumed: tuple[int, ...] = ()

    def series(self, name: str) -> Series:
        return self.metrics.get(name, {})

    @property
    def rounds(self) -> int:
        """The last complete round."""
        return max(self.series("seconds"), default=0)

    @property
    def organs(self) -> tuple[str, ...]:
        """In the order of the protocol's label values."""
        prefix = "organs."
        keys = [key for key in self.params if key.startswith(prefix)]
        return tuple(
            k.removeprefix(prefix) for k in sorted(keys, key=lambda k: int(self.params[k]))
        )


def read_run(uri: str, name: str) -> TrackedStudy:
    """Everything that MLflow has of one study.

    Args:
        uri: MLflow's tracking URI.
        name: The run's name at the centre, or as MLflow shows it; of several the newest.

    Raises:
        TrackedError: If MLflow cannot be reached, or has no such study.
    """
    quieten()
    try:
        client = open_client(uri)
        experiments = [item.experiment_id for item in client.search_experiments()]
        runs = list(client.search_runs(experiments, max_results=_MOST_RUNS))
        mark = _mark(runs, name)
        ours = [run for run in runs if run.data.tags.get(RUN_TAG) == mark]
        metrics = {run.info.run_id: _metrics(client, run) for run in ours}
    except OUTAGE as error:
        raise TrackedError(f"MLflow cannot be read ({reason(error)}); check its address") from None
    parent = next(run for run in ours if _site(run) == STUDY)
    best = parent.data.tags.get(BEST_TAG)
    return TrackedStudy(
        name=str(parent.info.run_name),
        status=str(parent.info.status),
        started_ms=int(parent.info.start_time),
        params=dict(parent.data.params),
        best_round=int(best) if best else None,
        metrics=metrics[parent.info.run_id],
        sites=tuple(
            tracked_site(
                _site(run),
                run.data.params,
                metrics[run.info.run_id],
                _numbered(run.data.tags, LEFT_OUT_TAG),
            )
            for run in sorted(ours, key=_site)
            if _site(run) != STUDY
        ),
        hints=tuple(parent.data.tags.get(HINTS_TAG, "").splitlines()),
        resumed=resumed_after(parent),
    )


def _mark(runs: list[Any], name: str) -> str:
    """What the study's runs are tagged with."""
    shown = {
        str(run.data.tags[RUN_TAG]): str(run.info.run_name)
        for run in runs
        if RUN_TAG in run.data.tags and _site(run) == STUDY
    }
    for mark, title in shown.items():
        if name == mark or (name not in shown and name == title):
            return mark
    known = ", ".join(sorted(set(shown.values()))) or "none"
    raise TrackedError(f"MLflow has no study {name!r}; studies that it has: {known}")


def _site(run: Any) -> str:
    return str(run.data.tags.get(SITE_TAG, STUDY))


def _metrics(client: Any, run: Any) -> dict[str, Series]:
    return {
        key: {item.step: item.value for item in client.get_metric_history(run.info.run_id, key)}
        for key in run.data.metrics
    }


def tracked_site(
    site: str,
    params: Mapping[str, str],
    metrics: Mapping[str, Series],
    left_out: Mapping[int, str],
) -> TrackedSite:
    """A site of these parameters, metrics and reasons, as `MlflowWatcher` names them."""
    return TrackedSite(
        site=site,
        cases={name: int(params[name]) for name in CASE_PARTS if name in params},
        metrics=metrics,
        left_out=left_out,
        annotated={
            key.removeprefix(ANNOTATED): int(value)
            for key, value in params.items()
            if key.startswith(ANNOTATED)
        },
    )


def resumed_after(run: Any) -> tuple[int, ...]:
    """After which rounds a study of this parent run was started again."""
    return tuple(sorted(_numbered(run.data.tags, RESUMED_TAG)))


def _numbered(tags: Mapping[str, str], prefix: str) -> dict[int, str]:
    """Tags of a round each, by its number."""
    return {int(k.removeprefix(prefix)): v for k, v in tags.items() if k.startswith(prefix)}
