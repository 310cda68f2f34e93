"""`asdnet-centre run` with a SuperLink that is played."""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from flower_compat.bundle import build_bundle
from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
from protocol.agreement.bundle import read_bundle
from protocol.agreement.digests import weights_digest
from protocol.agreement.manifest import Study, StudyFile
from protocol.config.study import StudyProtocol
from protocol.keys import make_key, openssh_fingerprint, openssh_line, read_verifying_key
from protocol.running import running_once
from server.admin.centre import Centre, create_centre, write_sites
from server.admin.owner import make_owner_token
from server.admin.signing import make_signing_files
from server.admin.site_keys import SiteKey
from server.cli import app
from server.monitoring.run_folder import RunFacts, RunFolder
from server.monitoring.wanted import read_wanted
from server.rounds.loop import new_record
from server.service.starting import APP
from server.service.steering import service_lock

# Small networks, whose first weights are signed.
STUDY = {"name": "pelvis", "seed": 3, "network": {"width": 1}, "confidence": {"width": 1}}


@dataclass
class FakeControl:
    """Starts nothing; plays what the ServerApp would write."""

    centre: Centre
    plays: Callable[[RunFolder], None] = lambda folder: folder.add_event("finished", unsent=0)
    refuses: Exception | None = None
    running: set[int] = field(default_factory=set)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def start_run(self, bundle: bytes, config: Mapping[str, str]) -> int:
        self.calls.append(("start", read_bundle(bundle).digest, dict(config)))
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
    admit(made, "AB")
    return made


def admit(centre: Centre, names: str) -> None:
    """These sites, and no others."""
    write_sites(centre, {name: KEYS[name] for name in names})


def site_key() -> SiteKey:
    public = make_key().public_key()
    return SiteKey(
        public_key=openssh_line(public),
        fingerprint=openssh_fingerprint(public),
        added=datetime.now(UTC),
    )


KEYS = {name: site_key() for name in "ABC"}


@cache
def sent_bundle() -> bytes:
    """What the checkout bundles; once, because it takes a second."""
    return build_bundle(APP)


@pytest.fixture(autouse=True)
def one_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flower_compat.bundle", "server.service.starting"):
        monkeypatch.setattr(f"{name}.build_bundle", lambda root: sent_bundle())


@pytest.fixture
def control(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    fake = FakeControl(centre)

    token = make_owner_token(centre)

    @contextmanager
    def connect(port: int, ca_file: Path, owner_token: str) -> Iterator[FakeControl]:
        assert (port, ca_file, owner_token) == (centre.port, centre.ca_file, token)
        yield fake

    monkeypatch.setattr("flower_compat.control.connect", connect)
    monkeypatch.setattr("server.monitoring.follow._POLL_S", 0.01)
    monkeypatch.setattr("server.monitoring.follow._START_PATIENCE_S", 0.05)
    return fake


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def call(centre: Centre, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, arguments), "--centre", str(centre.folder)])


def runs(centre: Centre) -> list[str]:
    return sorted(os.listdir(centre.runs))


def digest() -> str:
    """Of the code that is sent."""
    return read_bundle(sent_bundle()).digest


def signed(centre: Centre, name: str) -> StudyFile:
    """The run's signed study."""
    file = RunFolder(centre.runs / name).study()
    assert file is not None
    return file


def verified(centre: Centre, name: str) -> Study:
    return signed(centre, name).verified(read_verifying_key(centre.folder / "study.pub"))


def facts(centre: Centre, name: str) -> RunFacts:
    return RunFolder(centre.runs / name).read()[0]


# ---- starting -----------------------------------------------------------------------------------


def test_a_new_run(centre: Centre, control: FakeControl, study: Path) -> None:
    result = call(centre, "--study", study, "--name", "one", "--sites", 3)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    study_file = signed(centre, "one")
    assert result.stdout.splitlines() == [
        f"run one: signed, study {study_file.signed.digest[:12]}; each site approves it once",
        "run one",
        f"finished: {centre.runs / 'one'}",
    ]
    assert control.calls == [("start", digest(), {"run": "one"})]
    found, protocol = RunFolder(centre.runs / "one").read()
    assert protocol == StudyProtocol.model_validate(STUDY)
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
        (play("stopped", reason="too few"), 3, "stopped: too few\nGo on with: asdnet-centre run"),
        (play("paused", reason="by a person"), 3, "paused: by a person\nGo on with"),
        (play("failed", reason="OSError: full"), 4, "failed: OSError: full"),
        (begin_and_die, 75, "died: the ServerApp ended without a last event"),
        (lambda _: None, 75, "never started: no ServerApp within"),
    ],
    ids=["finished", "untracked", "stopped", "paused", "failed", "died", "never started"],
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


def test_a_run_may_call_some_sites_alone(centre: Centre, control: FakeControl, study: Path) -> None:
    admit(centre, "ABC")
    call(centre, "--study", study, "--name", "one", "--only", "C, A,C")
    assert facts(centre, "one").sites == ("C", "A")
    assert facts(centre, "one").expected_sites == 2
    assert sorted(verified(centre, "one").manifest.sites) == ["A", "C"]


def test_a_run_that_is_queued_is_signed_and_wanted(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    result = call(centre, "--study", study, "--name", "one", "--queue", "--priority", 3)
    assert result.exit_code == 0, result.output
    assert "run one: starts when it has its turn at asdnet-centre serve" in result.stdout
    assert control.calls == []
    wanted = read_wanted(centre.runs / "one")
    assert wanted is not None and (wanted.state, wanted.priority) == ("running", 3)
    assert verified(centre, "one").manifest.run == "one"


def test_the_service_starts_what_it_keeps_and_it_is_followed_through_a_death(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    """Also by --resume: two that start one run would end each other's ServerApp."""
    folder = RunFolder(centre.runs / "one")
    looks = iter(
        [
            lambda: folder.add_event("online", sites=["A"], awaited=1),
            lambda: folder.add_event("resumed", after=0, why="it died"),
            lambda: folder.add_event("failed", reason="OSError: full"),
            lambda: folder.add_event("finished", unsent=0),
        ]
    )

    def at_work(self: RunFolder) -> bool:
        if read_wanted(folder.path) is not None:
            next(looks, lambda: None)()
        return False

    with running_once(service_lock(centre), "it"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "at_work", at_work)
        result = call(centre, "--study", study, "--name", "one")
    assert result.exit_code == 0, result.output
    assert control.calls == []
    assert result.stdout.splitlines()[1:] == [
        "run one: starts when it has its turn at asdnet-centre serve",
        "sites online: A (1 of 1)",
        "started again after round 0: it died",
        f"finished: {folder.path}",
    ]


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
        ("start", digest(), {"run": "one"}),
    ]
    after = facts(centre, "one")
    assert after.flower_run_id != before.flower_run_id
    assert after.model_copy(update={"flower_run_id": before.flower_run_id}) == before


def test_a_study_file_that_was_edited_since_is_noticed(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    control.plays = play("stopped", reason="too few")
    call(centre, "--study", study, "--name", "one")
    assert "edited" not in call(centre, "--resume", "one").stdout
    edited = STUDY | {"organs": {"vesica": 1}, "seed": 77}
    study.write_text(yaml.safe_dump(edited), encoding="utf-8")
    told = call(centre, "--resume", "one").stdout
    assert f"note: {study}: has been edited since" in told
    assert "seed: " in told and " is now 77" in told and "organs: " in told
    assert "goes on with the study that it was made with" in told
    study.write_text("organs: [", encoding="utf-8")
    assert "is no study any more" in call(centre, "--resume", "one").stdout
    study.unlink()
    assert "edited" not in call(centre, "--resume", "one").stdout


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
    assert result.stdout == "run one: stopped; go on with: asdnet-centre run --resume one\n"
    assert control.calls[-1] == ("stop", facts(centre, "one").flower_run_id)
    followed = call(centre, "--follow", "one")
    assert followed.exit_code == 3 and "stopped: by a person" in followed.stdout
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
        (["--study", "STUDY", "--only", "A,X"], "X: not admitted to this centre"),
        (["--study", "STUDY", "--only", "A"], "--only: names 1 sites, and the study needs 2"),
        (["--study", "STUDY", "--prepare", "--queue"], "--prepare, --queue: give one"),
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


@pytest.mark.parametrize(
    "option", [("--name", "two"), ("--sites", 5), ("--only", "A"), ("--mlflow-uri", "x")]
)
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
    assert result.stdout.startswith("run one: signed, study ")
    there = ["lock", "manifest.json", "protocol.json", "run.json"]
    assert sorted(os.listdir(centre.runs / "one")) == there
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
    make_owner_token(centre)
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


# ---- what is signed -----------------------------------------------------------------------------


def test_the_manifest_binds_what_will_be_sent(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    call(centre, "--study", study, "--name", "one")
    signed_study = verified(centre, "one")
    manifest, protocol = signed_study.manifest, signed_study.protocol
    assert protocol == StudyProtocol.model_validate(STUDY)
    assert (manifest.run, manifest.revision, manifest.code) == ("one", 1, digest())
    assert manifest.sites == {name: KEYS[name].public_key for name in "AB"}
    assert manifest.evaluation_rounds == tuple(range(5, 61, 5))
    first = new_record(protocol, "one")
    assert manifest.weights.segmenter == weights_digest(first.segmenter)
    assert first.confidence is not None
    assert manifest.weights.confidence == weights_digest(first.confidence)
    assert abs(datetime.now(UTC) - manifest.issued).total_seconds() < 60


def test_a_study_is_prepared_and_started_later(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    result = call(centre, "--study", study, "--name", "one", "--prepare")
    assert result.exit_code == 0, result.output
    assert control.calls == []
    prepared = signed(centre, "one")
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines == [
        f"run one: signed, study {prepared.signed.digest}",
        str(centre.runs / "one" / "manifest.json"),
        "Mail this file to each hospital (A, B), which looks at it and approves it there:",
        "asdnet-site approve --site SITE --file manifest.json",
        "Then start it:",
        f"asdnet-centre run --resume one --centre {centre.folder}",
    ]
    # Its key can be away by then.
    (centre.folder / "study.key").rename(centre.folder / "elsewhere")
    result = call(centre, "--resume", "one")
    assert result.exit_code == 0, result.output
    assert signed(centre, "one") == prepared
    assert control.calls == [("start", digest(), {"run": "one"})]


def change_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another checkout at the centre."""
    root = tmp_path / "app"
    (root / "tinyapp").mkdir(parents=True)
    (root / "tinyapp" / "a.py").write_text("", encoding="utf-8")
    (root / "pyproject.toml").write_text(
        '[project]\nname = "t"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "c"\n'
        '[tool.flwr.app.components]\nserverapp = "tinyapp.a:app"\nclientapp = "tinyapp.a:app"\n',
        encoding="utf-8",
    )
    other = build_bundle(root)
    monkeypatch.setattr("flower_compat.bundle.build_bundle", lambda root: other)


def test_other_code_is_signed_anew(
    centre: Centre,
    control: FakeControl,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    call(centre, "--study", study, "--name", "one")
    before = verified(centre, "one")
    change_code(monkeypatch, tmp_path)
    result = call(centre, "--resume", "one")
    assert "run one: signed anew, as revision 2: the code is another (" in result.stdout
    assert "Every site must approve it again." in result.stdout
    after = verified(centre, "one")
    assert after.manifest.revision == 2
    assert after.manifest.issued > before.manifest.issued
    # What was started is what was signed.
    assert control.calls[-1] == ("start", after.manifest.code, {"run": "one"})


@pytest.mark.parametrize(
    ("names", "words"),
    [("ABC", "site C is added"), ("A", "site B is removed"), ("AC", "B is removed; site C is add")],
)
def test_another_roster_is_signed_anew(
    centre: Centre, control: FakeControl, study: Path, names: str, words: str
) -> None:
    call(centre, "--study", study, "--name", "one")
    admit(centre, names)
    result = call(centre, "--resume", "one")
    assert words in result.stdout
    manifest = verified(centre, "one").manifest
    assert (manifest.revision, sorted(manifest.sites)) == (2, list(names))


def test_another_key_of_a_site_is_signed_anew(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    call(centre, "--study", study, "--name", "one")
    write_sites(centre, {"A": KEYS["A"], "B": KEYS["C"]})
    assert "site B has another key" in call(centre, "--resume", "one").stdout


def test_a_revision_keeps_what_a_run_under_way_began_with(
    centre: Centre, control: FakeControl, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(centre, "--study", study, "--name", "one")
    before = verified(centre, "one").manifest.weights
    (centre.runs / "one" / "checkpoint.safetensors").touch()
    admit(centre, "ABC")
    monkeypatch.setattr("server.admin.agreement.first_weights", None)
    call(centre, "--resume", "one")
    assert verified(centre, "one").manifest.weights == before


@pytest.mark.parametrize("damage", ["key", "text", "file", "gone"])
def test_a_study_that_is_not_to_be_believed_is_signed_anew(
    centre: Centre, control: FakeControl, study: Path, damage: str
) -> None:
    """After `renew --signing-key`, a damaged disk, or a run of an earlier version."""
    call(centre, "--study", study, "--name", "one")
    path = centre.runs / "one" / "manifest.json"
    if damage == "key":
        make_signing_files(centre.folder)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text().replace("60", "61") if damage == "text" else "{")
    result = call(centre, "--resume", "one")
    assert result.exit_code == 0, result.output
    words = "each site approves it once" if damage == "gone" else "is damaged, or signed with an"
    assert words in result.stdout
    assert verified(centre, "one").manifest.revision == 1


def test_a_run_at_work_is_not_signed_anew(
    centre: Centre, control: FakeControl, study: Path
) -> None:
    call(centre, "--study", study, "--name", "one")
    before = signed(centre, "one")
    admit(centre, "ABC")
    with RunFolder(centre.runs / "one").lock():
        result = call(centre, "--resume", "one", "--prepare")
    assert result.exit_code == 2
    assert "a ServerApp is at work on it" in result.stderr
    assert signed(centre, "one") == before


def test_the_key_may_lie_elsewhere(
    centre: Centre, control: FakeControl, study: Path, tmp_path: Path
) -> None:
    stick = tmp_path / "study.key"
    (centre.folder / "study.key").rename(stick)
    result = call(centre, "--study", study, "--name", "one")
    assert result.exit_code == 2
    assert "study.key: cannot be read" in result.stderr
    assert runs(centre) == []
    result = call(centre, "--study", study, "--name", "one", "--study-key", stick)
    assert result.exit_code == 0, result.output
    assert verified(centre, "one")


def test_what_cannot_be_signed_makes_no_run(
    centre: Centre, control: FakeControl, study: Path, tmp_path: Path
) -> None:
    def refused(words: str) -> None:
        result = call(centre, "--study", study, "--name", "one")
        assert result.exit_code == 2
        assert words in result.stderr
        assert (runs(centre), control.calls) == ([], [])

    admit(centre, "")
    refused("there are none yet; admit them first: asdnet-centre add-site")
    admit(centre, "AB")
    public = centre.folder / "study.pub"
    kept = public.read_bytes()
    make_signing_files(centre.folder)
    public.write_bytes(kept)
    refused("study.key: is not the key of")
    public.unlink()
    refused("study.pub: is not there, and no study can be signed; make a key with")


@pytest.mark.parametrize("what", ["--follow", "--stop"])
def test_only_what_is_started_is_prepared(centre: Centre, study: Path, what: str) -> None:
    result = call(centre, what, "one", "--prepare")
    assert result.exit_code == 2
    assert "--prepare: not with --follow or --stop" in result.stderr
