"""The report of a federation, from the MLflow that the study's own watcher wrote."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from round_records import round_record

from asdnet_models.sums import OrganSums, ScoreSum
from protocol.config.study import StudyProtocol
from protocol.wire.reports import SiteFacts
from server.cli import app
from server.monitoring.federation_page import report_page, sections_of
from server.monitoring.run_folder import RunFacts, RunFolder
from server.monitoring.score_tables import scored_round
from server.monitoring.tracked import TrackedError, read_run
from server.monitoring.tracking import MlflowWatcher
from server.rounds.record import StudyRecord


def make_store(folder: Path, protocol: StudyProtocol, rounds: int, name: str = "tiny-1") -> str:
    """Site A trains and scores, B is left out of every round."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    facts = SiteFacts(labelled=3, unlabelled=1, validation=0, test=2)
    record = StudyRecord(
        run=name, protocol=protocol, facts={"A": facts, "B": facts}, segmenter={}, confidence=None
    )
    watcher = MlflowWatcher(uri, folder / "artifacts", "asdnet", run_name=name)
    watcher.study_started(record)
    for number in range(1, rounds + 1):
        record.rounds.append(round_record(protocol, number))
        watcher.round_finished(record)
    record.best_round = 2 if rounds >= 2 else None
    watcher.study_finished(record)
    return uri


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all: making one takes MLflow seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def uri(store: Path, make_protocol: Callable[..., StudyProtocol]) -> str:
    return make_store(store, make_protocol(), 2)


def test_a_study_is_read_back(uri: str) -> None:
    study = read_run(uri, "tiny-1")
    assert (study.name, study.status, study.rounds, study.best_round) == (
        "tiny-1",
        "FINISHED",
        2,
        2,
    )
    assert study.organs == ("ball", "rod")
    assert study.series("validation_dsc") == {2: 0.7}
    a, b = study.sites
    assert (a.site, b.site) == ("A", "B")
    assert a.cases == {"labelled": 3, "unlabelled": 1, "validation": 0, "test": 2}
    assert a.series("loss/dice") == {1: 0.5, 2: 0.25}
    assert a.series("dsc/ball") == {2: pytest.approx(0.85)}
    assert a.series("norm/segmenter") == {1: 2.0, 2: 4.0}
    assert a.series("clipped/segmenter") == {2: 0.25}
    assert a.series("never sent") == {}
    assert b.left_out == {1: "LayoutError", 2: "LayoutError"}


def test_the_page(uri: str) -> None:
    page = report_page(read_run(uri, "tiny-1"))
    assert "2 of 2 rounds, 2 sites; finished: all rounds were trained." in page
    assert "of round 2: validation DSC 0.700" in page
    assert "Left out of rounds: B in 2." in page
    assert "Site B, round 1: LayoutError." in page
    assert "Site A, segmenter: in 1 round, at the most by 4 times." in page
    assert "sites trusted 25% to 25%" in page
    assert "No site has validation scores of round 2." in page
    row = '<th scope="row">A</th><td>2</td><td>0.850</td><td>1.50</td><td>4.50</td>'
    assert f"{row}<td>0.850</td><td>0</td>" in page
    assert "<td>0.250</td><td>3.00</td><td>9.00</td><td>0.250</td><td>1 missed</td>" in page
    assert "within 2.0 mm of the other one" in page
    assert "What is wrong, and what may help:" in page
    # After two rounds of a few steps nothing else is said.
    assert "<li>no site trained for more than " in page
    assert "<li>rod: " not in page
    # Where all sites have drawn everything there is nothing to say of it.
    assert "each organ is drawn" not in page
    assert "<dt>training</dt>" in page and "rounds 2, " in page and "protocol_sha256" in page
    # Three seconds of training, and 5 s of rounds at the centre.
    assert '<td data-label="training, s">3.0</td>' in page and "The rounds took 5 s" in page
    assert "http://" not in page and "https://" not in page
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_deaths_stand_in_the_page(uri: str) -> None:
    study = read_run(uri, "tiny-1")
    assert "started again" not in report_page(study)
    page = report_page(replace(study, resumed=(3, 7), status="KILLED"))
    assert "started again after rounds 3, 7. No complete round is lost" in page
    assert "ended by a person before its last round" in page


def test_too_few_cases_are_not_no_failures(
    store: Path, make_protocol: Callable[..., StudyProtocol]
) -> None:
    """A withholds all, B the distances and failures; C was not asked."""
    protocol = make_protocol()
    facts = SiteFacts(labelled=3, unlabelled=1, validation=0, test=4, annotated=drawn(3, 3))
    record = StudyRecord(
        run="few",
        protocol=protocol,
        facts=dict.fromkeys("ABC", facts),
        segmenter={},
        confidence=None,
    )
    uri = f"sqlite:///{store / 'mlflow.db'}"
    watcher = MlflowWatcher(uri, store / "artifacts", "asdnet", run_name="few")
    last = round_record(protocol, 2)
    assert last.evaluation is not None
    a = last.evaluation["A"]
    none = {"ball": OrganSums(), "rod": OrganSums()}
    dsc = dict.fromkeys(none, OrganSums(dsc=ScoreSum.of([0.5, 0.5, 0.5, 0.0])))
    nothing = replace(
        a, cases={"validation": 0, "test": 0}, scores={"validation": none, "test": none}
    )
    some = replace(
        nothing, cases={"validation": 0, "test": 4}, scores={"validation": none, "test": dsc}
    )
    record.rounds = [
        round_record(protocol, 1),
        replace(last, evaluation={"A": nothing, "B": some}),
    ]
    record.best_round = 2
    watcher.study_started(record)
    watcher.study_finished(record)
    study = read_run(uri, "few")
    assert not any("failures" in name for site in study.sites for name in site.metrics)
    page = report_page(study)
    few = "<td>too few cases</td>"
    assert f'<th scope="row">A</th><td>4</td>{few * 5}' in page
    assert f'<th scope="row">B</th><td>4</td><td>0.375</td>{few * 4}' in page
    assert '<th scope="row">C</th><td>4</td><td>' not in page
    assert "No site has validation scores of round 2." in page


def test_a_site_that_has_drawn_one_organ(
    store: Path, make_protocol: Callable[..., StudyProtocol]
) -> None:
    protocol = make_protocol()
    whole = SiteFacts(labelled=3, unlabelled=1, validation=0, test=2, annotated=drawn(3, 3))
    record = StudyRecord(
        run="partly",
        protocol=protocol,
        facts={"A": whole, "B": replace(whole, annotated=drawn(3, 0))},
        segmenter={},
        confidence=None,
    )
    uri = f"sqlite:///{store / 'mlflow.db'}"
    watcher = MlflowWatcher(uri, store / "artifacts", "asdnet", run_name="partly")
    last = round_record(protocol, 2)
    assert last.evaluation is not None
    a = last.evaluation["A"]
    tests = {"ball": a.scores["test"]["ball"], "rod": OrganSums()}
    b = replace(a, scores={**a.scores, "test": tests})
    record.rounds = [round_record(protocol, 1), replace(last, evaluation={"A": a, "B": b})]
    record.best_round = 2
    watcher.study_started(record)
    watcher.study_finished(record)
    study = read_run(uri, "partly")
    assert [site.annotated for site in study.sites] == [drawn(3, 3), drawn(3, 0)]
    # No score, no failure, and no zero.
    assert not any(name.endswith("/rod") and "dsc" in name for name in study.sites[1].metrics)
    assert study.sites[1].series("failures/rod") == {}
    page = report_page(study)
    assert "Labelled training cases in which each organ is drawn" in page
    assert '<th scope="row">B</th><td>3</td><td>-</td>' in page
    assert '<th scope="row">B</th><td>2</td>' + 5 * "<td>-</td>" in page


def drawn(ball: int, rod: int) -> dict[str, int]:
    return {"ball": ball, "rod": rod}


def test_a_study_at_its_start(store: Path, make_protocol: Callable[..., StudyProtocol]) -> None:
    study = read_run(make_store(store, make_protocol(), 0, "begun"), "begun")
    page = report_page(study)
    assert scored_round(study) is None
    assert "0 of 2 rounds, 2 sites; stopped before its last round." in page
    assert "No site has scored the model yet." in page
    assert "MLflow has no complete round yet." in page


def test_before_the_end_the_last_scored_round_is_shown(
    store: Path, make_protocol: Callable[..., StudyProtocol]
) -> None:
    protocol = make_protocol(training={"rounds": 3})
    study = read_run(make_store(store, protocol, 2, "short"), "short")
    undecided = type(study)(**{**vars(study), "best_round": None})
    assert scored_round(undecided) == 2
    assert "The last scored model is of round 2" in str(sections_of(undecided)[0])


def test_words_of_others_are_text(uri: str) -> None:
    study = read_run(uri, "tiny-1")
    evil = type(study)(**{**vars(study), "params": {"organs.ball": "1", "x": "<script>1</script>"}})
    assert "<script" not in report_page(evil)


def test_errors_name_the_hint(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackedError, match=r"no study 'other'; studies that it has: .*tiny-1"):
        read_run(uri, "other")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(TrackedError, match="cannot be read"):
        read_run(f"sqlite:///{tmp_path / 'folder.db'}", "tiny-1")


def test_the_command_with_an_mlflow(uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    done = CliRunner().invoke(app, ["report", "tiny-1", "--mlflow-uri", uri, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "Federation report: tiny-1" in out.read_text(encoding="utf-8")


def test_the_command_with_a_centre(
    uri: str, tmp_path: Path, make_protocol: Callable[..., StudyProtocol]
) -> None:
    centre = tmp_path / "centre"
    made = CliRunner().invoke(app, ["init", "--host", "localhost", "--centre", str(centre)])
    assert made.exit_code == 0, made.output
    folder = RunFolder(centre / "runs" / "tiny-1")
    folder.create(RunFacts(name="tiny-1", mlflow_uri=uri), make_protocol())
    done = CliRunner().invoke(app, ["report", "tiny-1", "--centre", str(centre)])
    assert done.exit_code == 0, done.output
    assert (folder.path / "report.html").is_file()


def test_the_command_makes_no_empty_database(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    done = CliRunner().invoke(app, ["report", "tiny-1", "--mlflow-uri", f"sqlite:///{path}"])
    assert done.exit_code == 2
    assert "is not there" in done.output
    assert not path.exists()


def test_a_file_that_cannot_be_written(uri: str, tmp_path: Path) -> None:
    out = tmp_path / "no" / "out.html"
    done = CliRunner().invoke(app, ["report", "tiny-1", "--mlflow-uri", uri, "--out", str(out)])
    assert done.exit_code == 2
    assert "cannot be written (No such file or directory)" in " ".join(done.output.split())
