"""The process that answers: begun by a message, gone when none comes, never left behind."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import client.node.answering
import client.node.executor
from client.node.answering import Answering, AnsweringDied, answer_until_idle
from protocol.config.site import SiteConfig
from reporting.logs import JsonFormatter

ROOT = Path(__file__).parents[4]
ADDRESS, SECRET = "127.0.0.1:1", b"secret"
# Of which an idle site needs none.
HEAVY = ("torch", "monai", "mlflow", "SimpleITK", "pydicom", "nibabel", "scipy", "ray")


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    return SiteConfig(site="A", data=tmp_path, cache=tmp_path, state=tmp_path)


class Runtime:
    """The SuperNode's side: tokens that wait, and which of them somebody is at."""

    def __init__(self, *_: Any) -> None:
        self.tokens: list[str] = []
        self.at: list[str] = []
        self.closed = False

    def acquire(self) -> str:
        return self.tokens.pop(0) if self.tokens else ""

    @contextmanager
    def task(self, token: str) -> Iterator[None]:
        self.at.append(f"begin {token}")
        yield
        self.at.append(f"end {token}")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime()
    monkeypatch.setattr(client.node.answering, "RuntimeApi", lambda *_: runtime)
    return runtime


def in_a_fork(monkeypatch: pytest.MonkeyPatch, function: Callable[..., None]) -> list[Any]:
    """Have it answer, in a process that begins at once; these processes."""
    made: list[Any] = []

    def fork(_: object, *given: object) -> Any:
        made.append(multiprocessing.get_context("fork").Process(target=function, args=given))
        return made[-1]

    monkeypatch.setattr(client.node.answering, "own_process", fork)
    return made


def test_no_message_no_process(
    config: SiteConfig, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = in_a_fork(monkeypatch, lambda *_: None)
    answering = Answering(config, ADDRESS, SECRET)
    answering.poll(lambda: False)
    assert made == runtime.at == []
    answering.close()
    assert runtime.closed


def test_a_message_is_answered_in_a_process(
    config: SiteConfig,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    answered = config.state / "answered"

    def answer(
        given: SiteConfig, address: str, secret: bytes, token: str, ready: Any, printed: Any
    ) -> None:
        ready.close()
        record = {"name": "client.node.executor", "msg": "done", "levelname": "ERROR"}
        line = JsonFormatter().format(logging.makeLogRecord(record))
        os.write(printed.fileno(), f"{line}\nby a library\n".encode())
        answered.write_text(f"{given.site} {address} {secret!r} {token}", encoding="ascii")

    made = in_a_fork(monkeypatch, answer)
    runtime.tokens = ["token-1"]
    Answering(config, ADDRESS, SECRET).poll(lambda: False)
    # The launcher alone writes the log: what its child logs and prints is logged here.
    assert caplog.record_tuples == [
        ("client.node.executor", logging.ERROR, "done"),
        ("client.node.answering", logging.INFO, "by a library"),
    ]
    assert answered.read_text(encoding="ascii") == f"A {ADDRESS} {SECRET!r} token-1"
    assert [process.exitcode for process in made] == [0]
    # The SuperNode hears of it from here, until the process says it itself.
    assert runtime.at == ["begin token-1", "end token-1"]


@pytest.mark.parametrize(
    ("end", "status"),
    [(lambda: os._exit(3), 3), (lambda: os.kill(os.getpid(), signal.SIGKILL), -9)],
)
def test_a_process_that_dies_is_not_waited_for(
    config: SiteConfig,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[], None],
    status: int,
) -> None:
    in_a_fork(monkeypatch, lambda *_: end())
    runtime.tokens = ["token-1"]
    with pytest.raises(AnsweringDied, match=f"ended with status {status}"):
        Answering(config, ADDRESS, SECRET).poll(lambda: False)
    assert runtime.at == ["begin token-1", "end token-1"]


def test_a_stop_ends_the_process(
    config: SiteConfig, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = in_a_fork(monkeypatch, lambda *_: time.sleep(600))
    runtime.tokens = ["token-1"]
    # A fork has this process's handler, which may be a command's of an earlier test.
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        Answering(config, ADDRESS, SECRET).poll(lambda: bool(made) and made[0].is_alive())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert made[0].exitcode == -signal.SIGTERM


# --- in the process


class Executor:
    """One that answers what the test says, and closes."""

    made: "list[Executor]"
    on_poll: Callable[[int, Callable[[], bool]], bool]

    def __init__(self, config: SiteConfig, address: str, secret: bytes) -> None:
        assert (address, secret) == (ADDRESS, SECRET)
        self.given: list[str] = []
        self.closed = 0
        self.made.append(self)

    def poll(self, stop: Callable[[], bool], token: str = "") -> bool:
        self.given.append(token)
        return type(self).on_poll(len(self.given), stop)

    def close(self) -> None:
        self.closed += 1


class Ready:
    closed = False

    def close(self) -> None:
        self.closed = True


def pipes() -> tuple[Any, Any]:
    return Ready(), Ready()


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Any]]:
    """The signals that were set; what belongs to a whole process is left alone."""
    Executor.made, handlers = [], dict[int, Any]()
    monkeypatch.setattr(client.node.executor, "Executor", Executor)
    monkeypatch.setattr(client.node.answering.signal, "signal", handlers.__setitem__)
    for name in ("log_to_parent", "keep_log_in", "pull_objects_soon"):
        monkeypatch.setattr(client.node.answering, name, lambda *_: None)
    monkeypatch.setattr(client.node.answering, "POLL_S", 0.001)
    level = logging.getLogger("httpx").level
    yield handlers
    logging.getLogger("httpx").setLevel(level)


def test_it_answers_on_and_ends_when_nothing_comes(
    config: SiteConfig, inside: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(
        client.node.answering, "time", type("", (), {"monotonic": staticmethod(lambda: now[0])})
    )

    def poll(number: int, _: Callable[[], bool]) -> bool:
        now[0] += 0.4 * client.node.answering.IDLE_S
        return number in (2, 4)

    Executor.on_poll = staticmethod(poll)
    ready: Any = Ready()
    answer_until_idle(config, ADDRESS, SECRET, "token-1", ready, ready)
    [executor] = Executor.made
    # Three polls after the last message: the third is beyond the patience.
    assert executor.given == ["token-1", "", "", "", "", "", ""]
    assert executor.closed == 1
    assert ready.closed
    assert inside[signal.SIGINT] == signal.SIG_IGN


def test_sigterm_ends_it_in_the_middle_of_a_message(
    config: SiteConfig, inside: dict[int, Any]
) -> None:
    def poll(number: int, stop: Callable[[], bool]) -> bool:
        assert not stop()
        inside[signal.SIGTERM](signal.SIGTERM, None)
        assert stop()
        return True

    Executor.on_poll = staticmethod(poll)
    answer_until_idle(config, ADDRESS, SECRET, "token-1", *pipes())
    assert [(executor.given, executor.closed) for executor in Executor.made] == [(["token-1"], 1)]


def test_a_defect_is_its_status_and_a_line(
    config: SiteConfig, inside: dict[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def poll(*_: object) -> bool:
        raise KeyError("patient-7")

    Executor.on_poll = staticmethod(poll)
    with pytest.raises(SystemExit) as end:
        answer_until_idle(config, ADDRESS, SECRET, "token-1", *pipes())
    assert end.value.code == 1
    assert Executor.made[0].closed == 1
    assert "KeyError" in caplog.text
    assert "patient-7" not in caplog.text


# --- what there is of a site while nothing comes


def test_an_idle_site_loads_none_of_what_an_answer_takes() -> None:
    code = (
        "import sys, client.cli, client.commands.run, client.node.serving, client.node.supernode,"
        " client.node.preflight_process, protocol.running, client.node.private_folders,"
        " client.node.last_study, client.node.checks\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "\n"


def test_an_idle_supernode_loads_none_either() -> None:
    code = (
        "import sys, flower_compat.supernode\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "\n"
