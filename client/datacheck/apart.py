"""Reads cases in processes apart: a file that ends its reader's process ends nothing else.

The libraries that read scans are native code, in which a defect of a file may end the process, and
the system ends a process that takes too much memory.  Each process reads one case at a time, so
that it is known which one that was.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

from client.data.case import Case
from client.data.errors import Problem
from client.datacheck.inspection import CaseReport
from reporting.unexpected import keep_log_in, log_folder

Look = Callable[[Case], CaseReport]
# A server that has imported everything forks each process: that takes a moment, where one that
# begins anew takes seconds; and it has no threads, which a fork would leave hanging.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["__main__", "client.datacheck.inspection"])


def reports_apart(look: Look, cases: Sequence[Case], workers: int) -> Iterator[CaseReport]:
    """The report on each case, in order; a case that ends its process is refused.

    Args:
        look: Reads one case; a function that can be pickled.
        cases: Of a site.
        workers: Processes side by side.
    """
    waiting = list(range(len(cases)))[::-1]
    done: dict[int, CaseReport] = {}
    readers = [_Reader(look) for _ in range(min(workers, len(cases)))]
    try:
        for wanted in range(len(cases)):
            while wanted not in done:
                for reader in readers:
                    if reader.number is None and waiting:
                        number = waiting.pop()
                        reader.give(number, cases[number])
                busy = {
                    reader.connection: reader for reader in readers if reader.number is not None
                }
                for connection in wait(list(busy)):
                    reader = busy[cast(Connection, connection)]
                    number, report = reader.taken()
                    done[number] = report or _ended(cases[number], reader.end())
            yield done.pop(wanted)
    finally:
        for reader in readers:
            reader.end()


class _Reader:
    """One process, begun when it is first needed, and anew after it has ended."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._process: multiprocessing.process.BaseProcess | None = None
        self.connection: Connection
        self.number: int | None = None

    def give(self, number: int, case: Case) -> None:
        if self._process is None:
            self.connection, theirs = _context.Pipe()
            process = _context.Process(target=_serve, args=(theirs, self._look, log_folder()))
            with theirs:
                process.start()
            self._process = process  # one that could not be started is not to be ended
        self.number = number
        with suppress(BrokenPipeError):  # it has ended, as `taken` finds
            self.connection.send(case)

    def taken(self) -> tuple[int, CaseReport | None]:
        """The case's number and the report, which is None where the process has ended."""
        assert self.number is not None
        number, self.number = self.number, None
        try:
            return number, self.connection.recv()
        except (EOFError, ConnectionResetError):
            return number, None

    def end(self) -> int:
        """The status of the process, which is ended if it still works."""
        if self._process is None:
            return 0
        self.connection.close()
        if self.number is not None:
            self._process.kill()
        self._process.join()
        status = self._process.exitcode or 0
        self._process, self.number = None, None
        return status


def _serve(connection: Connection, look: Look, log: Path | None) -> None:
    keep_log_in(log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command, which hears it too, ends this
    with suppress(EOFError, OSError):
        while True:
            connection.send(look(connection.recv()))


def _ended(case: Case, status: int) -> CaseReport:
    if status == -signal.SIGKILL:
        message = (
            "the process that read it was killed (signal 9), as the system does where memory runs"
            " out; close other programs, or read fewer cases at the same time (--workers 1)"
        )
    else:
        how = f"status {status}"
        if status < 0:
            how = f"signal {-status}, {signal.strsignal(-status) or 'unknown'}"
        message = (
            f"reading it ended the process that read it ({how}); export it again or convert it,"
            " and please report it"
        )
    problem = Problem(rule="unexpected", location=f"case {case.name}", message=f": {message}")
    return CaseReport(name=case.name, part=case.part, status="refused", problem=problem)
