"""Answers messages in a process of its own, which is there only while there are messages.

Between two studies a site waits for weeks.  It needs none of what an answer takes meanwhile
(PyTorch, the scans' libraries, the worker), and that is most of its memory.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from client.node.child_output import ChildOutput
from client.node.own_process import SPAWN, own_process
from client.node.standing import Standing
from flower_compat.chunks import send_large_chunks
from flower_compat.polling import pull_objects_soon
from flower_compat.runtime import RuntimeApi
from protocol.config.site import SiteConfig
from reporting.logs import log_to_parent
from reporting.unexpected import keep_log_in, note_unexpected

log = logging.getLogger(__name__)

# Longer than most rounds wait for others: the worker keeps what it has loaded.
IDLE_S = 600.0
POLL_S = 0.1
# To end the worker, and to have the SuperNode take the last reply along.
_END_S = 10.0
_LAST_LINES_S = 2.0


class AnsweringDied(Exception):
    """The process ended in the middle of a message, which nobody else will answer."""


class Answering:
    """Waits for a message, and has a process answer it and those that follow.

    Args:
        config: This site.
        address: host:port of the SuperNode's Runtime API, on loopback.
        secret: What the SuperNode knows its executor by.
        standing: Kept up to date.
    """

    def __init__(
        self, config: SiteConfig, address: str, secret: bytes, standing: Standing | None = None
    ) -> None:
        self._given = config, address, secret
        self._standing = standing or Standing()
        self._runtime = RuntimeApi(address, secret, config.limits.instruction_bytes)

    def poll(self, stop: Callable[[], bool]) -> None:
        """Returns at once where no message waits; else once there has been none for a while.

        Args:
            stop: Asked again and again; once it is true, the process is ended.

        Raises:
            AnsweringDied: It has ended by itself otherwise; the SuperNode waits for it in vain.
        """
        token = self._runtime.acquire()
        if not token:
            return
        receiver, sender = SPAWN.Pipe(duplex=False)
        lines, printed = SPAWN.Pipe(duplex=False)
        process = own_process(answer_until_idle, *self._given, token, sender, printed)
        process.start()
        sender.close()
        self._standing.answering = True
        printed.close()
        with lines:
            output = ChildOutput(os.fdopen(os.dup(lines.fileno()), "rb"), log, trusted=True)
        try:
            with receiver, self._runtime.task(token):  # the SuperNode knows that somebody is at it
                _await([receiver, process.sentinel], stop)
            ended = _await([process.sentinel], stop)
        finally:
            _end(process)
            self._standing.answering = False
            output.join(_LAST_LINES_S)
        if ended and process.exitcode:
            raise AnsweringDied(f"the process that answers ended with status {process.exitcode}")

    def close(self) -> None:
        """Ask for no more messages."""
        self._runtime.close()


def _await(what: list[Any], stop: Callable[[], bool]) -> bool:
    """Whether one of them was ready before the stop."""
    while not wait(what, POLL_S):
        if stop():
            return False
    return True


def _end(process: SpawnProcess) -> None:
    process.terminate()
    process.join(_END_S)
    process.kill()
    process.join()


def answer_until_idle(
    config: SiteConfig,
    address: str,
    secret: bytes,
    token: str,
    ready: Connection,
    printed: Connection,
) -> None:
    """In the process: answer this message and others, until none has come for `IDLE_S`."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent
    keep_log_in(config.state)
    log_to_parent(printed)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    pull_objects_soon()
    send_large_chunks()
    try:
        _answer(config, address, secret, token, ready, stop)
    except Exception as error:
        log.error("%s", note_unexpected(error))
        sys.exit(1)


def _answer(
    config: SiteConfig,
    address: str,
    secret: bytes,
    token: str,
    ready: Connection,
    stop: threading.Event,
) -> None:
    from client.node.executor import Executor  # late: it needs PyTorch

    with closing(Executor(config, address, secret)) as executor:
        ready.close()
        executor.poll(stop.is_set, token)
        last = time.monotonic()
        while time.monotonic() - last < IDLE_S and not stop.wait(POLL_S):
            if executor.poll(stop.is_set):
                last = time.monotonic()
    if not stop.is_set():
        log.info("no message for %.0f min: the worker has ended until the next one", IDLE_S / 60)
