"""`asdnet-centre health`: what a health check is told of a centre."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_centre import made_centre

import server.service.superlink
from flower_compat.control import Node, SuperLinkUnreachable
from protocol.running import running_once
from server.admin.centre import Centre
from server.cli import app
from server.service.steering import service_lock


def call(centre: Centre, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["health", "--centre", str(centre.folder), *arguments])


def test_both_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    centre = made_centre(tmp_path / "centre")
    nodes = [
        Node(node_id=1, name="A", public_key=b"", status="online"),
        Node(node_id=2, name="B", public_key=b""),
    ]
    monkeypatch.setattr(server.service.superlink, "ask_nodes", lambda _: nodes)
    with running_once(service_lock(centre), "the service"):
        done = call(centre)
    assert done.exit_code == 0
    assert "superlink: answers; 1 of 2 sites" in done.output
    assert "service: runs in process " in done.output
    assert call(centre).exit_code == 1
    assert call(centre, "--of", "superlink").exit_code == 0
    assert call(centre, "--of", "service").output == "service: does not run\n"


def test_a_silent_superlink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    centre = made_centre(tmp_path / "centre")

    def silent(_: Centre) -> list[Node]:
        raise SuperLinkUnreachable("the SuperLink does not answer")

    monkeypatch.setattr(server.service.superlink, "ask_nodes", silent)
    with running_once(service_lock(centre), "the service"):
        done = call(centre)
    assert done.exit_code == 1
    assert "superlink: the SuperLink does not answer" in done.output
    assert call(centre, "--of", "superlink", "--of", "service").exit_code == 1


def test_no_centre(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["health", "--centre", str(tmp_path)]).exit_code == 78
