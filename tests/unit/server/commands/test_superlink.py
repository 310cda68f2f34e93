"""The launcher starts Flower's SuperLink with the centre's settings, behind the gate."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flwr.superlink.main
import pytest
from click.testing import CliRunner
from flwr.superlink import extensions
from flwr.superlink.servicer.fleet import fleet_handlers

import server.commands.superlink
from flower_compat.owner import FILE_VARIABLE
from flower_compat.superlink import _MODULE
from reporting.logs import LogFormat, LogSettings
from reporting.render import TEMPLATES_VARIABLE
from server.admin.centre import Centre, create_centre, superlink_arguments
from server.admin.connections import Limits
from server.admin.gate import Gate
from server.admin.owner import owner_file, read_owner_token
from server.admin.serving import serve
from server.cli import app

PATCHED = ("uvicorn", "_get_superexec_command")


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Flower's command would find, instead of its start."""
    calls: list[dict[str, Any]] = []
    relayed: list[tuple[Path, LogSettings]] = []

    def command() -> None:
        calls.append(
            {
                "arguments": sys.argv[1:],
                "middleware": flwr.superlink.main._get_middleware(),
                "module": {name: _MODULE[name] for name in PATCHED},
                "environment": dict(os.environ),
                "relayed": relayed,
            }
        )

    # Undone after the test: the launcher sets them for the rest of its process.
    monkeypatch.setattr(extensions, "get_middleware", extensions.get_middleware)
    monkeypatch.setattr(fleet_handlers, "push_messages", fleet_handlers.push_messages)
    get_middleware = flwr.superlink.main._get_middleware
    monkeypatch.setattr(flwr.superlink.main, "_get_middleware", get_middleware)
    monkeypatch.setattr(sys, "argv", sys.argv)
    # It would take this process's own stdout and stderr.
    monkeypatch.setattr("reporting.log_relay.relay_output", lambda *given: relayed.append(given))
    variables = ("FLWR_HOME", "ASDNET_CENTRE", "PATH", FILE_VARIABLE, TEMPLATES_VARIABLE)
    for name in (*variables, *LogSettings().to_environment()):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name in PATCHED:
        monkeypatch.setitem(_MODULE, name, _MODULE[name])
    # They would open the old APIs beside the gate.
    monkeypatch.setenv("FLWR_INTERNAL_GRPC_CONTROL_API", "1")
    monkeypatch.setenv("FLWR_INTERNAL_GRPC_FLEET_API", "1")
    monkeypatch.setattr("flower_compat.superlink.flower_superlink", command)
    return calls


def launch(folder: Path, admit: Callable[[Path], None], *options: str) -> Any:
    server.commands.superlink._admit_sites, before = admit, server.commands.superlink._admit_sites
    try:
        return CliRunner().invoke(app, ["superlink", "--centre", str(folder), *options])
    finally:
        server.commands.superlink._admit_sites = before


def test_the_launcher_starts_flower_behind_the_gate(
    centre: Centre, started: list[dict[str, Any]]
) -> None:
    admitted: list[Path] = []
    result = launch(centre.folder, admitted.append)
    assert result.exit_code == 0, result.output
    (call,) = started
    assert call["middleware"][0].cls is Gate
    assert call["middleware"][0].kwargs == {"owner_token": read_owner_token(centre)}
    run = call["module"]["uvicorn"].run
    assert (run.func, run.keywords) == (serve, {"limits": Limits(per_address=128)})
    superexec = call["module"]["_get_superexec_command"](
        runtime_address="127.0.0.1:9092",
        runtime_certificates=None,
        runtime_root_certificates_path=None,
        parent_pid=1,
        runtime_dependency_install=False,
    )
    assert superexec[:5] == [sys.executable, "-P", "-m", "flower_compat.owner", "flower-superexec"]
    assert read_owner_token(centre) not in str([superexec, call["arguments"]])
    assert call["environment"][FILE_VARIABLE] == str(owner_file(centre))
    assert read_owner_token(centre) not in str(call["environment"])
    assert "FLWR_INTERNAL_GRPC_CONTROL_API" not in call["environment"]
    assert "FLWR_INTERNAL_GRPC_FLEET_API" not in call["environment"]
    assert call["arguments"] == superlink_arguments(centre)
    assert call["environment"]["FLWR_HOME"] == str(centre.flower_home)
    assert call["environment"]["ASDNET_CENTRE"] == str(centre.folder)
    assert call["environment"]["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_its_log_is_a_file_and_the_serverapps_know_how_theirs_is(
    centre: Centre, started: list[dict[str, Any]]
) -> None:
    options = ("--log-format", "json", "--log-mib", "3", "--log-files", "7")
    result = launch(centre.folder, lambda _: None, *options)
    assert result.exit_code == 0, result.output
    chosen = LogSettings(format=LogFormat.JSON, mib=3, files=7)
    assert started[0]["relayed"] == [(centre.logs / "superlink.log", chosen)]
    assert chosen.to_environment().items() <= started[0]["environment"].items()
    assert Path(started[0]["environment"][TEMPLATES_VARIABLE], "page.html").is_file()


def test_ipv6_beside_ipv4(centre: Centre, started: list[dict[str, Any]]) -> None:
    launch(centre.folder, lambda _: None, "--ipv6")
    arguments = started[0]["arguments"]
    assert arguments[arguments.index("--host") + 1] == "::"


def test_without_a_centre_nothing_is_started(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    result = launch(tmp_path, lambda _: None)
    assert result.exit_code == 78
    assert "is not a centre" in result.stderr
    assert started == []
