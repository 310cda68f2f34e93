"""How Flower's SuperNode is started, and ended; its command line is for all to see."""

import base64
import io
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.node.supernode import SuperNode
from protocol.config.site import SiteConfig

SITE_FILE = Path("/configs with space/A.yaml")


class FakeProcess:
    """A child that runs until it is told to end, once or twice."""

    made: "list[FakeProcess]"

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command, self.options = command, options
        self.calls: list[object] = []
        self.status: int | None = None
        self.obeys = True
        self.stdout = io.BytesIO(b"\x1b[92mRun\x1b[0m 7 of \x1b[2Jcentre\n")
        self.made.append(self)

    def poll(self) -> int | None:
        return self.status

    def terminate(self) -> None:
        self.calls.append("terminate")
        if self.obeys:
            self.status = -15

    def kill(self) -> None:
        self.calls.append("kill")
        self.status = -9

    def wait(self, timeout: float | None = None) -> int:
        self.calls.append(timeout)
        if self.status is None:
            raise subprocess.TimeoutExpired("flower-supernode", timeout or 0)
        return self.status


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    FakeProcess.made = []
    monkeypatch.setattr("client.node.supernode.subprocess.Popen", FakeProcess)
    return FakeProcess.made


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    return SiteConfig(
        site="A",
        data=tmp_path / "d",
        cache=tmp_path / "c",
        state=tmp_path / "new" / "state",
        centre="https://centre.example.org:9092",
    )


def option(command: list[str], name: str) -> str:
    assert command.count(name) == 1
    return command[command.index(name) + 1]


def test_the_command_line(config: SiteConfig, processes: list[FakeProcess]) -> None:
    node = SuperNode(config, SITE_FILE)
    [process] = processes
    command = process.command
    assert command[:5] == [sys.executable, "-u", "-m", "client.node.supernode", str(os.getpid())]
    assert option(command, "--superlink") == "centre.example.org:9092"
    assert option(command, "--root-certificates") == str(config.state / "ca.pem")
    assert option(command, "--auth-supernode-private-key") == str(config.state / "site.key")
    assert option(command, "--isolation") == "process"
    assert option(command, "--host") == "127.0.0.1"
    assert node.address == f"127.0.0.1:{option(command, '--port')}"
    assert 0 < int(option(command, "--port")) < 2**16
    assert option(command, "--node-config") == f'site-config="{SITE_FILE}"'
    assert "--insecure" not in command
    assert process.options["stdin"] == subprocess.DEVNULL


def test_its_lines_are_lines_of_the_log(
    config: SiteConfig, processes: list[FakeProcess], caplog: pytest.LogCaptureFixture
) -> None:
    """Some quote the centre, which could write what it likes to the terminal."""
    caplog.set_level("INFO")
    SuperNode(config, SITE_FILE).stop()
    assert processes[0].options["stderr"] == subprocess.STDOUT
    assert caplog.messages == [r"Run 7 of \x1b[2Jcentre"]


def test_flower_knows_every_option(config: SiteConfig, processes: list[FakeProcess]) -> None:
    from flwr.common.config import parse_config_args
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    SuperNode(config, SITE_FILE)
    known = _parse_args_run_supernode().parse_args(processes[0].command[7:])
    assert known.isolation == "process"
    assert not known.insecure
    assert parse_config_args([known.node_config]) == {"site-config": str(SITE_FILE)}


def test_the_secret_is_in_a_private_file_alone(
    config: SiteConfig, processes: list[FakeProcess]
) -> None:
    node = SuperNode(config, SITE_FILE)
    file = config.state / "runtime.secret"
    assert file.read_bytes() == node.secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(node.secret) == 32
    [process] = processes
    assert option(process.command, "--superexec-auth-secret-file") == str(file)
    line = shlex.join(process.command)
    texts = (node.secret.hex(), base64.b64encode(node.secret).decode(), repr(node.secret)[2:-1])
    for text in texts:
        assert text not in line
        assert text not in str(process.options)


def test_every_start_has_a_secret_of_its_own(
    config: SiteConfig, processes: list[FakeProcess]
) -> None:
    first = SuperNode(config, SITE_FILE)
    file = config.state / "runtime.secret"
    file.chmod(0o644)
    elsewhere = config.state / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    second = SuperNode(config, SITE_FILE)
    assert first.secret != second.secret
    assert file.read_bytes() == second.secret
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert elsewhere.read_bytes() == first.secret


def test_it_is_asked_to_end_and_waited_for(
    config: SiteConfig, processes: list[FakeProcess]
) -> None:
    node = SuperNode(config, SITE_FILE)
    assert node.exit_code is None
    node.stop(3.0)
    assert processes[0].calls == ["terminate", 3.0]
    assert node.exit_code == -15
    node.stop()
    assert processes[0].calls == ["terminate", 3.0]


def test_it_is_ended_where_it_does_not_end(
    config: SiteConfig, processes: list[FakeProcess]
) -> None:
    node = SuperNode(config, SITE_FILE)
    processes[0].obeys = False
    node.stop(3.0)
    assert processes[0].calls == ["terminate", 3.0, "kill", None]
    assert node.exit_code == -9
