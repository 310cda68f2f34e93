"""A real MLflow server on loopback that goes away in the middle of a study and comes back."""

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asdnet_models.sums import SumCount
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.wire.reports import SiteFacts, TrainReport
from server.monitoring.tracking import MlflowClient, MlflowWatcher
from server.rounds.record import RoundRecord, StudyRecord

RUN_NAME = "pelvis-2026-20261123-1915"
# Imports and the database's migrations, on a machine that has other things to do.
START_S = 120.0


def round_record(protocol: StudyProtocol, number: int) -> RoundRecord:
    report = TrainReport(
        labelled=3,
        unlabelled=1,
        steps=2,
        seconds=1.5 + number,
        losses={"dice": SumCount(sum=1.0, count=2.0 * number)},
        trusted={},
    )
    return RoundRecord(
        plan=plan_round(protocol, number),
        seconds=2.5 + number,
        bytes_down={"A": 70, "B": 70},
        bytes_up={"A": 60, "B": 60},
        reports={"A": report, "B": report},
        left_out={},
        finished_at=1.7e9 + number,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_up(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """Its address; the server has ended, with all its workers, when the block has."""
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Jobs of language models, which are processes of their own.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log = folder / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_S
        while not is_up(uri):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield uri
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(timeout=30)


def train(watcher: MlflowWatcher, record: StudyRecord) -> float:
    """One more round; how long MLflow held it up, in seconds."""
    record.rounds.append(round_record(record.protocol, len(record.rounds) + 1))
    started = time.monotonic()
    watcher.round_finished(record)
    return time.monotonic() - started


def runs_by_site(client: MlflowClient) -> dict[str, Any]:
    experiment = client.get_experiment_by_name("pelvis")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    return {run.data.params.get("site", ""): run for run in runs}


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, int, float]]:
    return [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, key)]


def test_an_outage_of_the_server_loses_and_doubles_nothing(
    tmp_path: Path, make_protocol: Callable[..., StudyProtocol], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "server.monitoring.tracking")
    protocol = make_protocol(training={"rounds": 7})
    facts = SiteFacts(labelled=3, unlabelled=1, validation=0, test=2)
    record = StudyRecord(
        run=RUN_NAME,
        protocol=protocol,
        facts={"A": facts, "B": facts},
        segmenter={},
        confidence=None,
    )
    port = free_port()
    with mlflow_server(tmp_path, port) as uri:
        watcher = MlflowWatcher(uri, None, "pelvis", run_name=RUN_NAME, last_wait_s=0)
        watcher.study_started(record)
        for _ in range(3):
            train(watcher, record)
        assert watcher.pending(record) == 0
        before = {site: run.info.run_id for site, run in runs_by_site(MlflowClient(uri)).items()}
        assert set(before) == {"", "A", "B"}

    assert not is_up(uri)
    assert max(train(watcher, record) for _ in range(2)) < 15
    assert watcher.pending(record) == 2

    with mlflow_server(tmp_path, port) as uri:
        client = MlflowClient(uri)
        train(watcher, record)
        assert watcher.pending(record) == 0
        # The centre dies without a word; its successor is given the same name.
        successor = MlflowWatcher(uri, None, "pelvis", run_name=RUN_NAME)
        successor.study_started(record)
        assert successor.run_id == watcher.run_id == before[""]
        assert successor.pending(record) == 0
        train(successor, record)
        # A request whose answer was lost is sent again as it was.
        successor._written = 0
        successor.study_finished(record)

        runs = runs_by_site(client)
        assert {site: run.info.run_id for site, run in runs.items()} == before
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        for site, run in runs.items():
            seconds = [
                item.reports[site].seconds if site else item.seconds for item in record.rounds
            ]
            assert history(client, run.info.run_id, "seconds") == [
                (number, 1_700_000_000_000 + 1000 * number, value)
                for number, value in enumerate(seconds, start=1)
            ]
            counts = {key: len(history(client, run.info.run_id, key)) for key in run.data.metrics}
            assert set(counts.values()) == {7}, counts
        assert len(history(client, before["A"], "loss/dice")) == 7
        assert runs["B"].data.tags["mlflow.parentRunId"] == before[""]
        files = {item.path for item in client.list_artifacts(before[""])}
        assert files == {"model", "protocol.json", "report.html", "tables"}
        version = client.get_model_version_by_alias("tiny", "final")
        assert version.tags["asdnet.run"] == RUN_NAME
        assert client.get_registered_model("tiny").aliases == {"final": version.version}
    assert caplog.messages == [
        "MLflow cannot be reached (ConnectionError): rounds from 4 on will be sent later",
        "MLflow is reached again: it has all rounds up to 6",
    ]
