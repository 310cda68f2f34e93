"""The process that runs the approved code: it stays warm between messages.

Nothing here talks to the network: it takes a message and returns the answer.
"""

import protocol.telemetry  # isort: skip

import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from flwr.app import Context, Message

from flower_compat.task_identity import Identity, current_task, work_for

_ROOMS = frozenset(
    {"asdnet_models", "client", "flower_compat", "protocol", "reporting", "server", "simulation"}
)
_APP = "client.app"
_POLL_S = 0.2


class SiteStopped(Exception):
    """This site was stopped in the middle of a message."""


class Worker:
    """One child process for one version of the code; another version gets another process."""

    def __init__(self) -> None:
        self._code: Path | None = None
        self._pool: ProcessPoolExecutor | None = None

    def answer(
        self, code: Path | None, message: Message, context: Context, stop: Callable[[], bool]
    ) -> Message:
        """The ClientApp's answer.

        Args:
            code: Folder of an approved bundle; None runs the installed version.
            message: The centre's instruction.
            context: Flower's context of this run.
            stop: Once it returns True, the answer is no longer awaited.

        Raises:
            SiteStopped: If `stop` returned True; the process is ended.
            BrokenProcessPool: If the process died; the next message gets a new one.
        """
        if self._pool is None or code != self._code:
            self.close()
            self._code = code
            self._pool = ProcessPoolExecutor(
                1, mp_context=get_context("spawn"), initializer=_prepare, initargs=(code,)
            )
        try:
            answer = self._pool.submit(_answer, message, context, current_task())
            while not stop():
                with suppress(TimeoutError):
                    return answer.result(_POLL_S)
            raise SiteStopped
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process, also in the middle of a round."""
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None


def _prepare(code: Path | None) -> None:
    # The terminal's Ctrl-C is for the parent, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    if code is not None:
        # What is loaded so far is of the installed version.
        for name in [name for name in sys.modules if name.partition(".")[0] in _ROOMS]:
            if name != __name__:
                del sys.modules[name]
        sys.path.insert(0, os.fspath(code))
        # Byte code would be files that are not approved.
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()


def _answer(message: Message, context: Context, identity: Identity) -> Message:
    work_for(identity)
    app = importlib.import_module(_APP).app
    reply: Message = app(message=message, context=context)
    return reply
