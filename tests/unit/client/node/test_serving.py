"""A site that has joined: how it stays, and how it ends."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import client.node.serving
from client.node.answering import AnsweringDied
from client.node.standing import Standing
from protocol.agreement.bundle import BundleError
from protocol.config.site import SiteConfig

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
        self.executors: list[Answering] = []
        self.connected = False
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
    def was_connected(self) -> bool:
        return self._world.connected

    @property
    def exit_code(self) -> int | None:
        return 1 if self._world.now >= self._ends else None

    def stop(self) -> None:
        self.stopped += 1


class Answering:
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

    def answering(given: SiteConfig, address: str, secret: bytes, standing: Standing) -> Answering:
        assert given == config
        world.executors.append(Answering(world, address, secret))
        return world.executors[-1]

    monkeypatch.setattr("client.node.serving.SuperNode", node)
    monkeypatch.setattr("client.node.serving.Answering", answering)
    monkeypatch.setattr("client.node.serving.time", SimpleNamespace(monotonic=lambda: world.now))
    monkeypatch.setattr("client.node.serving._POLL_S", POLL_S)
    monkeypatch.setattr("client.node.serving.installed_bundle", lambda: None)
    monkeypatch.setattr("client.node.admission.FIRST_PAUSE_S", FIRST_S)
    monkeypatch.setattr("client.node.admission.LONGEST_PAUSE_S", LONGEST_S)
    monkeypatch.setattr("client.node.admission.STEADY_S", STEADY_S)
    return world


def serve(world: World) -> None:
    client.node.serving.serve(world.config, Path("A.yaml"), world.stop)


def test_the_pause_grows_and_is_short_again_after_a_steady_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.lives = [0.0, 3.0, 0.0, 50.0, 0.0, 101.0, 0.0, 0.0]
    world.pauses_until_stop = 8
    with caplog.at_level(logging.WARNING, logger="client.node.serving"):
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


def test_answers_that_cannot_be_begun_leave_no_supernode(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.lives = [10**9]

    def broken(*_: Any) -> None:
        raise ValueError("no such address")

    monkeypatch.setattr("client.node.serving.Answering", broken)
    with pytest.raises(ValueError, match="no such address"):
        serve(world)
    assert world.nodes[0].stopped == 1


def test_an_installed_version_that_cannot_be_answered_for_starts_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise BundleError("installed version: not a clean checkout")

    monkeypatch.setattr("client.node.serving.installed_bundle", broken)
    with pytest.raises(BundleError, match="not a clean checkout"):
        serve(world)
    assert world.nodes == []


def test_a_supernode_that_waits_in_vain_for_an_answer_starts_anew(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.lives, world.pauses_until_stop = [10**9], 1

    def poll(_: Callable[[], bool]) -> None:
        raise AnsweringDied("the process that answers ended with status -9")

    world.on_poll = poll
    serve(world)
    assert (world.nodes[0].stopped, world.executors[0].closed) == (1, 1)
    assert "the process that answers ended with status -9" in caplog.text
    assert "it waited in vain for an answer. Trying again in 4 s" in caplog.text


@pytest.mark.parametrize("connected", [True, False])
def test_a_connection_is_remembered(
    world: World, connected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        "client.node.admission.Attempts.connected", lambda _: told.append("connected")
    )
    world.connected = connected
    world.lives, world.pauses_until_stop = [10 * POLL_S, 10 * POLL_S], 2
    serve(world)
    assert told == ["connected"] * 2 * connected


def test_a_long_pause_is_told_in_minutes(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "client.node.admission.Attempts.ended", lambda *_: ("removed by the centre", 600.0)
    )
    world.lives, world.pauses_until_stop = [0.0], 1
    serve(world)
    assert world.pauses == [600.0]
    assert "removed by the centre. Trying again in 10 min" in caplog.text
