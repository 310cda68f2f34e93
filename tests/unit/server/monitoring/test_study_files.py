"""The models, report and tables of a study in a real MLflow store, as its users look for them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import SimpleITK as sitk
from mlflow.exceptions import MlflowException
from round_records import round_record

from asdnet_models import load_model
from asdnet_models.inference.pyfunc import PyFuncModel
from protocol.config.study import StudyProtocol
from protocol.wire.reports import SiteFacts
from server.monitoring.federation_page import report_page
from server.monitoring.killed import close_as_killed
from server.monitoring.metrics import mean_test_scores
from server.monitoring.model_card import model_card
from server.monitoring.provenance import own_commit, own_version
from server.monitoring.study_files import StudyFiles
from server.monitoring.tracked import read_run
from server.monitoring.tracking import MlflowClient, MlflowWatcher
from server.rounds.loop import new_record
from server.rounds.record import StudyRecord

FACTS = SiteFacts(labelled=3, unlabelled=1, validation=0, test=2, annotated={"ball": 3, "rod": 2})
SIGNED = {"study_digest": "d" * 64, "git_commit": "c0ffee"}


def trained(protocol: StudyProtocol, run: str, rounds: int = 2) -> StudyRecord:
    """Site A trained and scored, B was left out; round 2 is the best."""
    record = new_record(protocol, run)
    record.facts.update(A=FACTS, B=FACTS)
    record.rounds += [round_record(protocol, number) for number in range(1, rounds + 1)]
    if rounds >= 2:
        record.best_round, record.best_dsc = 2, 0.7
        record.best_segmenter, record.best_confidence = record.segmenter, record.confidence
    return record


def track(uri: str, folder: Path, record: StudyRecord) -> MlflowWatcher:
    watcher = MlflowWatcher(uri, folder, "tiny", tags=SIGNED, run_name=record.run)
    watcher.study_started(record)
    watcher.study_finished(record)
    return watcher


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all: making one takes MLflow seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def uri(store: Path) -> str:
    return f"sqlite:///{store / 'mlflow.db'}"


@pytest.fixture
def protocol(make_protocol: Callable[..., StudyProtocol]) -> StudyProtocol:
    return make_protocol()


def test_a_finished_study_as_mlflow_shows_it(
    uri: str, store: Path, protocol: StudyProtocol
) -> None:
    record = trained(protocol, "tiny-1")
    run_id = track(uri, store / "artifacts", record).run_id
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.data.tags["state"] == "finished"
    assert run.data.tags["study_digest"] == "d" * 64
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert run.data.tags["method"] == protocol.method.name
    assert run.data.tags["version"] == own_version()
    assert "round 2 of 2" in run.data.tags["mlflow.note.content"]
    # Means over organs of site A's means: 0.85 of ball, 0.25 of rod.
    assert run.data.metrics["test/dsc"] == pytest.approx(0.55)
    assert run.data.metrics["test/asd_mm/rod"] == pytest.approx(3.0)
    files = store / "artifacts" / run_id / "artifacts"
    page = (files / "report.html").read_text()
    assert page == report_page(read_run(uri, "tiny-1"))
    assert (files / "tables" / "scores_test.csv").read_text().startswith("organ,site,cases,dsc")
    for site in client.search_runs([run.info.experiment_id], "tags.`asdnet.site` = 'A'"):
        [data] = site.inputs.dataset_inputs
        assert data.dataset.name == "site A"
        assert json.loads(data.dataset.profile)["labelled"] == 3

    versions = {v.tags["kind"]: v for v in client.search_model_versions("name = 'tiny'")}
    assert set(versions) == {"best", "final"}
    assert client.get_registered_model("tiny").aliases == {
        kind: int(version.version) for kind, version in versions.items()
    }
    best = versions["best"]
    assert best.tags["round"] == "2"
    assert best.tags["validation_dsc"] == "0.700000"
    assert best.tags["study_digest"] == "d" * 64
    assert best.run_id == run_id
    # Sent again, as after an outage: nothing is there twice.
    track(uri, store / "artifacts", record)
    assert len(client.search_model_versions("name = 'tiny'")) == 2


def test_a_registered_model_is_loaded_and_segments(
    uri: str, store: Path, protocol: StudyProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(uri, store / "artifacts", trained(protocol, "tiny-load"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    folder = Path(mlflow.artifacts.download_artifacts("models:/tiny@best"))
    assert {path.name for path in folder.rglob("*") if path.is_file()} >= {
        "MLmodel",
        "README.md",
        "model.safetensors",
        "protocol.json",
    }
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle", ".py", ".pt")]
    loaded = mlflow.pyfunc.load_model("models:/tiny@best", model_config={"device": "cpu"})
    image = np.random.default_rng(0).normal(size=(1, 1, 12, 20, 24)).astype(np.float32)
    spacing = np.array([3.0, 1.0, 2.0])
    predicted = loaded.predict({"image": image, "spacing_zyx_mm": spacing})
    scan = sitk.GetImageFromArray(image[0, 0])
    scan.SetSpacing((2.0, 1.0, 3.0))
    expected = load_model(folder / "data", device="cpu").predict(scan)
    label = sitk.GetArrayFromImage(expected.label)
    np.testing.assert_array_equal(predicted["label"], label[None, None])
    assert predicted["label"].dtype == np.uint8
    assert predicted["confidence"].shape == image.shape
    assert loaded.metadata.metadata["organs"] == dict(protocol.organs)
    with pytest.raises(MlflowException, match="image"):
        loaded.predict({"image": image[0], "spacing_zyx_mm": spacing})


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([1, 2], TypeError, "must be a mapping"),
        ({"image": np.zeros((1, 1, 4, 4, 4))}, TypeError, "must be a mapping"),
        ({"image": np.zeros((4, 4, 4)), "spacing_zyx_mm": [1, 1, 1]}, ValueError, "shape"),
        ({"image": np.zeros((1, 1, 4, 4, 4)), "spacing_zyx_mm": [1, 0, 1]}, ValueError, "positive"),
        ({"image": np.zeros((1, 1, 4, 4, 4)), "spacing_zyx_mm": [1]}, ValueError, "three"),
    ],
)
def test_what_is_no_scan_is_refused(given: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PyFuncModel(None).predict(given)  # type: ignore[arg-type]


def test_a_stopped_study_has_its_files_and_no_version(
    uri: str, store: Path, make_protocol: Callable[..., StudyProtocol]
) -> None:
    protocol = make_protocol(name="stopped", training={"rounds": 5})
    run_id = track(uri, store / "artifacts", trained(protocol, "stopped-1")).run_id
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "stopped after round 2 of 5")
    assert {item.path for item in client.list_artifacts(run_id, "model")} == {
        "model/best",
        "model/final",
    }
    assert client.search_model_versions("name = 'stopped'") == []


def test_a_study_that_a_person_ends_is_killed(
    uri: str, store: Path, protocol: StudyProtocol
) -> None:
    record = trained(protocol, "tiny-killed", 1)
    watcher = MlflowWatcher(uri, store / "artifacts", "tiny", run_name=record.run)
    watcher.study_started(record)
    assert MlflowClient(uri).get_run(watcher.run_id).data.tags["state"] == "at work"
    assert close_as_killed(uri, record.run)
    run = MlflowClient(uri).get_run(watcher.run_id)
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "ended by a person")


def test_a_registry_that_refuses_holds_up_nothing(
    uri: str,
    store: Path,
    protocol: StudyProtocol,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("no registry here")

    monkeypatch.setattr(StudyFiles, "_register", refuse)
    watcher = track(uri, store / "artifacts", trained(protocol, "tiny-refused"))
    assert caplog.messages == [
        "MLflow did not take the best model, the final model (MlflowException: no registry here)"
    ]
    assert MlflowClient(uri).get_run(watcher.run_id).info.status == "FINISHED"


def test_a_model_that_is_not_scored_says_so(protocol: StudyProtocol) -> None:
    record = trained(protocol, "tiny-1", 1)
    card = model_card(record, "final", SIGNED)
    assert "This model was not scored by the sites." in card
    assert "| all sites | 6 | 2 | 0 | 4 |" in card
    assert "round 1 of 2" in card


def test_a_card_has_the_scores_of_its_model(protocol: StudyProtocol) -> None:
    card = model_card(trained(protocol, "tiny-1"), "best", SIGNED)
    assert "| A | ball | 2 | 0.850 | 1.50 |" in card
    assert "- study_digest: `ddd" in card


def test_no_test_scores_no_means(protocol: StudyProtocol) -> None:
    assert mean_test_scores(trained(protocol, "tiny-1", 1)) == {}
    record = trained(protocol, "tiny-1")
    [evaluation] = (item.evaluation for item in record.rounds if item.evaluation)
    scored = replace(record.rounds[1], evaluation={"A": evaluation["A"], "C": evaluation["A"]})
    record.rounds[1] = scored
    assert mean_test_scores(record)["test/dsc"] == pytest.approx(0.55)


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert own_commit(tmp_path) == ""
