"""`asdnet-centre serve` with a SuperLink that does not answer, and no study."""

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from protocol.running import running_once
from server.admin.centre import Centre, create_centre
from server.cli import app
from server.commands import serve as command
from server.service.steering import service_lock


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_the_page_is_there_until_sigterm(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LOOK_S", 0.01)
    port, seen = free_port(), {}

    def visitor() -> None:
        for _ in range(500):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/overview") as answer:
                    seen.update(json.load(answer))
                break
            except OSError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=visitor)
    thread.start()
    try:
        result = CliRunner().invoke(
            app, ["serve", "--page", f"127.0.0.1:{port}", "--centre", str(centre.folder)]
        )
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
        thread.join()
    assert result.exit_code == 0, result.output
    assert seen["studies"] == [] and seen["centre"]["superlink"] is False


@pytest.mark.parametrize("page", ["9095", "localhost", "localhost:x", "localhost:0", ":1", ""])
def test_an_address_that_is_none(centre: Centre, page: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--page", page, "--centre", str(centre.folder)])
    assert result.exit_code == 2
    assert "--page: must be HOST:PORT or none" in result.stderr


def test_a_port_that_is_taken(centre: Centre) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page = f"127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(app, ["serve", "--page", page, "--centre", str(centre.folder)])
    assert result.exit_code == 2
    assert "the page cannot be served on port" in result.stderr


def test_a_second_service_is_told_of_the_first(centre: Centre) -> None:
    with running_once(service_lock(centre), "it"):
        result = CliRunner().invoke(app, ["serve", "--centre", str(centre.folder)])
    assert result.exit_code == 2
    assert f"the service of this centre: already running, process {os.getpid()}" in result.stderr


def test_what_a_start_cannot_mend_has_a_status_of_its_own(centre: Centre, tmp_path: Path) -> None:
    nowhere = CliRunner().invoke(app, ["serve", "--centre", str(tmp_path / "nowhere")])
    assert nowhere.exit_code == 78
    (centre.folder / "alerts.yaml").write_text("kanals: []", encoding="utf-8")
    (centre.folder / "alerts.yaml").chmod(0o600)
    wrong = CliRunner().invoke(app, ["serve", "--centre", str(centre.folder)])
    assert wrong.exit_code == 78 and "kanals: unknown key" in wrong.stderr
