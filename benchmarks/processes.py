"""Processes of a measurement or a deployment test, none of which outlives it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

# Every process that is started within carries it, and so do those that these start.
_MARK = "ASDNET_BENCHMARK"
_LOOK_EVERY_S = 0.1
_TAIL_LINES = 20


class MeasurementError(RuntimeError):
    """What was to be measured did not run."""


@contextmanager
def nothing_left_behind() -> Iterator[Path]:
    """A folder for a measurement, removed at its end with all that it started."""
    folder = Path(tempfile.mkdtemp(prefix="asdnet-benchmark-"))
    with nothing_left_running(folder):
        yield folder


@contextmanager
def nothing_left_running(remove: Path | None = None) -> Iterator[None]:
    """At the end, however it comes, all that was started within ends too, and a folder goes.

    Children that make a session of their own, such as Flower's and NVFLARE's, are found by a mark
    in their environment (where the system has /proc).  A process of its own ends them and removes
    the folder once this one has let go of it, by Ctrl-C, SIGTERM or SIGKILL too.
    """
    mark = secrets.token_hex(8)
    before = os.environ.get(_MARK)
    os.environ[_MARK] = mark
    sweeper = subprocess.Popen(
        [sys.executable, __file__, mark, str(remove or "")],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, _leave) if main else None
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before
        sweeper.communicate()
        if main:
            signal.signal(signal.SIGTERM, handler)


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _sweep(mark: str, remove: str) -> None:
    """Wait until our parent lets go of us; end every process with the mark but this."""
    sys.stdin.buffer.read()
    wanted = f"{_MARK}={mark}".encode()
    while pids := [pid for pid in all_pids() if pid != os.getpid() and _carries(pid, wanted)]:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_EVERY_S)
    if remove:
        shutil.rmtree(remove, ignore_errors=True)


def all_pids() -> list[int]:
    """Of all processes, where the system has /proc."""
    proc = Path("/proc")
    return [int(p.name) for p in proc.iterdir() if p.name.isdecimal()] if proc.is_dir() else []


def _carries(pid: int, wanted: bytes) -> bool:
    # A process that has ended and is not waited for yet has no environment.
    with suppress(OSError):
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


class Processes:
    """Named processes, each with a log; they end with the context.

    Args:
        folder: Where they work, and their logs are.
        environment: Variables beside ours.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.environment = dict(environment)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, name: str, *command: object, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in the folder; its output is in `name`.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*map(str, command)],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=os.environ | self.environment | environment, start_new_session=True,
            )  # fmt: skip
        return self.processes[name]

    def call(self, name: str, *command: object, timeout_s: float) -> None:
        """Run a command to its end.

        Raises:
            MeasurementError: If it fails, or takes too long.
        """
        process = self.start(name, *command)
        self.until(lambda: process.poll() is not None, timeout_s, f"the end of {name}")
        if process.returncode:
            raise MeasurementError(f"{name} ended with {process.returncode}\n{self._tail(name)}")

    def until(self, true: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for it.

        Raises:
            MeasurementError: If it takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                raise MeasurementError(f"{what}: not within {timeout_s:g} s\n{self.tails()}")
            time.sleep(_LOOK_EVERY_S)

    def log(self, name: str) -> str:
        """What a process has printed so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def tails(self) -> str:
        """The last lines of every log."""
        return "\n".join(self._tail(path.stem) for path in sorted(self.folder.glob("*.log")))

    def _tail(self, name: str) -> str:
        return "\n".join([f"---- {name}", *self.log(name).splitlines()[-_TAIL_LINES:]])


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    _sweep(sys.argv[1], sys.argv[2])
