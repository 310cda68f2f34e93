"""`asdnet-site run`: when a site joins, and how it stays."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import client.commands.run
from client.cli import app
from client.node.checks import Check
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

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
        self.handlers: dict[int, Callable[..., object]] = {}
        (folder / "A.yaml").write_text(
            "site: A\ndata: d\ncache: c\nstate: s\ncentre: centre.example.org:9092\n"
        )

    def preflight(self, config: SiteConfig, protocol: StudyProtocol | None) -> list[Check]:
        assert config.site == "A"
        self.protocols.append(protocol)
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
    monkeypatch.setattr("client.node.preflight.preflight", command.preflight)
    monkeypatch.setattr("client.commands.run.serve", lambda *given: command.served.append(given))
    monkeypatch.setattr("client.commands.run.signal.signal", command.handlers.__setitem__)
    level = logging.getLogger("httpx").level
    yield command
    logging.getLogger("httpx").setLevel(level)


def test_an_unknown_site_is_one_message(command: Command) -> None:
    result = command(site="B")
    assert result.exit_code == 2
    assert result.stderr.count("error:") == 1
    assert str(command.folder / "B.yaml") in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert command.protocols == command.served == []


def test_every_mistake_of_the_file_is_told(command: Command) -> None:
    (command.folder / "A.yaml").write_text("site: A\ndata: d\ncentre: http://x:1\ngpu: 1\n")
    result = command()
    assert result.exit_code == 2
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
    assert command("--check").exit_code == 0
    assert command.protocols == [None]


def test_the_preflight_goes_by_the_last_study(command: Command) -> None:
    study = StudyProtocol(name="the-last", seed=11)
    (command.folder / "s").mkdir()
    (command.folder / "s" / "protocol.json").write_text(study.canonical_json())
    command("--check")
    assert command.protocols == [study]


# ---- serve --------------------------------------------------------------------------------------

POLL_S, FIRST_S, LONGEST_S, STEADY_S = 0.25, 4.0, 20.0, 100.0


class World:
    """A clock that only waiting moves, and the lives of the SuperNodes to come."""

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self.now = 1000.0
        self.lives: list[float] = []
        self.pauses: list[float] = []
        self.pauses_until_stop = 10**6
        self.nodes: list[Node] = []
        self.executors: list[Executor] = []
        self.stop = Stop(self)
        self.on_poll: Callable[[Callable[[], bool]], None] = lambda ended: None


class Stop(threading.Event):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        if not self.is_set():
            self._world.now += timeout
            if timeout != POLL_S:
                self._world.pauses.append(timeout)
                if len(self._world.pauses) >= self._world.pauses_until_stop:
                    self.set()
        return self.is_set()


class Node:
    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._ends = world.now + world.lives[min(number, len(world.lives) - 1)]
        self.address, self.secret = f"127.0.0.1:{9000 + number}", bytes([number])
        self.stopped = 0

    @property
    def exit_code(self) -> int | None:
        return 1 if self._world.now >= self._ends else None

    def stop(self) -> None:
        self.stopped += 1


class Executor:
    def __init__(self, world: World, address: str, secret: bytes) -> None:
        self._world = world
        self.given = address, secret
        self.polls = self.closed = 0

    def poll(self, stop: Callable[[], bool]) -> None:
        assert not self.closed
        self.polls += 1
        self._world.on_poll(stop)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    config = SiteConfig(
        site="A", data=tmp_path, cache=tmp_path, state=tmp_path, centre="localhost:1"
    )
    world = World(config)

    def node(given: SiteConfig, site_file: Path) -> Node:
        assert (given, site_file) == (config, Path("A.yaml"))
        world.nodes.append(Node(world, len(world.nodes)))
        return world.nodes[-1]

    def executor(given: SiteConfig, address: str, secret: bytes) -> Executor:
        assert given == config
        world.executors.append(Executor(world, address, secret))
        return world.executors[-1]

    monkeypatch.setattr("client.node.supernode.SuperNode", node)
    monkeypatch.setattr("client.node.executor.Executor", executor)
    monkeypatch.setattr("client.commands.run.time", SimpleNamespace(monotonic=lambda: world.now))
    monkeypatch.setattr("client.commands.run._POLL_S", POLL_S)
    monkeypatch.setattr("client.commands.run._FIRST_PAUSE_S", FIRST_S)
    monkeypatch.setattr("client.commands.run._LONGEST_PAUSE_S", LONGEST_S)
    monkeypatch.setattr("client.commands.run._STEADY_S", STEADY_S)
    return world


def serve(world: World) -> None:
    client.commands.run.serve(world.config, Path("A.yaml"), world.stop)


def test_the_pause_grows_and_is_short_again_after_a_steady_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.lives = [0.0, 3.0, 0.0, 50.0, 0.0, 101.0, 0.0, 0.0]
    world.pauses_until_stop = 8
    with caplog.at_level(logging.WARNING, logger="client.commands.run"):
        serve(world)
    assert world.pauses == [4.0, 8.0, 16.0, 20.0, 20.0, 4.0, 8.0, 16.0]
    assert len(world.nodes) == len(world.executors) == 8
    assert [node.stopped for node in world.nodes] == [1] * 8
    assert [executor.closed for executor in world.executors] == [1] * 8
    assert [executor.given for executor in world.executors] == [
        (node.address, node.secret) for node in world.nodes
    ]
    assert "add-site A" in caplog.text
    assert "Trying again in 4 s" in caplog.text


def test_an_executor_is_polled_while_the_supernode_lives(world: World) -> None:
    world.lives = [10 * POLL_S, 0.0]
    world.pauses_until_stop = 2
    serve(world)
    assert [executor.polls for executor in world.executors] == [10, 0]


def test_a_stop_ends_it_at_once(world: World) -> None:
    world.lives = [10**9]

    def poll(ended: Callable[[], bool]) -> None:
        if world.executors[0].polls == 3:
            assert not ended()
            world.stop.set()
            assert ended()

    world.on_poll = poll
    serve(world)
    assert world.executors[0].polls == 3
    assert (len(world.nodes), world.nodes[0].stopped, world.executors[0].closed) == (1, 1, 1)
    assert world.pauses == []


def test_a_poll_hears_of_the_supernodes_end(world: World) -> None:
    world.lives, world.pauses_until_stop = [5.0], 1
    heard: list[bool] = []

    def poll(ended: Callable[[], bool]) -> None:
        heard.append(ended())
        world.now += 5.0
        heard.append(ended())

    world.on_poll = poll
    serve(world)
    assert heard == [False, True]


def test_a_stop_in_the_pause_starts_nothing_more(world: World) -> None:
    world.lives, world.pauses_until_stop = [0.0], 1
    serve(world)
    assert len(world.nodes) == 1


def test_a_stop_before_the_start_starts_nothing(world: World) -> None:
    world.stop.set()
    serve(world)
    assert world.nodes == []


def test_whatever_ends_it_both_are_closed(world: World) -> None:
    world.lives = [10**9]

    def poll(_: Callable[[], bool]) -> None:
        raise RuntimeError("a defect")

    world.on_poll = poll
    with pytest.raises(RuntimeError, match="a defect"):
        serve(world)
    assert (world.nodes[0].stopped, world.executors[0].closed) == (1, 1)


def test_an_executor_that_cannot_be_built_leaves_no_supernode(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.lives = [10**9]

    def broken(*_: Any) -> None:
        raise ValueError("installed version: not a clean checkout")

    monkeypatch.setattr("client.node.executor.Executor", broken)
    with pytest.raises(ValueError, match="not a clean checkout"):
        serve(world)
    assert world.nodes == [] or world.nodes[0].stopped == 1
