"""What MLflow holds after a study, read back from its store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.messages import EvaluationReport, SiteFacts, TrainReport
from protocol.schedule import plan_round
from protocol.study import StudyProtocol
from protocol.sums import ScoreSum, SumCount
from server.record import RoundRecord, StudyRecord
from server.tracking import MlflowClient, MlflowWatcher


def evaluation() -> EvaluationReport:
    dsc = {"ball": ScoreSum.of([0.8, 0.9]), "rod": ScoreSum.of([0.5, 0.0], 1)}
    asd = {"ball": ScoreSum.of([1.0, 2.0]), "rod": ScoreSum.of([3.0, None], 1)}
    none = {"ball": ScoreSum(), "rod": ScoreSum()}
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": 2},
        dsc={"validation": none, "test": dsc},
        asd_mm={"validation": none, "test": asd},
    )


def round_record(protocol: StudyProtocol, number: int) -> RoundRecord:
    report = TrainReport(
        labelled=3,
        unlabelled=1,
        steps=2,
        seconds=1.5,
        losses={"dice": SumCount(sum=1.0, count=2.0 * number), "region": SumCount()},
        trusted={"ball": SumCount(sum=1.0, count=4.0), "rod": SumCount()},
    )
    return RoundRecord(
        plan=plan_round(protocol, number),
        seconds=2.5,
        bytes_down={"A": 70, "B": 70},
        bytes_up={"A": 60},
        reports={"A": report},
        left_out={"B": "ContractError"},
        evaluation={"A": evaluation()} if number == 2 else None,
        validation_dsc=0.7 if number == 2 else None,
    )


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def record(make_protocol: Callable[..., StudyProtocol]) -> StudyRecord:
    protocol = make_protocol()
    facts = SiteFacts(labelled=3, unlabelled=1, validation=0, test=2)
    return StudyRecord(
        protocol=protocol, facts={"A": facts, "B": facts}, segmenter={}, confidence=None
    )


def follow(uri: str, folder: Path, record: StudyRecord, rounds: int, experiment: str) -> str:
    watcher = MlflowWatcher(uri, folder / "artifacts", experiment, {"sha256": "c0ffee"})
    watcher.study_started(record)
    for number in range(1, rounds + 1):
        record.rounds.append(round_record(record.protocol, number))
        watcher.round_finished(record)
    record.best_round = rounds or None
    watcher.study_finished(record)
    return watcher.run_id


def test_a_complete_study(uri: str, tmp_path: Path, record: StudyRecord) -> None:
    run_id = follow(uri, tmp_path, record, 2, "complete")
    client = MlflowClient(uri)
    study = client.get_run(run_id)
    params = study.data.params
    assert study.info.status == "FINISHED"
    assert params["seed"] == "4"
    assert params["training.rounds"] == "2"
    assert params["organs.rod"] == "5"
    assert params["protocol_sha256"] == record.protocol.digest
    assert params["version.flwr"].startswith("1.41.")
    assert params["sha256"] == "c0ffee"
    assert study.data.metrics["validation_dsc"] == 0.7
    assert study.data.tags["best_round"] == "2"
    assert (tmp_path / "artifacts").is_dir()

    runs = client.search_runs([study.info.experiment_id])
    sites = {
        run.data.params["site"]: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == run_id
    }
    assert set(sites) == {"A", "B"}
    metrics = sites["A"].data.metrics
    expected = {
        "dsc/ball": 0.85,
        "dsc/rod": 0.25,
        "asd_mm/ball": 1.5,
        "asd_mm/rod": 3.0,
        "failures/rod": 1.0,
        "trusted_fraction": 0.25,
        "trusted_fraction/ball": 0.25,
        "cases/labelled": 3.0,
        "cases/unlabelled": 1.0,
        "seconds": 1.5,
        "bytes_up": 60.0,
        "bytes_down": 70.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert "loss/region" not in metrics
    assert not any(name.startswith("validation/") for name in metrics)
    history = client.get_metric_history(sites["A"].info.run_id, "loss/dice")
    assert [(item.step, item.value) for item in history] == [(1, 0.5), (2, 0.25)]
    assert sites["A"].info.status == sites["B"].info.status == "FINISHED"
    assert sites["B"].data.tags["left_out.round_2"] == "ContractError"
    assert sites["A"].data.params["labelled"] == "3"


def test_a_study_that_stopped_early(uri: str, tmp_path: Path, record: StudyRecord) -> None:
    run_id = follow(uri, tmp_path, record, 1, "stopped")
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    statuses = {item.info.status for item in client.search_runs([run.info.experiment_id])}
    assert statuses == {"FAILED"}


def test_studies_of_one_name_share_an_experiment(
    uri: str, tmp_path: Path, record: StudyRecord
) -> None:
    first = follow(uri, tmp_path, record, 0, "shared")
    again = follow(uri, tmp_path, replace(record, rounds=[]), 0, "shared")
    client = MlflowClient(uri)
    experiments = {client.get_run(run).info.experiment_id for run in (first, again)}
    assert len(experiments) == 1
    assert first != again
