"""A pool of processes for the runs of an experiment.

Each process is the head of a process group with all that it starts, Ray included, so that the
experiment can be stopped at any moment; a process that dies takes its own run with it and no other.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from reporting.terminal import error_text
from reporting.unexpected import is_for_users, unexpected_place
from simulation.experiment.execution import Job
from simulation.experiment.store import RunKey
from simulation.processes import spawned_pool
from simulation.supervision import die_with, end_group

_POLL_S = 0.5
_SHUT_DOWN_S = 15.0
_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run is not there: class and text of its error."""

    error: str
    text: str


class ProgressListener(Protocol):
    """Hears how the experiment goes."""

    def started(self, key: RunKey) -> None:
        """A run has been given to a process."""
        ...

    def finished(self, key: RunKey) -> None:
        """A run's folder is complete."""
        ...

    def failed(self, key: RunKey, failure: Failure) -> None:
        """A run ended without a result; the others go on."""
        ...


class Worker:
    """One process that does one run after the other.

    Args:
        log: File that everything printed in the process is appended to.
        whole_machine: Whether its runs use all cores; Ray then stays up between them.
    """

    def __init__(self, log: Path, *, whole_machine: bool) -> None:
        self.connection, theirs = _context.Pipe()
        self.job: Job | None = None
        self._process = _context.Process(
            target=_serve, args=(theirs, log, os.getpid(), whole_machine)
        )
        self._theirs = theirs

    def start(self) -> None:
        """Start the process; apart from the constructor, so that it can be killed from then on."""
        self._process.start()
        self._theirs.close()

    def give(self, job: Job) -> None:
        """Begin a run; `outcome` has how it ended once the connection can be read."""
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # reported as a failure of the run
            self.connection.send(job)

    def outcome(self) -> tuple[Job, Failure | None, bool]:
        """The run, why it failed or None, and whether this process can take another one."""
        assert self.job is not None
        job, self.job = self.job, None
        try:
            failure, usable = self.connection.recv()
            return job, failure, usable
        except (EOFError, ConnectionResetError):
            self._process.join()
            text = f"its process ended with status {self._process.exitcode}; see log.txt"
            return job, Failure(error="ProcessDied", text=text), False

    def shut_down(self) -> None:
        """Let the process, which has no run, end by itself; `kill` sees to the rest."""
        self.connection.close()
        self._process.join(_SHUT_DOWN_S)

    def kill(self) -> None:
        """End the process and all that it has started, at once."""
        if self._process.pid is None:
            return
        end_group(self._process.pid)
        self._process.join()
        self.connection.close()


def run_jobs(jobs: Sequence[Job], processes: int, log: Path, listener: ProgressListener) -> None:
    """All runs, in order; those that do not need the whole machine side by side.

    Args:
        jobs: What is to be done.
        processes: Runs side by side at most.
        log: File for what the processes print.
        listener: Hears of every run.
    """
    exclusive: list[Worker] = []
    parallel: list[Worker] = []
    try:
        for alone, group in groupby(jobs, key=lambda job: job.alone_on_machine):
            if alone:
                _run_group(
                    list(group), exclusive, 1, lambda: Worker(log, whole_machine=True), listener
                )
                continue
            _run_group(
                list(group), parallel, processes, lambda: Worker(log, whole_machine=False), listener
            )
            # Their memory is for the next federated run.
            _kill(parallel)
        for worker in exclusive:
            worker.shut_down()
    finally:
        _kill(exclusive)
        _kill(parallel)


def _kill(workers: list[Worker]) -> None:
    while workers:
        workers[-1].kill()
        workers.pop()


def _run_group(
    jobs: list[Job],
    workers: list[Worker],
    limit: int,
    new_worker: Callable[[], Worker],
    listener: ProgressListener,
) -> None:
    """`workers` is kept up to date, so that the caller can kill them whatever happens here."""
    waiting = jobs[::-1]
    while waiting or any(worker.job for worker in workers):
        for worker in workers:
            if waiting and worker.job is None:
                _begin(worker, waiting.pop(), listener)
        while waiting and len(workers) < limit:
            workers.append(new_worker())
            workers[-1].start()
            _begin(workers[-1], waiting.pop(), listener)
        busy = {worker.connection: worker for worker in workers if worker.job}
        for connection in multiprocessing.connection.wait(list(busy), _POLL_S):
            worker = busy[connection]  # type: ignore[index]
            job, failure, usable = worker.outcome()
            if not usable:
                worker.kill()
                workers.remove(worker)
            if failure is None:
                listener.finished(job.key)
            else:
                listener.failed(job.key, failure)


def _begin(worker: Worker, job: Job, listener: ProgressListener) -> None:
    worker.give(job)
    listener.started(job.key)


# ---- in the process ---------------------------------------------------------------------------


def _serve(connection: "Connection", log: Path, parent: int, whole_machine: bool) -> None:
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with, args=(parent,), daemon=True).start()
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with contextlib.ExitStack() as stack:
        pool: Executor | None = None
        equipped = not whole_machine
        while True:
            try:
                job: Job = connection.recv()
            except EOFError:
                return
            if not equipped:
                equipped, pool = True, _equip(stack, job.workers)
            connection.send(_outcome(job, pool))


def _equip(stack: contextlib.ExitStack, workers: int) -> Executor | None:
    """Ray and helpers for scoring, which all runs of this process share."""
    from flower_compat.engine import one_engine

    stack.enter_context(one_engine())
    if workers == 1:
        return None
    return stack.enter_context(spawned_pool(workers))


def _outcome(job: Job, pool: Executor | None) -> tuple[Failure | None, bool]:
    """Why the run failed or None, and whether this process can take another one."""
    from simulation.experiment.execution import execute

    try:
        execute(job, pool)
    except Exception as error:
        print(f"{job.key.folder}:", flush=True)
        traceback.print_exc()
        text = _told(error)
        # A pool that has lost a process does nothing any more.
        usable = not isinstance(error, BrokenExecutor)
        return Failure(error=type(error).__name__, text=text), usable
    return None, True


def _told(error: Exception) -> str:
    """What a user can correct, in its own words; of any other error its place, never its text."""
    if is_for_users(error):
        return " ".join(error_text(error).split())
    return f"not expected, in {unexpected_place(error)}; log.txt has its traceback"


def failures_json(failures: Iterable[tuple[RunKey, Failure]]) -> dict[str, dict[str, str]]:
    """The content of failed.json."""
    return {key.folder: {"error": why.error, "text": why.text} for key, why in failures}
