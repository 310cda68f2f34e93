"""Flower's loops look again after a share of the wait, and Flower still has these loops."""

import importlib.util
import inspect
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.supernode import start_client_internal

from flower_compat import polling


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now, self.slept = 50.0, [0.0]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(polling, "time", made)
    return made


def fresh_module() -> ModuleType:
    """Flower's module, loaded once more."""
    spec = importlib.util.find_spec(inflatable_utils.__name__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def defaults() -> Iterator[dict[str, object]]:
    """Flower's own; what was there before is put back after the test.

    An earlier test of this process may have made Flower soon for good.
    """
    kept = dict(pull_objects.__kwdefaults__)
    own = dict(fresh_module().pull_objects.__kwdefaults__)
    pull_objects.__kwdefaults__.update(own)
    yield own
    pull_objects.__kwdefaults__.clear()
    pull_objects.__kwdefaults__.update(kept)


@pytest.mark.parametrize(
    ("waited", "pause"),
    [(0.0, polling.SHORTEST_S), (1.0, 0.1), (10.0, 1.0), (29.0, 2.9), (600, 3.0)],
)
def test_a_pause_is_a_tenth_of_the_wait_within_bounds(waited: float, pause: float) -> None:
    assert polling.pause_s(waited, 3.0) == pytest.approx(pause)


def test_a_supernode_asks_soon_after_an_answer_and_seldom_while_idle(clock: Clock) -> None:
    node = polling.SuperNodePolling()
    while clock.now < 50 + 60:
        node.sleep(3)
    assert clock.slept[-1] == 3  # as seldom as Flower's own
    asked = len(clock.slept)
    assert asked < 70  # in the first minute, where a second apart would be 60
    node.sleep(0.5)  # a message has come: its answer is looked for
    assert clock.slept[-1] == polling.SHORTEST_S
    while clock.now < 50 + 90:
        node.sleep(0.5)
    assert clock.slept[-1] == 0.5
    node.sleep(3)  # answered; the next message may follow at once
    assert clock.slept[-1] == polling.SHORTEST_S


def test_a_look_whose_answer_was_held_back_is_a_pause_already(clock: Clock) -> None:
    node = polling.SuperNodePolling()
    while clock.now < 50 + 60:
        node.sleep(3)
    clock.now += 5  # the SuperLink had nothing, and held its answer back
    node.sleep(3)
    assert clock.slept[-1] == polling.SHORTEST_S
    clock.now += 0.5
    node.sleep(3)
    assert clock.slept[-1] == 2.5


def test_flowers_supernode_sleeps_where_we_think_and_takes_nothing_else_of_time() -> None:
    source = inspect.getsource(start_client_internal)
    found = [line.strip() for line in source.splitlines() if "time." in line.split("#")[0]]
    assert [line for line in found if line.startswith("time.")] == [
        "time.sleep(3)",
        "time.sleep(0.5)",
        "time.sleep(0.5)",
    ]


def test_an_object_that_is_on_its_way_is_looked_for_at_short_intervals(
    defaults: dict[str, object],
) -> None:
    assert defaults["initial_backoff"] == 1
    polling.pull_objects_soon()
    tries: list[float] = []
    lock = threading.Lock()

    def pull(name: str) -> bytes:
        with lock:
            tries.append(time.monotonic())
            if len(tries) < 3:
                raise ObjectUnavailableError(name)
        return b"here"

    started = time.monotonic()
    assert pull_objects(["a"], pull) == {"a": b"here"}
    # .05 s and .1 s, each up to a fifth more; Flower's own would be 1 s and 2 s.
    assert time.monotonic() - started < 1
    assert len(tries) == 3


def test_a_slow_line_is_given_as_long_as_flower_gives_it(defaults: dict[str, object]) -> None:
    polling.pull_objects_soon()
    now = pull_objects.__kwdefaults__
    assert now["max_time"] == defaults["max_time"] == inflatable_utils.PULL_MAX_TIME
    assert now["max_tries_per_object"] is None


def test_a_flower_that_pulls_otherwise_is_refused(
    defaults: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    del pull_objects.__kwdefaults__["backoff_cap"]
    with pytest.raises(RuntimeError, match="backoff_cap"):
        polling.pull_objects_soon()
