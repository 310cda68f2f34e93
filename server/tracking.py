"""The record in MLflow: one parent run for the study, one nested run for each site.

The only module that imports mlflow.
"""

import logging
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import protocol.telemetry  # isort: skip

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.utils.time import get_current_time_millis

from protocol.messages import EvaluationReport, TrainReport
from server.record import RoundRecord, StudyRecord

log = logging.getLogger(__name__)

_TRACKED_PACKAGES = ("flwr", "torch", "monai", "SimpleITK", "numpy", "mlflow", "surface-distance")
# MLflow's own limit on one batch.
_PARAMS_AT_ONCE = 100


def package_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: version(name) for name in _TRACKED_PACKAGES}


class MlflowWatcher:
    """Writes every finished round to MLflow.

    Args:
        uri: Tracking URI, such as sqlite:////path/mlflow.db.
        artifacts: Folder of the artifacts for a new experiment, or None for the server's own.
        experiment: Name of the experiment, made if it does not exist.
        extra_params: Recorded beside the protocol, such as the cohort's hash.
    """

    def __init__(
        self,
        uri: str,
        artifacts: Path | None,
        experiment: str,
        extra_params: Mapping[str, str] | None = None,
    ) -> None:
        # MLflow narrates its database migrations at INFO.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            # A deprecation inside MLflow's own store; nothing that a user could mend.
            warnings.simplefilter("ignore")
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
        location = artifacts.resolve().as_uri() if artifacts else None
        self._experiment_id = (
            found.experiment_id
            if found
            else self._client.create_experiment(experiment, artifact_location=location)
        )
        self._extra = dict(extra_params or {})
        self._study_run = ""
        self._site_runs: dict[str, str] = {}

    @property
    def run_id(self) -> str:
        """The parent run's id."""
        return self._study_run

    def study_started(self, record: StudyRecord) -> None:
        """Open the runs and write down what was agreed."""
        protocol = record.protocol
        self._study_run = self._new_run(protocol.name, {})
        params = _flat(protocol.model_dump(mode="json")) | {
            f"version.{name}": value for name, value in package_versions().items()
        }
        params |= {"protocol_sha256": protocol.digest, **self._extra}
        self._log_params(self._study_run, params)
        self._client.log_dict(self._study_run, protocol.model_dump(mode="json"), "protocol.json")
        for site, facts in record.facts.items():
            run = self._new_run(f"site {site}", {"mlflow.parentRunId": self._study_run})
            self._site_runs[site] = run
            counts = ("labelled", "unlabelled", "validation", "test")
            self._log_params(run, {"site": site} | {n: str(getattr(facts, n)) for n in counts})

    def site_answered(self, number: int, done: int, expected: int) -> None:
        """Nothing to write before the round is complete."""

    def round_finished(self, record: StudyRecord) -> None:
        """All numbers of the last round, by site and for the study."""
        finished = record.rounds[-1]
        step = finished.plan.round
        for site, run in self._site_runs.items():
            values: dict[str, float] = {}
            if site in finished.reports:
                values |= _training_metrics(finished, site, finished.reports[site])
            if finished.evaluation and site in finished.evaluation:
                values |= _score_metrics(finished.evaluation[site])
            if site in finished.left_out:
                self._client.set_tag(run, f"left_out.round_{step}", finished.left_out[site])
            self._log(run, values, step)
        plan = finished.plan
        values = {
            "seconds": finished.seconds,
            "sites": float(len(finished.reports)),
            "lr_factor": plan.lr_factor,
            "ramp/adversarial": plan.adversarial_ramp,
            "ramp/region": plan.region_ramp,
            "attention_scale": plan.attention_scale,
        }
        if finished.validation_dsc is not None:
            values["validation_dsc"] = finished.validation_dsc
        self._log(self._study_run, values, step)

    def study_finished(self, record: StudyRecord) -> None:
        """Close the runs; FAILED where rounds are missing."""
        complete = len(record.rounds) == record.protocol.training.rounds
        status = "FINISHED" if complete else "FAILED"
        if record.best_round is not None:
            self._client.set_tag(self._study_run, "best_round", str(record.best_round))
        for run in (*self._site_runs.values(), self._study_run):
            self._client.set_terminated(run, status)

    def _new_run(self, name: str, tags: dict[str, str]) -> str:
        run = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
        run_id: str = run.info.run_id
        return run_id

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        items = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(items), _PARAMS_AT_ONCE):
            self._client.log_batch(run, params=items[start : start + _PARAMS_AT_ONCE])

    def _log(self, run: str, values: Mapping[str, float], step: int) -> None:
        now = get_current_time_millis()
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(run, metrics=metrics)


def _training_metrics(finished: RoundRecord, site: str, report: TrainReport) -> dict[str, float]:
    values = {
        f"loss/{name}": total.mean
        for name, total in report.losses.items()
        if total.mean is not None
    }
    if report.trusted_fraction is not None:
        values["trusted_fraction"] = report.trusted_fraction
    values |= {
        f"trusted_fraction/{name}": total.mean
        for name, total in report.trusted.items()
        if total.mean is not None
    }
    return values | {
        "cases/labelled": float(report.labelled),
        "cases/unlabelled": float(report.unlabelled),
        "seconds": report.seconds,
        "bytes_up": float(finished.bytes_up[site]),
        "bytes_down": float(finished.bytes_down[site]),
    }


def _score_metrics(report: EvaluationReport) -> dict[str, float]:
    """`dsc/<organ>` are test cases, `validation/dsc/<organ>` what the model is chosen by."""
    values: dict[str, float] = {}
    for part, prefix in (("test", ""), ("validation", "validation/")):
        for organ, total in report.dsc[part].items():
            if total.mean is not None:
                values[f"{prefix}dsc/{organ}"] = total.mean
        for organ, total in report.asd_mm[part].items():
            if total.mean is not None:
                values[f"{prefix}asd_mm/{organ}"] = total.mean
            if report.cases[part]:
                values[f"{prefix}failures/{organ}"] = float(total.failures)
    return values


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested keys joined by dots, values as text."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
