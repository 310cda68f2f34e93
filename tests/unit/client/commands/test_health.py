"""`asdnet-site health`: what a health check is told of a site."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import client.node.connection
from client.cli import app
from client.node.checks import Result as Finding
from protocol.config.site import SiteConfig, read_site
from protocol.running import running_once

Steps = dict[str, Callable[[], Finding]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "A.yaml").write_text(
        "site: A\ndata: d\ncache: c\nstate: s\ncentre: host.org:9092\n"
    )
    return tmp_path


def reach(monkeypatch: pytest.MonkeyPatch, **others: Finding) -> None:
    """The centre answers, but for what is given."""

    def steps(config: SiteConfig) -> Steps:
        names = ("centre", "DNS", "TCP", "TLS chain", "host name", "expiry", "clock")
        found: dict[str, Finding] = {name: ("ok", "as it should be", "") for name in names}
        return {name: lambda f=finding: f for name, finding in (found | others).items()}

    monkeypatch.setattr(client.node.connection, "connection_checks", steps)


def call(folder: Path) -> Result:
    return CliRunner().invoke(app, ["health", "--site", "A", "--configs", str(folder)])


def test_a_site_at_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(monkeypatch, expiry=("failed", "of no matter here", ""))
    with running_once(read_site(folder / "A.yaml").running_file, "site A"):
        done = call(folder)
    assert done.exit_code == 0, done.output
    assert "site A: runs in process " in done.output
    assert "the centre answers at host.org:9092" in done.output
    assert call(folder).exit_code == 1
    assert "site A: does not run" in call(folder).output


def test_a_centre_that_is_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(monkeypatch, TCP=("failed", "host.org:9092 refused the connection", "ask"))
    with running_once(read_site(folder / "A.yaml").running_file, "site A"):
        done = call(folder)
    assert done.exit_code == 1
    assert "TCP: host.org:9092 refused the connection" in done.output
    assert "answers" not in done.output


def test_a_wrong_file(folder: Path) -> None:
    (folder / "A.yaml").write_text("site: A\n")
    assert call(folder).exit_code == 78
