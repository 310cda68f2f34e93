"""What a person does to a run, by the commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from flower_compat.control import SuperLinkUnreachable
from protocol.config.study import StudyProtocol
from protocol.running import AlreadyRunningError, running_once
from server.admin.centre import Centre, create_centre
from server.admin.owner import make_owner_token
from server.cli import app
from server.monitoring.follow import read_events
from server.monitoring.metrics import RUN_TAG
from server.monitoring.run_folder import RunFacts, RunFolder
from server.monitoring.wanted import read_wanted, want
from server.service.standing import in_round, standing
from server.service.steering import service_lock


class FakeControl:
    """A SuperLink that ends the runs of its list."""

    running: set[int]
    away = False

    def stop_run(self, number: int) -> bool:
        if self.away:
            raise SuperLinkUnreachable("the SuperLink does not answer")
        was = number in self.running
        self.running.discard(number)
        return was


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    make_owner_token(made)
    return made


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    fake = FakeControl()
    fake.running = {7}

    @contextmanager
    def connect(port: int, ca_file: Path, owner_token: str) -> Iterator[FakeControl]:
        yield fake

    monkeypatch.setattr("flower_compat.control.connect", connect)
    return fake


@pytest.fixture
def run(centre: Centre) -> RunFolder:
    made = RunFolder(centre.runs / "one")
    uri = f"sqlite:///{centre.folder / 'mlflow.db'}"
    made.create(RunFacts(name="one", mlflow_uri=uri, flower_run_id=7), StudyProtocol())
    return made


def call(centre: Centre, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--centre", str(centre.folder)])


def state(run: RunFolder) -> str:
    wanted = read_wanted(run.path)
    return "" if wanted is None else wanted.state


def test_a_study_is_stopped_and_is_killed_in_mlflow(
    centre: Centre, control: FakeControl, run: RunFolder
) -> None:
    client = MlflowClient(run.read()[0].mlflow_uri)
    experiment = client.create_experiment("pelvis")
    ours, other = (
        client.create_run(experiment, tags={RUN_TAG: name}).info.run_id for name in ("one", "two")
    )
    done = client.create_run(experiment, tags={RUN_TAG: "one"}).info.run_id
    client.set_terminated(done, "FINISHED")
    result = call(centre, "stop", "one")
    assert result.exit_code == 0, result.output
    assert result.stdout == "run one: stopped; go on with: asdnet-centre run --resume one\n"
    assert control.running == set() and state(run) == "stopped"
    last = read_events(run.events)[-1]
    assert (last["kind"], last["reason"]) == ("stopped", "by a person")
    statuses = [client.get_run(number).info.status for number in (ours, other, done)]
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]


def test_what_is_stopped_without_a_superlink_stays_stopped(
    centre: Centre, control: FakeControl, run: RunFolder
) -> None:
    control.away = True
    result = call(centre, "stop", "one")
    assert result.exit_code == 2
    assert "the SuperLink does not answer" in result.stderr
    assert state(run) == "stopped"


def test_a_study_rests_after_its_round(
    centre: Centre, control: FakeControl, run: RunFolder
) -> None:
    run.add_event("called", round=1, what="train", sites=["A"])
    with run.lock():
        result = call(centre, "pause", "one")
        assert "will pause when its round is complete" in result.stdout
        assert control.running == {7} and state(run) == "paused"
        assert "run one: paused; go on with" in call(centre, "pause", "one", "--now").stdout
    assert control.running == set()
    assert read_events(run.events)[-1]["kind"] == "paused"


def test_a_study_that_waits_for_sites_rests_at_once(
    centre: Centre, control: FakeControl, run: RunFolder
) -> None:
    run.add_event("online", sites=[], awaited=2)
    with run.lock():
        call(centre, "pause", "one")
    assert control.running == set()


def test_a_study_that_nobody_works_on_is_paused_and_resumed(
    centre: Centre, control: FakeControl, run: RunFolder
) -> None:
    assert call(centre, "pause", "one").stdout.startswith("run one: paused")
    assert control.running == {7}
    result = call(centre, "resume", "one")
    assert "as soon as the service does: asdnet-centre serve" in result.stdout
    assert state(run) == "running"
    with running_once(service_lock(centre), "it"):
        assert call(centre, "resume", "one").stdout == "run one: goes on when it has its turn\n"
        assert "asdnet-centre resume one" in call(centre, "pause", "one").stdout


def test_a_priority(centre: Centre, run: RunFolder) -> None:
    want(run.path, "paused")
    assert call(centre, "priority", "one", "7").stdout == "run one: priority 7\n"
    wanted = read_wanted(run.path)
    assert wanted is not None and (wanted.priority, wanted.state) == (7, "paused")
    assert call(centre, "priority", "one", "101").exit_code == 2


@pytest.mark.parametrize("command", ["pause", "resume", "stop"])
def test_a_run_that_is_not_there(centre: Centre, command: str) -> None:
    result = call(centre, command, "nowhere")
    assert result.exit_code == 2
    assert "run nowhere: has no run.json" in result.stderr
    assert not (centre.runs / "nowhere").exists()


def test_a_second_service_names_the_first(centre: Centre) -> None:
    import os

    with (
        running_once(service_lock(centre), "it"),
        pytest.raises(AlreadyRunningError, match=f"it: already running, process {os.getpid()} "),
        running_once(service_lock(centre), "it"),
    ):
        pass
    with running_once(service_lock(centre), "it"):
        pass


def test_where_a_run_stands() -> None:
    assert not in_round([])
    online = {"kind": "online"}
    called = {"kind": "called", "round": 2}
    done = {"kind": "round", "round": 2}
    assert in_round([online, called]) and not in_round([online, called, done])
    assert not in_round([{"kind": "called", "round": 0}])
    assert not in_round([called, {"kind": "resumed"}]), "an earlier ServerApp's"
    found = standing([called, done, {"kind": "finished", "unsent": 3}])
    assert (found.rounds, found.end, found.unsent, found.done) == (2, "finished", 3, False)
    assert standing([called, done]).end == ""
