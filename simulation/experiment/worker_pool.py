"""Processes that do the runs of a study, and the loop that hands the runs out.

Each process is the head of a process group with all that it starts, Ray included, so that the
study can be ended at any moment; a process that dies takes its own run with it and no other.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from simulation.experiment.execution import Job
from simulation.experiment.store import RunKey

_LOOK_EVERY_S = 0.5
_SHUT_DOWN_S = 15.0
_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run is not there: class and text of its error."""

    error: str
    text: str


class Audience(Protocol):
    """Who is told how the study goes."""

    def started(self, key: RunKey) -> None:
        """A run has been handed to a process."""
        ...

    def finished(self, key: RunKey) -> None:
        """A run's folder is complete."""
        ...

    def failed(self, key: RunKey, failure: Failure) -> None:
        """A run ended without a result; the others go on."""
        ...


class Hand:
    """One process that does one run after the other.

    Args:
        log: File that everything said in the process is appended to.
        whole_machine: Whether its runs use all workers; Ray then stays up between them.
    """

    def __init__(self, log: Path, *, whole_machine: bool) -> None:
        self.connection, theirs = _context.Pipe()
        self.job: Job | None = None
        self._process = _context.Process(
            target=_serve, args=(theirs, log, os.getpid(), whole_machine)
        )
        self._theirs = theirs

    def start(self) -> None:
        """Start the process; apart from the constructor, so that whoever ends it knows of it."""
        self._process.start()
        self._theirs.close()

    def give(self, job: Job) -> None:
        """Begin a run; `answer` has its outcome once the connection can be read."""
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # told as a failure of the run
            self.connection.send(job)

    def answer(self) -> tuple[Job, Failure | None, bool]:
        """The run, why it failed or None, and whether this process can take another one."""
        assert self.job is not None
        job, self.job = self.job, None
        try:
            failure, fit = self.connection.recv()
            return job, failure, fit
        except (EOFError, ConnectionResetError):
            self._process.join()
            text = f"its process ended with status {self._process.exitcode}; see log.txt"
            return job, Failure(error="ProcessDied", text=text), False

    def dismiss(self) -> None:
        """Let the process, which has no run, shut down by itself; `end` sees to the rest."""
        self.connection.close()
        self._process.join(_SHUT_DOWN_S)

    def end(self) -> None:
        """End the process and all that it has started, at once."""
        if self._process.pid is None:
            return
        self._process.kill()
        # Where it had no time to become the head of a group there is nothing else to end.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()
        self.connection.close()


def do_all(jobs: Sequence[Job], workers: int, log: Path, audience: Audience) -> None:
    """All runs, in order; those that do not need the whole machine side by side.

    Args:
        jobs: What is to be done.
        workers: Runs side by side at most.
        log: File for what the processes say.
        audience: Told of every run.
    """
    whole: list[Hand] = []
    beside: list[Hand] = []
    try:
        for alone, group in groupby(jobs, key=lambda job: job.alone_on_machine):
            if alone:
                _do_group(list(group), whole, 1, lambda: Hand(log, whole_machine=True), audience)
                continue
            _do_group(
                list(group), beside, workers, lambda: Hand(log, whole_machine=False), audience
            )
            # Their memory is for the next federated run.
            _end(beside)
        for hand in whole:
            hand.dismiss()
    finally:
        _end(whole)
        _end(beside)


def _end(hands: list[Hand]) -> None:
    while hands:
        hands[-1].end()
        hands.pop()


def _do_group(
    jobs: list[Job],
    hands: list[Hand],
    most: int,
    another: Callable[[], Hand],
    audience: Audience,
) -> None:
    """`hands` is kept up to date, so that the caller can end them whatever happens here."""
    waiting = jobs[::-1]
    while waiting or any(hand.job for hand in hands):
        for hand in hands:
            if waiting and hand.job is None:
                _begin(hand, waiting.pop(), audience)
        while waiting and len(hands) < most:
            hands.append(another())
            hands[-1].start()
            _begin(hands[-1], waiting.pop(), audience)
        busy = {hand.connection: hand for hand in hands if hand.job}
        for connection in multiprocessing.connection.wait(list(busy), _LOOK_EVERY_S):
            hand = busy[connection]  # type: ignore[index]
            job, failure, fit = hand.answer()
            if not fit:
                hand.end()
                hands.remove(hand)
            if failure is None:
                audience.finished(job.key)
            else:
                audience.failed(job.key, failure)


def _begin(hand: Hand, job: Job, audience: Audience) -> None:
    hand.give(job)
    audience.started(job.key)


# ---- in the process ---------------------------------------------------------------------------


def _serve(connection: "Connection", log: Path, parent: int, whole_machine: bool) -> None:
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with contextlib.ExitStack() as stack:
        pool: Executor | None = None
        bare = whole_machine
        while True:
            try:
                job: Job = connection.recv()
            except EOFError:
                return
            if bare:
                bare, pool = False, _equip(stack, job.workers)
            connection.send(_outcome(job, pool))


def _equip(stack: contextlib.ExitStack, workers: int) -> Executor | None:
    """Ray and helpers for scoring, which all runs of this process share."""
    from flower_compat.engine import one_engine

    stack.enter_context(one_engine())
    if workers == 1:
        return None
    return stack.enter_context(ProcessPoolExecutor(workers, mp_context=_context))


def _outcome(job: Job, pool: Executor | None) -> tuple[Failure | None, bool]:
    """Why the run failed or None, and whether this process can take another one."""
    from simulation.experiment.execution import execute

    try:
        execute(job, pool)
    except Exception as error:
        print(f"{job.key.folder}:", flush=True)
        traceback.print_exc()
        text = " ".join(str(error).split())
        # A pool that has lost a process does nothing any more.
        fit = not isinstance(error, BrokenExecutor)
        return Failure(error=type(error).__name__, text=text), fit
    return None, True


def _end_with(parent: int) -> None:
    """Nobody trains on for a study that was killed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def failures_json(failures: Iterable[tuple[RunKey, Failure]]) -> dict[str, dict[str, str]]:
    """The content of failed.json."""
    return {key.folder: {"error": why.error, "text": why.text} for key, why in failures}
