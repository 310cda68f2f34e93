"""`asdnet-site run`: when a site joins."""

import logging
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cli import app
from client.node.checks import Check
from protocol.config.site import SiteConfig, read_site
from protocol.config.study import StudyProtocol
from protocol.running import running_now, running_once

NAMES = ("centre", "DNS", "TCP", "TLS chain", "host name", "expiry", "clock", "private key", "data")


def checks(*failed: str, warned: str = "") -> list[Check]:
    assert {*failed, warned} - {""} <= set(NAMES)
    return [
        Check(
            name=name,
            status="failed" if name in failed else "warning" if name == warned else "ok",
            finding="as found",
        )
        for name in NAMES
    ]


class Command:
    """The command with its preflight and its long life replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checks = checks()
        self.served: list[tuple[SiteConfig, Path, threading.Event]] = []
        self.protocols: list[StudyProtocol | None] = []
        self.anew: list[bool] = []
        self.handlers: dict[int, Callable[..., object]] = {}
        (folder / "A.yaml").write_text(
            "site: A\ndata: d\ncache: c\nstate: s\ncentre: centre.example.org:9092\n"
        )

    def preflight(
        self,
        config: SiteConfig,
        protocol: StudyProtocol | None,
        *,
        anew: bool,
        begin: Callable[[str], None],
    ) -> list[Check]:
        assert config.site == "A"
        begin("DNS")
        self.protocols.append(protocol)
        self.anew.append(anew)
        return self.checks

    def __call__(self, *arguments: str, site: str = "A") -> Result:
        return CliRunner().invoke(
            app,
            ["run", "--site", site, "--configs", str(self.folder), *arguments],
            env={"COLUMNS": "200"},
        )


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    command = Command(tmp_path)
    monkeypatch.setattr("client.node.preflight_process.checked", command.preflight)
    monkeypatch.setattr(
        "client.node.serving.serve", lambda *given: command.served.append(given[:3])
    )
    monkeypatch.setattr("client.commands.run.signal.signal", command.handlers.__setitem__)
    level = logging.getLogger("httpx").level
    yield command
    logging.getLogger("httpx").setLevel(level)


def test_an_unknown_site_is_one_message(command: Command) -> None:
    result = command(site="B")
    assert result.exit_code == 78
    assert result.stderr.count("error:") == 1
    assert str(command.folder / "B.yaml") in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert command.protocols == command.served == []


@pytest.mark.parametrize("check", [True, False])
def test_open_folders_are_closed_before_anything_is_done(command: Command, check: bool) -> None:
    cache = command.folder / "c"
    cache.mkdir()
    cache.chmod(0o755)
    result = command(*(["--check"] if check else []))
    assert result.exit_code == 0
    assert (stat.S_IMODE(cache.stat().st_mode) == 0o755) is check
    assert (f"{cache} was open to other users, and is closed now" in result.stderr) is not check


def test_every_mistake_of_the_file_is_told(command: Command) -> None:
    (command.folder / "A.yaml").write_text("site: A\ndata: d\ncentre: http://x:1\ngpu: 1\n")
    result = command()
    assert result.exit_code == 78
    for word in ("cache", "state", "plain HTTP is refused", "gpu: unknown key"):
        assert word in result.stderr
    assert command.served == []


def test_a_check_alone_does_not_join(command: Command) -> None:
    command.checks = checks(warned="clock")
    result = command("--check")
    assert result.exit_code == 0
    assert "as found" in result.stdout
    assert result.stderr.strip() == ""
    assert command.served == []


@pytest.mark.parametrize("failed", NAMES)
def test_a_check_that_fails_is_the_status(command: Command, failed: str) -> None:
    command.checks = checks(failed)
    result = command("--check")
    assert result.exit_code == 1
    assert f"1 of {len(NAMES)} checks failed" in result.stderr
    assert command.served == []


@pytest.mark.parametrize("failed", [(), ("DNS",), ("TCP",), ("DNS", "TCP")])
def test_a_network_that_is_down_is_waited_for(command: Command, failed: tuple[str, ...]) -> None:
    command.checks = checks(*failed, warned="clock")
    assert command().exit_code == 0
    [(config, path, stop)] = command.served
    assert config.centre == "centre.example.org:9092"
    assert path == command.folder / "A.yaml"
    assert not stop.is_set()


@pytest.mark.parametrize("failed", [name for name in NAMES if name not in ("DNS", "TCP")])
def test_whatever_else_fails_keeps_the_site_out(command: Command, failed: str) -> None:
    for more in ((), ("DNS", "TCP")):
        command.checks = checks(failed, *more)
        result = command()
        assert result.exit_code == 1
        assert f"{1 + len(more)} of {len(NAMES)} checks failed" in result.stderr
    assert command.served == []


def test_the_disk_that_one_study_would_need_keeps_no_site_out(command: Command) -> None:
    """A centre could else end a site for good by a study that does not fit."""
    command.checks = [Check(name="cache disk", status="failed", finding="90 GB still needed")]
    assert command().exit_code == 1
    (command.folder / "s" / "protocol.json").write_text(StudyProtocol().canonical_json())
    assert command("--check").exit_code == 1
    assert command().exit_code == 0
    assert len(command.served) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops(command: Command, number: int) -> None:
    command()
    assert set(command.handlers) == {signal.SIGTERM, signal.SIGINT}
    stop = command.served[0][2]
    assert not stop.is_set()
    command.handlers[number](number, None)
    assert stop.is_set()


@pytest.mark.parametrize("content", [None, b"", b"{}x", b"\xff", b'{"name": 7}'])
def test_without_a_study_the_preflight_has_none(command: Command, content: bytes | None) -> None:
    if content is not None:
        (command.folder / "s").mkdir()
        (command.folder / "s" / "protocol.json").write_bytes(content)
    found = command("--check")
    assert found.exit_code == 0
    assert command.protocols == [None]
    # A study that cannot be read is one line, and keeps nobody from anything.
    said = "" if content is None else "the next study writes it anew"
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == (content is not None)
    assert command().exit_code == 0
    assert len(command.served) == 1


def test_the_preflight_goes_by_the_last_study(command: Command) -> None:
    study = StudyProtocol(name="the-last", seed=11)
    (command.folder / "s").mkdir()
    (command.folder / "s" / "protocol.json").write_text(study.canonical_json())
    command("--check")
    assert command.protocols == [study]


def test_the_preflight_of_a_study_that_nobody_has_heard_of(command: Command) -> None:
    given = command.folder / "given.yaml"
    given.write_text("name: given\nseed: 5\n", encoding="utf-8")
    (command.folder / "s").mkdir()
    (command.folder / "s" / "protocol.json").write_text(StudyProtocol(name="x").canonical_json())
    assert command("--check", "--study", str(given)).exit_code == 0
    assert [study and (study.name, study.seed) for study in command.protocols] == [("given", 5)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--study", "s.yaml"), "--study: goes with --check"),
        (("--check", "--study", "no.yaml"), "no.yaml"),
    ],
)
def test_a_study_that_cannot_be_checked(
    command: Command, arguments: tuple[str, ...], said: str
) -> None:
    result = command(*arguments)
    assert (result.exit_code, result.stderr.count("error:")) == (2, 1)
    assert said in result.stderr
    assert command.protocols == command.served == []


def test_the_device_is_tried_again_where_that_is_asked(command: Command) -> None:
    command()
    command("--check", "--anew")
    command("--anew")
    assert command.anew == [False, True, True]


def test_a_second_start_ends_at_once(command: Command) -> None:
    config = read_site(command.folder / "A.yaml")
    with running_once(config.running_file, "site A"):
        result = command()
        assert result.exit_code == 2
        assert result.stderr.startswith(
            f"error: site A: already running, process {os.getpid()} (since 20"
        )
        assert len(result.stderr.splitlines()) == 1
        assert command.protocols == command.served == []
        checked = command("--check")
        assert checked.exit_code == 0
        assert f"site A: runs in process {os.getpid()} (since 20" in checked.stderr
    assert command().exit_code == 0
    assert "runs in process" not in command("--check").stderr


def test_it_counts_as_running_while_it_serves(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "client.node.serving.serve",
        lambda config, *_: seen.append(running_now(config.running_file)),
    )
    assert command().exit_code == 0
    assert seen[0].startswith(f"process {os.getpid()} ")
    assert running_now(read_site(command.folder / "A.yaml").running_file) == ""


def test_metrics_are_served_where_they_are_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, int]] = []

    def serve_metrics(config: SiteConfig, standing: object, host: str, port: int) -> None:
        if port == 9:
            raise OSError(98, "Address already in use")
        served.append((host, port))

    monkeypatch.setattr("client.node.site_metrics.serve_metrics", serve_metrics)
    assert command("--metrics", "[::1]:9096").exit_code == 0
    assert served == [("::1", 9096)]
    assert command().exit_code == 0 and len(served) == 1
    taken = command("--metrics", "127.0.0.1:9")
    assert taken.exit_code == 2
    assert "127.0.0.1:9 cannot be listened at (Address already in use)" in taken.stderr
    assert "must be HOST:PORT" in command("--metrics", "9096").stderr
