"""The record in MLflow: one parent run for the study, one nested run for each site.

A study never waits for MLflow and never fails with it: what could not be written is written with a
later round, for `StudyRecord.rounds` holds them all.  What MLflow gets at a study's end is in
`study_files`.
"""

import logging
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import protocol.telemetry  # isort: skip

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from server.monitoring.data_inputs import log_cohort, log_site_data
from server.monitoring.metrics import (
    EXPERIMENT_TAGS,
    FINISHED,
    LAST_METRIC,
    LEFT_OUT_TAG,
    RESUMED_TAG,
    RUN_TAG,
    SITE_TAG,
    STATE_TAG,
    STUDY,
    flattened,
    mean_test_scores,
    package_versions,
    run_tags,
    site_metrics,
    site_params,
    state_of,
    study_identity,
    study_metrics,
    study_tags,
)
from server.monitoring.mlflow_client import OUTAGE, quieten, reason
from server.rounds.record import RoundRecord, StudyRecord
from server.rounds.watchers import Watcher

log = logging.getLogger(__name__)

_LAST_ATTEMPTS = 3


def open_client(uri: str) -> MlflowClient:
    """MLflow's client; for server/monitoring/tracked.py, which reads what is written here."""
    with warnings.catch_warnings():
        # A deprecation inside MLflow's own store; nothing that a user could mend.
        warnings.simplefilter("ignore")
        return MlflowClient(tracking_uri=uri)


class MlflowWatcher(Watcher):
    """Writes every finished round to MLflow, at once or, after an outage, later.

    No method raises for an outage: it is one warning when it begins and one line when it is over.
    A server that does not answer holds up a round by MLFLOW_HTTP_REQUEST_TIMEOUT (10 s unless
    set).  Place this watcher after the one that saves the study: MLflow cannot take back a round
    that a resumed study does not know and trains again.

    Args:
        uri: Tracking URI, such as sqlite:////path/mlflow.db or https://host; first used when the
            study starts.
        artifacts: Folder of the artifacts for a new experiment, or None for the server's own.
        experiment: Name of the experiment, made if it does not exist.
        extra_params: Recorded in addition to the protocol, such as the cohort's hash (`sha256`,
            which becomes the digest of the study's data set).
        tags: Of the study's run and models, such as the digest of what was signed.
        run_name: Unique name of this run of the study, without quotes: giving the same
            name again continues the same MLflow runs.  None: runs that are not continued.
        last_wait_s: Within this time after the end of the study an MLflow that is away is tried
            three times; 0: once.
    """

    def __init__(
        self,
        uri: str,
        artifacts: Path | None,
        experiment: str,
        extra_params: Mapping[str, str] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
        last_wait_s: float = 30.0,
    ) -> None:
        quieten()
        self._tags = {name: value for name, value in (tags or {}).items() if value}
        self._uri = uri
        self._artifacts = artifacts
        self._experiment = experiment
        versions = {f"version.{name}": value for name, value in package_versions().items()}
        self._extra = versions | dict(extra_params or {})
        self._run_name = run_name
        self._mark = run_name or uuid4().hex
        self._last_wait_s = last_wait_s
        self._runs: dict[str, str] = {}
        self._resumed: list[RunTag] = []
        self._study_run = ""
        self._written = 0
        self._reached = True
        self._protocol_tried = self._files_tried = False
        self._unclosed = False

    @property
    def run_id(self) -> str:
        """The parent run's id; empty until MLflow was reached."""
        return self._study_run

    def pending(self, record: StudyRecord) -> int:
        """How many rounds MLflow lacks, as far as is known; the last, if its runs are not closed.

        `study_finished` of a new watcher of the same `run_name` sends them.
        """
        return max(len(self._missing(record)), int(self._unclosed))

    def study_started(self, record: StudyRecord) -> None:
        if record.rounds:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._resumed = [RunTag(f"{RESUMED_TAG}{len(record.rounds)}", now)]
        self._attempt(record)

    def round_finished(self, record: StudyRecord) -> None:
        self._attempt(record)

    def study_finished(self, record: StudyRecord) -> None:
        """Write what is missing and close the runs; FAILED where rounds were not trained."""
        started = time.monotonic()
        self._unclosed = True
        for attempt in range(_LAST_ATTEMPTS):
            if attempt:
                gone_s = time.monotonic() - started
                if gone_s >= self._last_wait_s:
                    break
                time.sleep(max(0.0, self._last_wait_s * attempt / _LAST_ATTEMPTS - gone_s))
            if self._attempt(record, closing=True):
                self._unclosed = False
                return
        text = "MLflow is still not reached: %d rounds are not sent, and the runs are not closed"
        log.warning(text, len(self._missing(record)))

    @cached_property
    def _client(self) -> MlflowClient:
        return open_client(self._uri)

    def _missing(self, record: StudyRecord) -> list[RoundRecord]:
        return [item for item in record.rounds if item.plan.round > self._written]

    def _attempt(self, record: StudyRecord, *, closing: bool = False) -> bool:
        """Bring MLflow up to date; False, with no exception, where it cannot be reached."""
        try:
            self._open_runs(record)
            self._send(record)
            if closing:
                self._close(record)
        except OUTAGE as error:
            # Who knows what the server has when it is back: the next attempt asks it.
            self._runs = {}
            if self._reached:
                text = "MLflow cannot be reached (%s): rounds from %d on will be sent later"
                log.warning(text, reason(error), self._written + 1)
            self._reached = False
            return False
        if not self._reached:
            log.info("MLflow is reached again: it has all rounds up to %d", self._written)
        self._reached = True
        if closing or not self._protocol_tried:
            self._keep_protocol(record)
        return True

    def _open_runs(self, record: StudyRecord) -> None:
        """Find the runs by their tags, make those that do not exist, ask how far they are."""
        sites = set(record.facts).union(*(item.reports for item in record.rounds))
        if self._runs and sites <= self._runs.keys():
            return
        client, experiment = self._client, self._experiment_id()
        ours = f"tags.`{RUN_TAG}` = '{self._mark}'"
        existing: dict[str, Any] = {}
        for run in client.search_runs([experiment], ours, order_by=["attributes.start_time ASC"]):
            existing.setdefault(run.data.tags.get(SITE_TAG, STUDY), run)

        def open_run(key: str, name: str, tags: dict[str, str], params: dict[str, str]) -> str:
            run = existing.get(key) or client.create_run(
                experiment, run_name=name, tags={RUN_TAG: self._mark, **tags}
            )
            run_id: str = run.info.run_id
            if run.info.status != "RUNNING":
                client.update_run(run_id, status="RUNNING")
            # What was written once stays: MLflow refuses another value.
            lacking = [Param(k, v) for k, v in params.items() if k not in run.data.params]
            client.log_batch(run_id, params=lacking, tags=opening if key == STUDY else ())
            self._log_data(record, run_id, key)
            return run_id

        identity = run_tags(self._identity(record)) | {STATE_TAG: "at work"}
        opening = [*self._resumed, *(RunTag(*item) for item in identity.items())]
        name = self._run_name or record.protocol.name
        self._study_run = open_run(STUDY, name, {}, self._study_params(record))
        runs = {STUDY: self._study_run}
        for site in sorted(sites | existing.keys() - {STUDY}):
            tags = {SITE_TAG: site, "mlflow.parentRunId": self._study_run}
            runs[site] = open_run(site, f"site {site}", tags, site_params(record, site))
        history = client.get_metric_history(self._study_run, LAST_METRIC)
        self._written = max((metric.step for metric in history), default=0)
        self._runs = runs

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = self._artifacts.resolve().as_uri() if self._artifacts else None
        return str(self._client.create_experiment(self._experiment, location, EXPERIMENT_TAGS))

    def _log_data(self, record: StudyRecord, run_id: str, site: str) -> None:
        """What a site has declared, as MLflow shows data; of a simulation, the cohort's digest."""
        if site in record.facts:
            log_site_data(self._client, run_id, site, record.facts[site])
        elif site == STUDY and (digest := self._extra.get("sha256")):
            log_cohort(self._client, run_id, record.protocol.name, digest)

    def _study_params(self, record: StudyRecord) -> dict[str, str]:
        agreed = flattened(record.protocol.model_dump(mode="json"))
        return agreed | {"protocol_sha256": record.protocol.digest} | self._extra

    def _send(self, record: StudyRecord) -> None:
        """Every missing round: one request a site, then one for the study.

        A round that only some runs have is written again: what is equal, to the time, MLflow
        keeps once.
        """
        missing = self._missing(record)
        if not missing:
            return
        for site, run in self._runs.items():
            if site == STUDY:
                continue
            self._client.log_batch(
                run,
                metrics=[m for item in missing for m in _metrics(item, site_metrics(item, site))],
                tags=[
                    RunTag(f"{LEFT_OUT_TAG}{item.plan.round}", item.left_out[site])
                    for item in missing
                    if site in item.left_out
                ],
            )
        metrics = [m for item in missing for m in _metrics(item, study_metrics(item))]
        self._client.log_batch(self._study_run, metrics=metrics)
        self._written = missing[-1].plan.round

    def _keep_protocol(self, record: StudyRecord) -> None:
        """The protocol as a file.  It is in the parameters too, so that a failure is a remark."""
        content = record.protocol.model_dump(mode="json")
        try:
            self._client.log_dict(self._study_run, content, "protocol.json")
        except Exception as error:  # each kind of artifact store raises errors of its own kind
            if not self._protocol_tried:
                log.warning("MLflow did not take the file protocol.json (%s)", reason(error))
        self._protocol_tried = True

    def _close(self, record: StudyRecord) -> None:
        status = "FINISHED" if state_of(record) == FINISHED else "FAILED"
        run = self._client.get_run(self._study_run)
        if best := mean_test_scores(record):
            scored = next(r for r in record.rounds if r.plan.round == record.best_round)
            self._client.log_batch(self._study_run, metrics=_metrics(scored, best))
        self._send_files(record, run, status)
        tags = study_tags(record) | {STATE_TAG: state_of(record)}
        self._client.log_batch(self._study_run, tags=[RunTag(*item) for item in tags.items()])
        for run_id in self._runs.values():
            self._client.set_terminated(run_id, status)

    def _send_files(self, record: StudyRecord, run: Any, status: str) -> None:
        """Report, tables, models; a stopped study's models are files, and not in the registry."""
        from server.monitoring.recorded import recorded_study  # late: they are needed once
        from server.monitoring.study_files import StudyFiles

        files = StudyFiles(self._client, run, self._mark, record, self._identity(record))
        study = recorded_study(record, run, status)
        failed = files.send(study, register=status == "FINISHED")
        if failed and not self._files_tried:
            why = ", ".join(dict.fromkeys(reason(error) for error in failed.values()))
            log.warning("MLflow did not take %s (%s)", ", ".join(failed), why)
        self._files_tried = True

    def _identity(self, record: StudyRecord) -> dict[str, str]:
        return study_identity(record) | self._tags


def _metrics(finished: RoundRecord, values: Mapping[str, float]) -> list[Metric]:
    """MLflow's form.  A round has one time for ever: written twice, it is there once."""
    time_ms = int(finished.finished_at * 1000)
    return [Metric(key, value, time_ms, finished.plan.round) for key, value in values.items()]
