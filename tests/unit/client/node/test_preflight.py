"""The table a hospital sees before it joins: site and machine; the network has its own file."""

import io
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import dicom_phantoms as ph
import pytest
import SimpleITK as sitk
import torch
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

import asdnet_models.methods.asdnet
import client.node.connection
import client.node.device_check
import client.node.training_rehearsal
import client.training.rehearsal
from asdnet_models.methods import method_named
from client.data.case import Part
from client.data.dataset import prepare_site
from client.datacheck.site import check_site
from client.datacheck.summary import summarise
from client.node.checks import Check, Result, print_preflight, run_check
from client.node.confinement.limits import Confined
from client.node.preflight import preflight
from client.node.private_folders import close_folders
from client.node.training_rehearsal import Step
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.keys import (
    make_key,
    make_signing_key,
    openssh_fingerprint,
    openssh_line,
    openssh_private,
)

ROWS = [
    *("centre", "DNS", "TCP", "TLS chain", "host name", "expiry", "clock"),
    *("private key", "study key", "state folder", "worker", "data", "cache disk", "limits"),
    "device",
]
# 24 voxels an edge at 2 mm; four cases of the five of `make_site` have labels.
NEEDED = 24**3 * (5 * 4 + 4 * 1)

MakeSite = Callable[..., SiteConfig]
MakeProtocol = Callable[..., StudyProtocol]


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds less where the device is not what a test is about."""
    monkeypatch.setattr(
        client.node.device_check, "rehearse_training", lambda *_: ("ok", "not tried", "")
    )
    walls = Confined(namespace=True, counted=True, landlock=7)
    monkeypatch.setattr("client.node.worker.try_walls", lambda _: walls)


def put_key(config: SiteConfig, content: bytes | None = None, mode: int = 0o600) -> SiteConfig:
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.key_file.write_bytes(openssh_private(make_key()) if content is None else content)
    config.key_file.chmod(mode)
    line = openssh_line(make_signing_key().public_key(), "asdnet-centre")
    config.centre_key_file.write_text(f"{line}\n", encoding="utf-8")
    return config


def row(name: str, config: SiteConfig, protocol: StudyProtocol | None = None) -> Check:
    checks = preflight(config, protocol)
    assert [check.name for check in checks] == ROWS
    return checks[ROWS.index(name)]


def test_a_site_that_is_ready_but_for_the_centre(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = put_key(make_site())
    study = make_protocol(training={"local_steps": 20}, aggregation={"max_update": 1.0})
    checks = {check.name: check for check in preflight(config, study)}
    assert list(checks) == ROWS
    assert [checks[name].status for name in ROWS[7:]] == ["ok"] * 8, checks
    # One real step in a process of its own.
    step = re.fullmatch(
        r"cpu: one training step takes [\d.]+ s and ([\d.]+) MB of [\d.]+ GB",
        checks["device"].finding,
    )
    assert step is not None, checks["device"]
    assert float(step[1]) > 0
    assert checks["data"].finding == (
        "labelled 2, unlabelled 1, validation 1, test 1, by file names; asdnet-site check --site A"
        " opens these 5 cases and says which are used"
    )
    # A patient's name is in every file name, and in none of the rows.
    assert not any("patient" in check.finding + check.hint for check in checks.values())
    # Nothing is written but what the step has taken.
    assert {path.name for path in config.state.iterdir()} == {
        *("site.key", "centre.pub", "device_steps.json"),
    }
    assert not config.cache.exists()


def test_without_a_study_the_paper_is_tried(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[StudyProtocol] = []

    def device(config: SiteConfig, study: StudyProtocol) -> Result:
        tried.append(study)
        return "ok", "done", ""

    monkeypatch.setattr(client.node.device_check, "rehearse_training", device)
    found = {check.name: check.finding for check in preflight(make_site())}
    assert [study.name for study in tried] == ["paper"]
    for name in ("device", "cache disk"):
        assert found[name].endswith("(no study seen yet: as preset paper)")


# --- the private key


@pytest.mark.usefixtures("no_step")
def test_the_key_is_shown_as_ssh_keygen_does(tmp_path: Path, make_site: MakeSite) -> None:
    key = make_key()
    config = put_key(make_site(labelled=1), openssh_private(key))
    check = row("private key", config)
    assert (check.status, check.hint) == ("ok", "")
    assert check.finding == f"its public key is {openssh_fingerprint(key.public_key())}"
    if shutil.which("ssh-keygen"):
        printed = subprocess.run(
            ["ssh-keygen", "-lf", config.key_file],
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert printed.stdout.split()[1] in check.finding


@pytest.mark.usefixtures("no_step")
def test_the_centres_key_for_studies(make_site: MakeSite) -> None:
    config = put_key(make_site(labelled=1))
    public = config.centre_key_file
    check = row("study key", config)
    assert check.status == "ok"
    assert check.finding.startswith("the centre signs its studies with SHA256:")
    public.chmod(0o666)
    check = row("study key", config)
    assert (check.status, check.hint) == ("failed", f"chmod 644 {public}")
    assert "others can change" in check.finding
    public.write_text("ssh-rsa AAAA\n", encoding="utf-8")
    check = row("study key", config)
    assert check.status == "failed"
    assert "must hold one OpenSSH public key line of type ssh-ed25519" in check.finding
    public.unlink()
    check = row("study key", config)
    assert check.status == "failed"
    assert "no study of the centre would be believed" in check.finding
    assert check.hint.endswith("asdnet-site enrol --site A shows it")


@pytest.mark.usefixtures("no_step")
def test_no_key(make_site: MakeSite) -> None:
    check = row("private key", make_site(labelled=1))
    assert (check.status, check.hint) == ("failed", "asdnet-site enrol --site A")
    assert "does not exist" in check.finding


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_use(make_site: MakeSite, mode: int) -> None:
    config = put_key(make_site(labelled=1), mode=mode)
    check = row("private key", config)
    assert (check.status, check.hint) == ("failed", f"chmod 600 {config.key_file}")
    assert f"mode {mode:04o}" in check.finding
    assert "SHA256:" in check.finding


def rsa_key() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("content", [b"", b"garbage", rsa_key()], ids=["empty", "garbage", "RSA"])
def test_a_key_of_another_kind(make_site: MakeSite, content: bytes) -> None:
    check = row("private key", put_key(make_site(labelled=1), content))
    assert check.status == "failed"
    assert "must be an OpenSSH private key on P-384" in check.finding
    assert "asdnet-site enrol --site A --replace" in check.hint


@pytest.mark.usefixtures("no_step")
def test_a_key_of_another_user(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    config = put_key(make_site(labelled=1), mode=0o644)
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    check = row("private key", config)
    assert check.status == "failed"
    assert f"another user (uid {me})" in check.finding
    # Both findings, and both remedies.
    path = config.key_file
    assert check.hint == f"chown {me + 1} {path}; chmod 600 {path}"


@pytest.mark.usefixtures("no_step")
def test_a_folder_where_the_key_should_be(make_site: MakeSite) -> None:
    config = make_site(labelled=1)
    config.key_file.mkdir(parents=True, mode=0o700)
    check = row("private key", config)
    assert check.status == "failed"
    assert "Is a directory" in check.finding


# --- the state folder


@pytest.mark.usefixtures("no_step")
def test_the_state_folder_is_made_for_this_user_alone(make_site: MakeSite) -> None:
    config = make_site(labelled=1)
    assert row("state folder", config).status == "ok"
    assert stat.S_IMODE(config.state.stat().st_mode) == 0o700


@pytest.mark.usefixtures("no_step")
def test_a_state_folder_that_is_open_to_all(make_site: MakeSite) -> None:
    config = make_site(labelled=1)
    config.state.mkdir()
    config.state.chmod(0o755)
    check = row("state folder", config)
    assert (check.status, check.hint) == ("warning", f"chmod go-rwx {config.state}")


@pytest.mark.usefixtures("no_step")
def test_a_cache_that_a_group_can_list(make_site: MakeSite) -> None:
    config = make_site(labelled=1)
    config.state.mkdir(mode=0o700)
    config.cache.mkdir()
    config.cache.chmod(0o750)
    check = row("state folder", config)
    assert (check.status, check.hint) == ("warning", f"chmod go-rwx {config.cache}")
    assert close_folders(config) == [config.cache]
    assert stat.S_IMODE(config.cache.stat().st_mode) == 0o700
    assert row("state folder", config).status == "ok"
    assert close_folders(config) == []


@pytest.mark.usefixtures("no_step")
def test_what_keeps_approved_code_in(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_site(labelled=1)
    assert row("worker", config).status == "ok"
    for namespace, landlock, says in (
        (False, 7, "could use the network, but not by TCP"),
        (False, 3, "could use the network: "),
        (True, 0, "read this site's key and change its audit log"),
    ):
        walls = Confined(namespace=namespace, counted=False, landlock=landlock)
        monkeypatch.setattr("client.node.worker.try_walls", lambda _, w=walls: w)
        check = row("worker", config)
        assert check.status == "warning"
        assert says in check.finding and check.hint


def test_a_worker_is_tried_as_it_will_run(make_site: MakeSite) -> None:
    config = make_site(labelled=1)
    check = run_check("worker", partial(client.node.preflight._worker, config))
    assert check.status in ("ok", "warning"), check
    assert not config.state.exists() and not config.cache.exists()


@pytest.mark.usefixtures("no_step")
def test_a_state_folder_that_cannot_be(make_site: MakeSite) -> None:
    config = make_site(labelled=1)
    config.state.write_text("a file")
    check = row("state folder", config)
    assert check.status == "failed"
    assert "cannot be made" in check.finding
    assert "`state` of A.yaml" in check.hint


@pytest.mark.usefixtures("no_step")
def test_what_may_not_be_written_to(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    config = put_key(make_site())
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert "is not writable" in row("state folder", config).finding
    check = row("cache disk", config)
    assert (check.status, check.finding) == ("failed", f"{config.data} is not writable")


@pytest.mark.usefixtures("no_step")
def test_an_audit_log_that_is_no_file(make_site: MakeSite) -> None:
    config = make_site(labelled=1)
    config.audit_file.mkdir(parents=True)
    check = row("state folder", config)
    assert check.status == "failed"
    assert "audit log" in check.finding


# --- room for the cache


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free, 0, free))


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize(
    ("free", "status"),
    [
        (NEEDED - 1, "failed"),
        (NEEDED, "warning"),
        (2 * NEEDED - 1, "warning"),
        (2 * NEEDED, "ok"),
    ],
)
def test_disk(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    status: str,
) -> None:
    with_free(monkeypatch, free)
    check = row("cache disk", make_site(), make_protocol())
    assert check.status == status, check
    assert "331.8 kB still needed" in check.finding
    assert ("`cache` of A.yaml" in check.hint) == (status != "ok")


@pytest.mark.usefixtures("no_step")
def test_disk_at_the_study_s_spacing(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half the spacing along each axis: eight times the voxels.
    protocol, config = make_protocol(spacing_mm=(1.0, 1.0, 1.0)), make_site()
    with_free(monkeypatch, 8 * NEEDED - 1)
    assert row("cache disk", config, protocol).status == "failed"
    with_free(monkeypatch, 8 * NEEDED)
    assert row("cache disk", config, protocol).status == "warning"


@pytest.mark.usefixtures("no_step")
def test_what_is_in_the_cache_needs_no_more_room(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site()
    prepare_site(config, make_protocol())
    with_free(monkeypatch, 1)
    check = row("cache disk", config, make_protocol())
    assert (check.status, check.finding.split(",")[0]) == ("ok", "0 bytes still needed (estimate)")
    # What another study has left there is not counted.
    assert row("cache disk", config, make_protocol(spacing_mm=(1.0, 2.0, 2.0))).status == "failed"
    # Nor is what is broken, and it does not stop the check.
    next(config.cache.glob("*/facts.json")).write_text("{")
    assert row("cache disk", config, make_protocol()).status == "failed"


@pytest.mark.usefixtures("no_step")
def test_disk_for_a_dicom_folder(
    tmp_path: Path, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ph.phantom((6, 20, 10), spacing_mm=(2.0, 2.0, 4.0))
    ph.write_classic(tmp_path / "data" / "imagesUn" / "p1" / "1.2.3", made)
    config = SiteConfig(
        site="A", data=tmp_path / "data", cache=tmp_path / "c", state=tmp_path / "s"
    )
    # 10 x 20 x 6 voxels of 2 x 2 x 4 mm, onto 2 mm, at 4 bytes.
    with_free(monkeypatch, 10 * 20 * 12 * 4 - 1)
    assert row("cache disk", config, make_protocol()).status == "failed"
    with_free(monkeypatch, 10 * 20 * 12 * 4)
    assert row("cache disk", config, make_protocol()).status == "warning"


@pytest.mark.usefixtures("no_step")
def test_a_header_that_cannot_be_read(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config = make_site()
    (config.data / "imagesUn" / "patient-broken.nii.gz").write_bytes(b"garbage")
    check = row("cache disk", config, make_protocol())
    assert check.status == "warning"
    assert "331.8 kB" in check.finding
    assert "; 1 scans left out" in check.finding
    assert "patient" not in check.finding


# --- the device


class Child:
    """The child's end of the pipe."""

    def __init__(self) -> None:
        self.result: Step | Result = ("ok", "", "")

    def send(self, result: Step | Result) -> None:
        self.result = result


def test_cuda_where_there_is_none(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    if torch.cuda.device_count() > 7:
        pytest.skip("this machine has that GPU")
    config = make_site(labelled=1).model_copy(update={"device": "cuda:7"})
    end: Any = Child()
    client.node.training_rehearsal._rehearse(config, make_protocol(), end)
    status, found, hint = end.result
    assert status == "failed"
    assert found == f"device cuda:7: PyTorch sees {torch.cuda.device_count()} GPUs on this machine"
    assert hint.startswith("take auto or cpu, or install its driver")


class InTheChild:
    """Calls a function when the child process unpickles its task."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def test_the_trick_of_the_next_tests() -> None:
    assert pickle.loads(pickle.dumps(InTheChild(abs, -3))) == 3


@pytest.mark.parametrize(
    ("task", "told", "hint"),
    [
        (InTheChild(signal.raise_signal, signal.SIGKILL), "the system killed", "inform the centre"),
        (InTheChild(os._exit, 5), "ended with status 5", "reinstall PyTorch"),
    ],
)
def test_a_child_that_dies(task: Any, told: str, hint: str, make_protocol: MakeProtocol) -> None:
    result = client.node.training_rehearsal.rehearse_training(task, make_protocol())
    assert isinstance(result, tuple)
    assert result[0] == "failed"
    assert told in result[1]
    assert hint in result[2]


def test_a_child_that_takes_too_long(
    make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.node.training_rehearsal, "STEP_LIMIT_S", 0.1)
    started = time.monotonic()
    task: Any = InTheChild(time.sleep, 60)
    result = client.node.training_rehearsal.rehearse_training(task, make_protocol())
    assert isinstance(result, tuple)
    assert result[:2] == ("failed", "a training step takes over 0.1 s")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("error", "told", "hint"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "ran out of memory", "inform the centre"),
        (MemoryError(), "ran out of memory", "inform the centre"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "ran out",
            "inform the centre",
        ),
        (RuntimeError("cuDNN error\n" * 99), "a training step failed: cuDNN error cu", "driver"),
    ],
)
def test_a_step_that_fails(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: str,
    hint: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(asdnet_models.methods.asdnet, "train_step", fail)
    end: Any = Child()
    client.node.training_rehearsal._rehearse(make_site(labelled=1), make_protocol(), end)
    assert end.result[0] == "failed"
    assert told in end.result[1]
    assert len(end.result[1]) < 300
    assert hint in end.result[2]


def test_what_a_step_takes_is_measured(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"VmRSS": 1000, "VmHWM": 1100, "MemAvailable": 10_000}
    monkeypatch.setattr(client.training.rehearsal, "proc_bytes", lambda file, key: figures[key])
    end: Any = Child()
    client.node.training_rehearsal._rehearse(make_site(labelled=1), make_protocol(), end)
    step = end.result
    assert (step.device, step.peak_bytes, step.available_bytes) == ("cpu", 100, 10_000)
    assert step.seconds > 0


@pytest.mark.parametrize("confidence", [True, False])
def test_every_term_of_the_loss_is_on(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    monkeypatch: pytest.MonkeyPatch,
    confidence: bool,
) -> None:
    real = asdnet_models.methods.asdnet.train_step
    records = []

    def spy(*args: Any, **options: Any) -> Any:
        records.append(real(*args, **options))
        return records[-1]

    monkeypatch.setattr(asdnet_models.methods.asdnet, "train_step", spy)
    weights = {} if confidence else {"lambda_adversarial": 0.0, "lambda_region": 0.0}
    end: Any = Child()
    client.node.training_rehearsal._rehearse(
        make_site(labelled=1), make_protocol(method=weights), end
    )
    assert isinstance(end.result, Step)
    expected = {"dice", "total"} | (
        {"adversarial", "region", "confidence"} if confidence else set()
    )
    assert expected <= records[0].losses.keys()
    assert ("confidence" in records[0].losses) == confidence


@pytest.mark.parametrize(("name", "term"), [("semi-fcn", "pseudo"), ("semi-embed", "embedding")])
def test_the_step_is_one_of_the_studys_method(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    term: str,
) -> None:
    kind = method_named(name)
    real, records = kind.step, []

    def spy(*args: Any) -> Any:
        records.append(real(*args))
        return records[-1]

    monkeypatch.setattr(kind, "step", spy)
    end: Any = Child()
    client.node.training_rehearsal._rehearse(
        make_site(labelled=1), make_protocol(method={"name": name}), end
    )
    assert isinstance(end.result, Step)
    assert [set(record.losses) for record in records] == [{"dice", "total", term}]


# --- the data


@pytest.mark.usefixtures("no_step")
def test_data_that_are_not_there(make_site: MakeSite) -> None:
    config = make_site(labelled=1).model_copy(update={"data": Path("/nowhere/at-all")})
    check = row("data", config)
    assert check.status == "failed"
    assert check.finding.startswith("1 mistake:\ndata folder at-all: does not exist")
    assert "asdnet-site check" in check.hint
    assert row("cache disk", config).status == "skipped"


@pytest.mark.usefixtures("no_step")
def test_data_without_a_training_case(make_site: MakeSite) -> None:
    for config in (make_site(labelled=0), make_site("B", test=2)):
        config.data.mkdir(exist_ok=True)
        check = row("data", config)
        assert check.status == "failed"
        assert "no training case" in check.finding


@pytest.mark.usefixtures("no_step")
def test_the_first_three_mistakes_are_shown(make_site: MakeSite) -> None:
    config = make_site(labelled=5)
    for label in sorted((config.data / "labelsTr").iterdir()):
        label.unlink()
    check = row("data", config)
    lines = check.finding.splitlines()
    assert (lines[0], lines[4]) == ("5 mistakes:", "and 2 more")
    assert [line.split(":")[0] for line in lines[1:4]] == [
        f"case patient-labelled-{number}" for number in range(3)
    ]
    assert lines[5:] == ["without them: labelled 0, unlabelled 0, validation 0, test 0"]


@pytest.mark.usefixtures("no_step")
def test_the_counts_are_those_of_the_data_check(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(labelled=3, unlabelled=2).model_copy(
        update={"exclude": {"patient-labelled-0": "moved"}}
    )
    used = summarise(check_site(config, make_protocol(), workers=1), make_protocol()).used
    named = ", ".join(f"{part} {used.get(part, 0)}" for part in get_args(Part))
    assert row("data", config).finding == (
        f"{named}, excluded by the site's file 1, by file names; asdnet-site check --site A opens"
        " these 4 cases and says which are used"
    )


@pytest.mark.usefixtures("no_step")
def test_data_that_may_not_be_read(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise PermissionError(13, "Permission denied", "/secret/patient-7")

    monkeypatch.setattr(client.node.preflight, "survey_folder", refuse)
    check = row("data", make_site(labelled=1))
    assert (check.status, check.finding) == (
        "failed",
        "the data folder cannot be read (Permission denied)",
    )


@pytest.mark.usefixtures("no_step")
def test_no_scan_is_read_whole(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("voxels were read")

    monkeypatch.setattr(sitk.ImageFileReader, "Execute", refuse)
    monkeypatch.setattr(sitk, "ReadImage", refuse)
    study = make_protocol(training={"local_steps": 20}, aggregation={"max_update": 1.0})
    checks = preflight(make_site(), study)
    assert [check.status for check in checks[-4:]] == ["ok"] * 4


# --- the whole


@pytest.mark.usefixtures("no_step")
def test_a_check_that_breaks_stops_no_other(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise KeyError("patient-7")

    monkeypatch.setattr(client.node.preflight, "survey_folder", broken)
    checks = preflight(make_site(labelled=1))
    assert [check.name for check in checks] == ROWS
    data = checks[ROWS.index("data")]
    assert data.status == "failed"
    assert data.finding.startswith("this check itself broke: KeyError in ")
    assert "the details are in " in data.hint and "patient-7" not in data.hint
    assert checks[ROWS.index("state folder")].status == "ok"


FILES = st.one_of(st.none(), st.just("folder"), st.binary(max_size=60))
CENTRES = st.sampled_from(
    [None, "127.0.0.1:1", "127.0.0.1:0", "a..b:1", ".:1", "[::1]:1", "x" * 300 + ":1", "\0:1"]
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(centre=CENTRES, ca=FILES, key=FILES, state=FILES, cache=FILES, data=FILES, scan=FILES)
def test_nothing_that_is_wrong_raises(no_step: None, centre: str | None, **files: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        config = SiteConfig.model_construct(
            site="A", centre=centre, **{k: Path(name, k) for k in files if k != "scan"}
        )
        places = {k: Path(name, k) for k in files} | {"scan": Path(name, "data/imagesUn/x.nii")}
        for kind, content in sorted(files.items()):
            if content is None or (kind == "scan" and files["data"] != "folder"):
                continue
            places[kind].parent.mkdir(exist_ok=True)
            if content == "folder":
                places[kind].mkdir()
            else:
                places[kind].write_bytes(content)
        before = client.node.connection.TIME_LIMIT_S
        client.node.connection.TIME_LIMIT_S = 0.2
        try:
            checks = preflight(config)
        finally:
            client.node.connection.TIME_LIMIT_S = before
    assert [check.name for check in checks] == ROWS
    for check in checks:
        assert check.finding
        assert "broke" not in check.finding, check
        assert bool(check.hint) == (check.status in ("warning", "failed")), check


LONG = [
    Check(
        name=name,
        status="failed",
        finding=f"[red]{name}[/red] at /a/very/long/path/" + "of-one-word-" * 12,
        hint=f"chmod 600 /srv/{name.replace(' ', '-')}/" + "key/" * 40,
    )
    for name in ROWS
]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_table_at_80_columns_and_in_a_pipe(encoding: str) -> None:
    stream = io.BytesIO()
    file = io.TextIOWrapper(stream, encoding=encoding)
    print_preflight(LONG, Console(file=file, width=80))
    file.flush()
    text = stream.getvalue().decode(encoding)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    lines = [re.split(r"[│┃|]", line) for line in text.splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines if len(line) == 5]
    assert [cell[1] for cell in cells if cell[1]] == ["check", *ROWS]
    assert [cell[2] for cell in cells if cell[2]] == ["status", *["failed"] * len(ROWS)]
    # Folded, but every letter is there, brackets too.
    told = "".join(cell[3] for cell in cells).replace(" ", "")
    for check in LONG:
        assert check.finding.replace(" ", "") in told
        assert "Todo:" + check.hint.replace(" ", "") in told


def test_a_row_that_is_well_asks_for_nothing() -> None:
    file = io.StringIO()
    print_preflight([Check(name="TCP", status="ok", finding="open")], Console(file=file, width=80))
    assert "open" in file.getvalue()
    assert "To do" not in file.getvalue()


# --- the limits


@pytest.mark.usefixtures("no_step")
def test_a_study_beyond_the_limits_is_named_and_keeps_no_site_from_starting(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    study = make_protocol(training={"local_steps": 1}, aggregation={"max_update": 1.0})
    meant = make_protocol(training={"local_steps": 20}, aggregation={"max_update": 1.0})
    check = row("limits", make_site(labelled=2), study)
    assert check.status == "warning"
    first, *lines = check.finding.splitlines()
    assert first == "study tiny is beyond them and will be refused:"
    assert [line.split(" ")[0] for line in lines] == [
        *("limits.min_local_steps", "limits.min_patches", "limits.min_cases"),
    ]
    assert row("limits", make_site(labelled=3), meant) == Check(
        name="limits",
        status="ok",
        finding="study tiny is within all of them; works at any hour",
    )


def test_a_study_that_no_machine_trains_is_not_tried(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored by an earlier version, or before the limits were lowered."""

    def tried(*_: object) -> Result:
        raise AssertionError("the study was tried")

    monkeypatch.setattr(client.node.device_check, "rehearse_training", tried)
    study = make_protocol(network={"width": 256}, patch_voxels=(1024, 1024, 1024))
    checks = {check.name: check for check in preflight(make_site(), study)}
    for name in ("device", "cache disk"):
        assert checks[name].status == "skipped"
        assert checks[name].finding.startswith("study tiny is beyond limits of A.yaml; see limits")
    assert "limits.max_memory_gib of A.yaml" in checks["limits"].finding


def test_a_study_that_is_too_much_for_this_machine_keeps_no_site_from_starting(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(config: SiteConfig, study: StudyProtocol) -> Result:
        if study.name == "tiny":
            return "failed", "the system killed a training step", "inform the centre"
        return "ok", "cpu: one training step takes 1 s", ""

    monkeypatch.setattr(client.node.device_check, "rehearse_training", step)
    check = row("device", make_site(), make_protocol())
    assert check.status == "warning"
    assert check.finding == (
        "study tiny: the system killed a training step; a small study: cpu: one training step"
        " takes 1 s"
    )
