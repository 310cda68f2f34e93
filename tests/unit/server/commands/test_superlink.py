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

import server.commands.superlink
from server.admin.centre import Centre, create_centre, superlink_arguments
from server.admin.gate import Gate
from server.cli import app


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Flower's command would find, instead of its start."""
    calls: list[dict[str, Any]] = []

    def command() -> None:
        calls.append(
            {
                "arguments": sys.argv[1:],
                "middleware": flwr.superlink.main._get_middleware(),
                "environment": dict(os.environ),
            }
        )

    # Undone after the test: the launcher sets them for the rest of its process.
    monkeypatch.setattr(extensions, "get_middleware", extensions.get_middleware)
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("FLWR_HOME", "ASDNET_CENTRE", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr("flower_compat.superlink.flower_superlink", command)
    return calls


def launch(folder: Path, admit: Callable[[Path], None]) -> Any:
    server.commands.superlink._admit_sites, before = admit, server.commands.superlink._admit_sites
    try:
        return CliRunner().invoke(app, ["superlink", "--centre", str(folder)])
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
    assert call["arguments"] == superlink_arguments(centre)
    assert call["environment"]["FLWR_HOME"] == str(centre.flower_home)
    assert call["environment"]["ASDNET_CENTRE"] == str(centre.folder)
    assert call["environment"]["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_without_a_centre_nothing_is_started(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    result = launch(tmp_path, lambda _: None)
    assert result.exit_code == 2
    assert "is not a centre" in result.stderr
    assert started == []
