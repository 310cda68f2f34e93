"""What MLflow holds after a study, read back from its store, whatever happened on the way."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from round_records import round_record
from sqlalchemy.exc import OperationalError

from protocol.config.study import StudyProtocol
from protocol.wire.reports import SiteFacts
from server.monitoring import metrics, study_files, tracking
from server.monitoring.metrics import site_metrics, study_metrics
from server.monitoring.tracked import read_run
from server.monitoring.tracking import MlflowClient, MlflowWatcher
from server.rounds.record import RoundRecord, StudyRecord


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database alone has its artifacts in ./mlruns."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def record(make_protocol: Callable[..., StudyProtocol]) -> StudyRecord:
    protocol = make_protocol()
    facts = SiteFacts(labelled=3, unlabelled=1, validation=0, test=2)
    return StudyRecord(
        run="one", protocol=protocol, facts={"A": facts, "B": facts}, segmenter={}, confidence=None
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
    assert sites["B"].data.tags["left_out.round_2"] == "LayoutError"
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


Metrics = list[tuple[str, int, int, float]]


def written(uri: str, run_name: str) -> dict[str, Metrics]:
    """Every value of every run with this name: (key, step, time in ms, value), by site or ""."""
    client = MlflowClient(uri)
    experiments = [item.experiment_id for item in client.search_experiments()]
    found: dict[str, Metrics] = {}
    for run in client.search_runs(experiments, f"tags.`asdnet.run` = '{run_name}'"):
        site = run.data.tags.get("asdnet.site", "")
        assert site not in found, "a run was made twice"
        found[site] = sorted(
            (item.key, item.step, item.timestamp, item.value)
            for key in run.data.metrics
            for item in client.get_metric_history(run.info.run_id, key)
        )
    return found


def statuses(uri: str, run_name: str) -> dict[str, str]:
    client = MlflowClient(uri)
    experiments = [item.experiment_id for item in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`asdnet.run` = '{run_name}'")
    return {run.data.tags.get("asdnet.site", ""): run.info.status for run in runs}


def expected(protocol: StudyProtocol, rounds: int) -> dict[str, Metrics]:
    """The same by the watcher's own reading of a round, each once."""
    records = [round_record(protocol, number) for number in range(1, rounds + 1)]

    def values(read: Callable[[RoundRecord], dict[str, float]]) -> Metrics:
        return sorted(
            (key, r.plan.round, int(r.finished_at * 1000), value)
            for r in records
            for key, value in read(r).items()
        )

    return {"": values(study_metrics)} | {
        site: values(partial(site_metrics, site=site)) for site in "AB"
    }


class Death(BaseException):
    """The centre's process ends here: nobody catches this."""


class Wire:
    """MLflow's client behind a wire that can be cut, or lose the n-th answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: BaseException | None = None
        self.calls: list[str] = []
        self.lost_answer = 0
        self.mishap: BaseException = Death()
        real = MlflowClient
        wire = self

        class Client:
            def __init__(self, tracking_uri: str) -> None:
                self._real = real(tracking_uri)

            def __getattr__(self, name: str) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    wire.calls.append(name)
                    if wire.error is not None:
                        raise wire.error
                    answer = getattr(self._real, name)(*args, **kwargs)
                    if len(wire.calls) == wire.lost_answer:
                        raise wire.mishap
                    return answer

                return call

        monkeypatch.setattr(tracking, "MlflowClient", Client)
        monkeypatch.setattr(tracking.time, "sleep", lambda _: None)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def train(watcher: MlflowWatcher, record: StudyRecord) -> None:
    """One more round."""
    record.rounds.append(round_record(record.protocol, len(record.rounds) + 1))
    watcher.round_finished(record)


def wrapped() -> MlflowException:
    """MLflow's own wrapping of a transport error: by context, not by cause."""
    try:
        try:
            # pragma: allowlist nextline secret
            raise requests.ConnectionError("https://user:secret@host is away")
        except requests.ConnectionError as error:
            raise MlflowException(f"API request failed with exception {error}")  # noqa: B904
    except MlflowException as error:
        return error


OUTAGES = {
    "ConnectionError": wrapped(),
    "ReadTimeout": requests.ReadTimeout("https://user:secret@host is slow"),
    "OperationalError": OperationalError("select", {}, Exception("database is locked")),
    "ConnectionResetError": ConnectionResetError(),
    "MlflowException: no such experiment": MlflowException("no such experiment\nmore"),
}


@pytest.mark.parametrize("name", OUTAGES)
def test_rounds_of_an_outage_arrive_later(
    name: str,
    uri: str,
    wire: Wire,
    make_protocol: Callable[..., StudyProtocol],
    record: StudyRecord,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record.protocol = make_protocol(training={"rounds": 5})
    run_name = f"outage-{list(OUTAGES).index(name)}"
    watcher = MlflowWatcher(uri, None, "outage", run_name=run_name)
    with caplog.at_level(logging.INFO, "server.monitoring.tracking"):
        watcher.study_started(record)
        train(watcher, record)
        assert watcher.pending(record) == 0
        first = watcher.run_id
        wire.error = OUTAGES[name]
        for pending in (1, 2, 3):
            train(watcher, record)
            assert watcher.pending(record) == pending
        assert len(written(uri, run_name)["A"]) == len(expected(record.protocol, 1)["A"])
        wire.error = None
        train(watcher, record)
        assert watcher.pending(record) == 0
        watcher.study_finished(record)
    assert caplog.messages == [
        f"MLflow cannot be reached ({name}): rounds from 2 on will be sent later",
        "MLflow is reached again: it has all rounds up to 5",
    ]
    assert written(uri, run_name) == expected(record.protocol, 5)
    assert watcher.run_id == first
    assert set(statuses(uri, run_name).values()) == {"FINISHED"}


def test_an_mlflow_that_is_never_there(
    uri: str, wire: Wire, record: StudyRecord, caplog: pytest.LogCaptureFixture
) -> None:
    wire.error = OUTAGES["ConnectionError"]
    watcher = MlflowWatcher(uri, None, "never", run_name="never")
    watcher.study_started(record)
    train(watcher, record)
    train(watcher, record)
    before = len(wire.calls)
    watcher.study_finished(record)
    assert len(wire.calls) - before == 3
    assert watcher.pending(record) == 2
    assert watcher.run_id == ""
    assert caplog.messages == [
        "MLflow cannot be reached (ConnectionError): rounds from 1 on will be sent later",
        "MLflow is still not reached: 2 rounds are not sent, and the runs are not closed",
    ]

    wire.error = None
    later = MlflowWatcher(uri, None, "never", run_name="never")
    later.study_finished(record)
    assert later.pending(record) == 0
    assert written(uri, "never") == expected(record.protocol, 2)
    assert set(statuses(uri, "never").values()) == {"FINISHED"}


@pytest.mark.parametrize(
    ("attempt_s", "wait_s", "began"),
    [(1, 30, [0, 10, 20]), (20, 30, [0, 20]), (14, 30, [0, 14, 28]), (1, 0, [0])],
)
def test_no_attempt_begins_after_the_last_wait(
    attempt_s: float,
    wait_s: float,
    began: list[float],
    record: StudyRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    attempts: list[float] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def client(**_: str) -> None:
        attempts.append(now[0])
        now[0] += attempt_s
        raise ConnectionResetError

    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tracking.time, "sleep", sleep)
    monkeypatch.setattr(tracking, "MlflowClient", client)
    MlflowWatcher("http://away", None, "wait", last_wait_s=wait_s).study_finished(record)
    assert attempts == began


@pytest.mark.parametrize("mishap", [Death(), ConnectionResetError()])
def test_what_was_done_but_not_noted_is_not_done_twice(
    mishap: BaseException,
    tmp_path: Path,
    uri: str,
    wire: Wire,
    record: StudyRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After its n-th request the centre dies and resumes, or loses the answer and goes on."""

    def whole_study(name: str, saved: StudyRecord) -> None:
        watcher = MlflowWatcher(uri, tmp_path, name, run_name=name)
        watcher.study_started(saved)
        while len(saved.rounds) < 2:
            train(watcher, saved)
        watcher.study_finished(saved)

    # Figures take a second each time, and are no request.
    monkeypatch.setattr(study_files, "report_page", lambda _: "page")
    monkeypatch.setattr(study_files, "sections_of", lambda _: [])
    kind = type(mishap).__name__
    whole_study(f"{kind}-0", replace(record, rounds=[]))
    requests_made = len(wire.calls)
    for n in range(1, requests_made + 1):
        name, saved = f"{kind}-{n}", replace(record, rounds=[])
        wire.calls, wire.lost_answer, wire.mishap = [], n, mishap
        if isinstance(mishap, Death):
            with pytest.raises(Death):
                whole_study(name, saved)
            wire.lost_answer = 0
        whole_study(name, saved)
        assert written(uri, name) == expected(record.protocol, 2), f"request {n}"
        assert set(statuses(uri, name).values()) == {"FINISHED"}, f"request {n}"
    assert requests_made > 15


def test_a_resumed_study_continues_its_runs(uri: str, wire: Wire, record: StudyRecord) -> None:
    first = MlflowWatcher(uri, None, "resume", run_name="resume")
    first.study_started(record)
    train(first, record)
    first.study_finished(record)
    assert set(statuses(uri, "resume").values()) == {"FAILED"}

    facts = record.facts["A"]
    # A has more cases than it said first, B is away, C is new.
    record.facts = {"A": replace(facts, labelled=9), "C": facts}
    second = MlflowWatcher(uri, None, "resume", {"cohort": "x"}, run_name="resume")
    second.study_started(record)
    assert second.run_id == first.run_id
    assert second.pending(record) == 0
    assert statuses(uri, "resume") == dict.fromkeys(["", "A", "B", "C"], "RUNNING")
    wire.calls.clear()
    train(second, record)
    assert wire.calls == ["log_batch"] * 4
    second.study_finished(record)
    assert set(statuses(uri, "resume").values()) == {"FINISHED"}
    assert written(uri, "resume") == {**expected(record.protocol, 2), "C": []}
    runs = {
        run.data.params.get("site", ""): run
        for run in MlflowClient(uri).search_runs(
            [MlflowClient(uri).get_run(first.run_id).info.experiment_id]
        )
    }
    assert runs["A"].data.params["labelled"] == "3"
    assert runs["C"].data.tags["mlflow.parentRunId"] == first.run_id
    assert runs[""].data.params["cohort"] == "x"
    assert runs[""].info.run_name == "resume"
    tags = runs[""].data.tags
    assert [tag for tag in tags if "resumed" in tag] == ["resumed.after_round_1"]
    assert read_run(uri, "resume").resumed == (1,)


def test_a_site_that_joins_later_has_a_run(uri: str, wire: Wire, record: StudyRecord) -> None:
    facts = record.facts.pop("B")
    watcher = MlflowWatcher(uri, None, "late", run_name="late")
    watcher.study_started(record)
    train(watcher, record)
    assert set(written(uri, "late")) == {"", "A"}
    record.facts["B"] = facts
    train(watcher, record)
    assert set(written(uri, "late")) == {"", "A", "B"}
    assert written(uri, "late")["A"] == expected(record.protocol, 2)["A"]
    assert wire.calls.count("create_run") == 3


def test_a_site_that_trained_and_is_gone_has_a_run(uri: str, record: StudyRecord) -> None:
    record.rounds = [round_record(record.protocol, 1)]
    del record.facts["A"]
    watcher = MlflowWatcher(uri, None, "gone", run_name="gone")
    watcher.study_started(record)
    assert written(uri, "gone") == expected(record.protocol, 1)


def test_the_constructor_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "MlflowClient", lambda **_: pytest.fail("asked"))
    assert MlflowWatcher("https://nowhere.invalid", None, "lazy").run_id == ""


def test_a_database_that_cannot_be_opened_costs_little(
    tmp_path: Path, record: StudyRecord, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").mkdir()
    watcher = MlflowWatcher(f"sqlite:///{tmp_path / 'mlflow.db'}", None, "x")
    started = tracking.time.monotonic()
    watcher.study_started(record)
    # MLflow's own ten attempts take 100 s.
    assert tracking.time.monotonic() - started < 30
    assert len(caplog.messages) == 1
    assert "cannot be reached (OperationalError)" in caplog.messages[0]


def test_a_database_without_its_driver_is_an_outage(
    record: StudyRecord, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    MlflowWatcher("postgresql://host/db", None, "x").study_started(record)
    assert "cannot be reached (ModuleNotFoundError)" in caplog.messages[0]


def test_an_mlflow_that_lost_the_study_is_given_all_of_it(uri: str, record: StudyRecord) -> None:
    watcher = MlflowWatcher(uri, None, "lost", run_name="lost")
    watcher.study_started(record)
    train(watcher, record)
    first = watcher.run_id
    client = MlflowClient(uri)
    for run in client.search_runs([client.get_run(first).info.experiment_id]):
        client.delete_run(run.info.run_id)
    train(watcher, record)
    watcher.study_finished(record)
    assert watcher.run_id != first
    assert written(uri, "lost") == expected(record.protocol, 2)


def test_our_own_mistake_is_no_outage(uri: str, record: StudyRecord) -> None:
    watcher = MlflowWatcher(uri, None, "mistake")
    watcher.study_started(record)
    record.rounds.append(replace(round_record(record.protocol, 1), bytes_up={}))
    with pytest.raises(KeyError, match="A"):
        watcher.round_finished(record)


def test_a_store_without_room_for_files_still_has_the_numbers(
    uri: str, tmp_path: Path, record: StudyRecord, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    watcher = MlflowWatcher(uri, tmp_path / "artifacts", "files", run_name="files")
    watcher.study_started(record)
    train(watcher, record)
    train(watcher, record)
    watcher.study_finished(record)
    assert written(uri, "files") == expected(record.protocol, 2)
    assert len(caplog.messages) == 2
    assert "did not take the file protocol.json (" in caplog.messages[0]
    assert caplog.messages[1].startswith(
        "MLflow did not take the report, the tables, the final model ("
    )
    assert set(statuses(uri, "files").values()) == {"FINISHED"}


def test_nothing_in_mlflow_waits_for_long() -> None:
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER"] == "false"


def test_a_package_that_is_not_here_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_PACKAGES", ("mlflow", "asdnet-not-here"))
    assert list(metrics.package_versions()) == ["mlflow"]
