"""`asdnet-centre run` with a SuperLink that is played."""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
from protocol.config.study import StudyProtocol
from server.admin.centre import Centre, create_centre
from server.cli import app
from server.commands.run import APP
from server.monitoring.run_folder import RunFacts, RunFolder


@dataclass
class FakeControl:
    """Starts nothing; plays what the ServerApp would write."""

    centre: Centre
    plays: Callable[[RunFolder], None] = lambda folder: folder.add_event("finished", unsent=0)
    refuses: Exception | None = None
    running: set[int] = field(default_factory=set)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def start_run(self, folder: Path, config: Mapping[str, str]) -> int:
        self.calls.append(("start", folder, dict(config)))
        if self.refuses:
            raise self.refuses
        number = 2**63 + len(self.calls)
        self.running.add(number)
        self.plays(RunFolder(self.centre.runs / config["run"]))
        return number

    def stop_run(self, number: int) -> bool:
        self.calls.append(("stop", number))
        if self.refuses:
            raise self.refuses
        was = number in self.running
        self.running.discard(number)
        return was


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


@pytest.fixture
def control(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    fake = FakeControl(centre)

    @contextmanager
    def connect(port: int, ca_file: Path) -> Iterator[FakeControl]:
        assert (port, ca_file) == (centre.port, centre.ca_file)
        yield fake

    monkeypatch.setattr("flower_compat.control.connect", connect)
    monkeypatch.setattr("server.monitoring.follow._POLL_S", 0.01)
    monkeypatch.setattr("server.monitoring.follow._START_PATIENCE_S", 0.05)
    return fake


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "pelvis", "seed": 3}))
    return path


def call(centre: Centre, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, arguments), "--centre", str(centre.folder)])


def runs(centre: Centre) -> list[str]:
    return sorted(os.listdir(centre.runs))


def facts(centre: Centre, name: str) -> RunFacts:
    return RunFolder(centre.runs / name).read()[0]


# ---- starting -----------------------------------------------------------------------------------


def test_a_new_run(centre: Centre, control: FakeControl, study: Path) -> None:
    result = call(centre, "--study", study, "--name", "one", "--sites", 3)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["run one", f"finished: {centre.runs / 'one'}"]
    assert control.calls == [("start", APP, {"run": "one"})]
    found, protocol = RunFolder(centre.runs / "one").read()
    assert protocol == StudyProtocol(name="pelvis", seed=3)
    assert (found.name, found.expected_sites) == ("one", 3)
    assert found.flower_run_id in control.running
    assert found.mlflow_uri == f"sqlite:///{centre.folder / 'mlflow.db'}"


def test_a_preset_with_an_mlflow_server_and_a_name_of_its_own(
    centre: Centre, control: FakeControl
) -> None:
    result = call(centre, "--preset", "smoke", "--mlflow-uri", "http://mlflow.example.org")
    assert result.exit_code == 0, result.output
    (name,) = runs(centre)
    assert facts(centre, name).mlflow_uri == "http://mlflow.example.org"
    assert name.startswith(RunFolder(centre.runs / name).read()[1].name + "-20")


def play(kind: str, **more: Any) -> Callable[[RunFolder], None]:
    return lambda folder: folder.add_event(kind, **more)


def begin_and_die(folder: RunFolder) -> None:
    folder.add_event("started", round=0, rounds=4, sites=["A"], line="1 sites")


@pytest.mark.parametrize(
    ("plays", "status", "said"),
    [
        (play("finished", unsent=0), 0, "finished: "),
        (
            play("finished", unsent=4, reason="4 rounds are not in MLflow yet"),
            0,
            "4 rounds are not in MLflow yet. Send them later with: asdnet-centre run --resume",
        ),
        (play("stopped", reason="too few"), 3, "stopped: too few\nAll complete rounds are saved"),
        (play("failed", reason="OSError: full"), 4, "failed: OSError: full"),
        (begin_and_die, 75, "died: the ServerApp ended without a last event"),
        (lambda _: None, 75, "never started: no ServerApp within"),
    ],
    ids=["finished", "untracked", "stopped", "failed", "died", "never started"],
)
def test_the_status_says_how_it_ended(
    centre: Centre,
    control: FakeControl,
    study: Path,
    plays: Callable[[RunFolder], None],
    status: int,
    said: str,
) -> None:
    control.plays = plays
    result = call(centre, "--study", study, "--name", "one")
    assert result.exit_code == status
    assert said in result.stdout
    assert ("asdnet-centre run --resume one" in result.stdout) is (status != 0 or "MLflow" in said)


# ---- going on -----------------------------------------------------------------------------------


def test_a_run_is_resumed_and_what_was_left_running_is_ended(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    control.plays = play("stopped", reason="too few")
    call(centre, "--study", study, "--name", "one")
    before = facts(centre, "one")
    control.plays = play("finished", unsent=0)
    result = call(centre, "--resume", "one")
    assert result.exit_code == 0, result.output
    assert "too few" not in result.stdout  # of the earlier start
    assert control.calls[1:] == [
        ("stop", before.flower_run_id),
        ("start", APP, {"run": "one"}),
    ]
    after = facts(centre, "one")
    assert after.flower_run_id != before.flower_run_id
    assert after.model_copy(update={"flower_run_id": before.flower_run_id}) == before


def test_a_run_that_is_at_work_is_not_resumed(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    call(centre, "--study", study, "--name", "one")
    before = facts(centre, "one")
    del control.calls[:]
    with RunFolder(centre.runs / "one").lock():
        result = call(centre, "--resume", "one")
    assert result.exit_code == 2
    assert "run one: a ServerApp is at work on it; use --follow" in result.stderr
    assert control.calls == []
    assert facts(centre, "one") == before


def test_a_run_is_followed_from_its_first_event_on(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    call(centre, "--study", study, "--name", "one")
    folder = RunFolder(centre.runs / "one")
    folder.events.unlink()
    begin_and_die(folder)
    folder.add_event("stopped", reason="too few")
    del control.calls[:]
    result = call(centre, "--follow", "one")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[:2] == ["1 sites", "stopped: too few"]
    assert control.calls == []


def test_a_run_is_stopped(centre: Centre, control: FakeControl, study: Path) -> None:
    call(centre, "--study", study, "--name", "one")
    result = call(centre, "--stop", "one")
    assert result.exit_code == 0
    assert result.stdout == "run one: stopped; go on with: --resume one\n"
    assert control.calls[-1] == ("stop", facts(centre, "one").flower_run_id)
    assert "run one: was not running" in call(centre, "--stop", "one").stdout


def test_a_run_that_was_never_started_is_not_stopped(centre: Centre, control: FakeControl) -> None:
    made = RunFolder(centre.runs / "one")
    made.create(RunFacts(name="one", mlflow_uri=""), StudyProtocol())
    assert "was not running" in call(centre, "--stop", "one").stdout
    assert control.calls == []


def test_ctrl_c_ends_the_following_alone(
    centre: Centre, control: FakeControl, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("server.monitoring.follow.follow", interrupted)
    result = call(centre, "--study", study, "--name", "one")
    assert result.exit_code == 0
    assert "the study goes on; watch it again: asdnet-centre run --follow one" in result.stdout
    assert [name for name, *_ in control.calls] == ["start"]


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of --study (or --preset), --resume, --follow and --stop"),
        (["--name", "x"], "give one of"),
        (["--study", "STUDY", "--resume", "one"], "give one of"),
        (["--preset", "smoke", "--follow", "one"], "give one of"),
        (["--resume", "one", "--stop", "one"], "give one of"),
        (["--follow", "one", "--stop", "one"], "give one of"),
        (["--study", "STUDY", "--preset", "smoke"], "give --study or --preset, not both"),
        (["--preset", "no such"], "--preset: must be one of"),
        (["--study", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--resume", "nowhere"], "run nowhere: has no run.json; runs of this centre: none"),
        (["--follow", "nowhere"], "run nowhere: has no run.json"),
        (["--stop", "nowhere"], "run nowhere: has no run.json"),
        (["--study", "STUDY", "--name", "../up"], "--name: must match"),
        (["--study", "STUDY", "--name", "a b"], "--name: must match"),
        (["--study", "STUDY", "--name", "-rf"], "--name: must match"),
        (["--study", "STUDY", "--name", "x" * 97], "--name: must match"),
        (["--study", "STUDY", "--name", "x\n"], "--name: must match"),
        (["--study", "STUDY", "--sites", "0"], "--sites"),
    ],
)
def test_what_is_refused_leaves_nothing(
    centre: Centre, control: FakeControl, study: Path, arguments: list[str], said: str
) -> None:
    result = call(centre, *[str(study) if a == "STUDY" else a for a in arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert control.calls == []
    assert runs(centre) == []


def test_all_mistakes_of_a_study_are_reported(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    study.write_text(yaml.safe_dump({"sed": 3, "training": {"rounds": 0}}), encoding="utf-8")
    result = call(centre, "--study", study)
    assert result.exit_code == 2
    assert "sed: unknown key" in result.stderr
    assert "training.rounds" in result.stderr
    assert runs(centre) == []


def test_a_name_is_taken_once(centre: Centre, control: FakeControl, study: Path) -> None:
    call(centre, "--study", study, "--name", "one")
    before = (centre.runs / "one" / "protocol.json").read_bytes()
    del control.calls[:]
    result = call(centre, "--preset", "smoke", "--name", "one")
    assert result.exit_code == 2
    assert "run one: is there already" in result.stderr
    assert control.calls == []
    assert (centre.runs / "one" / "protocol.json").read_bytes() == before


def test_a_folder_that_is_no_centre(tmp_path: Path, control: FakeControl, study: Path) -> None:
    result = CliRunner().invoke(
        app, ["run", "--study", str(study), "--centre", str(tmp_path / "none")]
    )
    assert result.exit_code == 2
    assert "is not a centre" in result.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("option", [("--name", "two"), ("--sites", 5), ("--mlflow-uri", "x")])
@pytest.mark.parametrize("what", ["--resume", "--follow", "--stop"])
def test_options_of_a_new_run_are_for_a_new_run(
    centre: Centre, control: FakeControl, study: Path, option: tuple[object, ...], what: str
) -> None:
    call(centre, "--study", study, "--name", "one")
    result = call(centre, what, "one", *option)
    assert result.exit_code == 2
    assert str(option[0]) in result.stderr


# ---- a SuperLink that will not ------------------------------------------------------------------

NOT_STARTED = [
    SuperLinkUnreachable("the SuperLink does not answer (ConnectError); start it"),
    SuperLinkRefused("no more runs"),
]


@pytest.mark.parametrize("refusal", NOT_STARTED, ids=lambda error: type(error).__name__)
def test_a_run_that_could_not_be_started_can_be_resumed(
    centre: Centre, control: FakeControl, study: Path, refusal: Exception
) -> None:
    """Its folder stays: a SuperLink that did not answer in time may have started it after all."""
    control.refuses = refusal
    result = call(centre, "--study", study, "--name", "one", "--sites", 3)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {refusal}\n")
    assert result.stdout == ""
    assert sorted(os.listdir(centre.runs / "one")) == ["lock", "protocol.json", "run.json"]
    assert json.loads((centre.runs / "one" / "run.json").read_text())["flower_run_id"] is None
    control.refuses = None
    result = call(centre, "--resume", "one")
    assert result.exit_code == 0, result.output
    assert facts(centre, "one").expected_sites == 3


@pytest.mark.parametrize("refusal", NOT_STARTED, ids=lambda error: type(error).__name__)
def test_it_is_reported_how_to_go_on_with_a_run_that_could_not_be_started(
    centre: Centre, control: FakeControl, study: Path, refusal: Exception
) -> None:
    control.refuses = refusal
    result = call(centre, "--study", study)
    (name,) = runs(centre)
    assert f"--resume {name}" in result.stderr


@pytest.mark.parametrize("what", ["--resume", "--stop"])
def test_without_a_superlink_a_run_is_as_it_was(
    centre: Centre, control: FakeControl, study: Path, what: str
) -> None:
    call(centre, "--study", study, "--name", "one")
    before = facts(centre, "one")
    control.refuses = NOT_STARTED[0]
    result = call(centre, what, "one")
    assert result.exit_code == 2
    assert "the SuperLink does not answer" in result.stderr
    assert facts(centre, "one") == before


def test_the_real_connection_says_that_nobody_answers(centre: Centre) -> None:
    made = RunFolder(centre.runs / "one")
    made.create(RunFacts(name="one", mlflow_uri="", flower_run_id=7), StudyProtocol())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        content = json.loads(centre.facts_file.read_text())
        content["port"] = unused.getsockname()[1]
        centre.facts_file.write_text(json.dumps(content))
        result = call(centre, "--stop", "one")
    assert result.exit_code == 2
    assert "the SuperLink does not answer (ConnectError)" in result.stderr
    assert "asdnet-centre superlink" in result.stderr
