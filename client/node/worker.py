"""The process that runs the approved code, as the executor sees it: it stays warm between messages.

Nothing of it is trusted.  Its answer is read as JSON and bytes of bounded length, its output goes
into the site's log line by line, and it ends when this site stops, or dies.
"""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from flwr.app import Context, Message, MessageType

from client.node.answers import AnswerError, AppError, decode_answer
from client.node.approval import ApprovedCode
from client.node.child_output import ChildOutput
from client.node.confinement.limits import Confined
from client.node.confinement.walls import child_environment, make_folders, memory_bytes, walls_of
from client.node.confinement.watch import members, resident_bytes
from client.node.frames import POLL_S, Frame, FrameError, receive, send
from client.node.records import pack_records
from flower_compat.message_bytes import context_bytes, envelope_bytes
from flower_compat.task_identity import current_task
from protocol.config.site import SiteConfig

log = logging.getLogger(__name__)

_CHILD = Path(__file__).with_name("worker_process.py")
_OUTPUT_BYTES = 2**20  # of the log, for each message
_END_S, _LOOK_S = 0.5, 2.0
_PASSES = 20


class SiteStopped(Exception):
    """This site was stopped in the middle of a message."""


class WorkerDied(Exception):
    """The process ended without an answer."""


class Worker:
    """One child process for one version of the code; another version gets another process."""

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self._digest = ""
        self._child: _Child | None = None
        self._number = 0

    def answer(
        self,
        code: ApprovedCode,
        message: Message,
        context: Context,
        stop: Callable[[], bool],
    ) -> Message:
        """The ClientApp's answer; nothing else of the process comes back, its context neither.

        Args:
            code: Its bytes are what runs.
            message: The centre's instruction.
            context: Flower's context of this run.
            stop: Once it returns True, the answer is no longer awaited.

        Raises:
            SiteStopped: If `stop` returned True; the process is ended.
            WorkerDied: If the process died; the next message gets a new one.
            AnswerError: If the answer is not of the agreed form; the process is ended.
            AppError: If the app raised.
        """
        try:
            if self._child is None or code.digest != self._digest:
                self.close()
                self._digest = code.digest
                make_folders(self._config)
                self._child = _Child(self._config, code, stop)
            self._number += 1
            return self._child.answer(self._number, message, context, stop)
        except AppError:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process and all that it started, also in the middle of a round."""
        if self._child is not None:
            self._child.end()
        self._child = None


def _most_bytes(instruction: Message) -> int:
    """What the body of an answer may have: the weights that were sent, and what packing adds."""
    from protocol.wire.messages import sent_shapes  # late: they need PyTorch
    from protocol.wire.weights import MessageError, bytes_sent

    if instruction.metadata.message_type != MessageType.TRAIN:
        return 0
    size = bytes_sent(instruction.content)
    with suppress(MessageError):  # a plain wire does not say them
        shapes = sent_shapes(instruction.content).values()
        size = max(size, 4 * sum(math.prod(s) for network in shapes for s in network.values()))
    return size + size // 64 + 2**20


def try_walls(config: SiteConfig) -> Confined:
    """What a worker is kept from on this machine; it is started and ended, and runs nothing."""
    child = _Child(config, ApprovedCode("", {}), lambda: False)
    child.end()
    return child.confined


class _Child:
    """One process, from its start to its end."""

    def __init__(self, config: SiteConfig, code: ApprovedCode, stop: Callable[[], bool]) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(POLL_S)
        with theirs:
            self._process = subprocess.Popen(
                [*_python(), str(_CHILD), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C is for the executor
                env=child_environment(config),
                cwd="/",
            )
        assert self._process.stdout is not None
        self._output = ChildOutput(self._process.stdout, log, _OUTPUT_BYTES)
        self._network, self._memory, self._next_look = "", memory_bytes(config), 0.0
        try:
            self.confined = self._start(config, code, stop)
        except BaseException:
            self.end()
            raise

    def answer(
        self, number: int, message: Message, context: Context, stop: Callable[[], bool]
    ) -> Message:
        """See `Worker.answer`."""
        self._output.allow()
        body = [envelope_bytes(message), context_bytes(context)]
        header = {
            "number": number,
            "task": current_task(),
            "envelope": len(body[0]),
            "context": len(body[1]),
            "records": [record.model_dump() for record in pack_records(message.content, body)],
        }
        frame = self._exchange(header, body, _most_bytes(message), stop)
        return decode_answer(frame, number, message)

    def end(self) -> None:
        """SIGTERM, then SIGKILL for it and whatever it has started and left behind."""
        self._connection.close()
        self._process.terminate()
        deadline = time.monotonic() + _END_S
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _end_all_of(self._network)

    def _look_at_memory(self) -> None:
        """The kernel limits each process; this is the sum over all that the worker has started."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        used = resident_bytes(self._process.pid, self._network)
        if used > self._memory:
            raise WorkerDied(
                f"the worker holds {used / 2**30:.1f} GiB of memory, over the"
                f" {self._memory / 2**30:.1f} that limits.max_memory_gib gives it"
            )

    def _has_ended(self) -> bool:
        """It stays a zombie, if it was none before: nobody else gets the number of its group."""
        if self._process.returncode is not None:
            return True
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, how) is not None

    def _start(
        self,
        config: SiteConfig,
        code: ApprovedCode,
        stop: Callable[[], bool],
    ) -> Confined:
        header = {
            "walls": asdict(walls_of(config)),
            "origin": f"bundle:{code.digest[:12]}",
            "files": [(path, len(content)) for path, content in code.files.items()],
        }
        frame = self._exchange(header, code.files.values(), 0, stop)
        confined = Confined(**json.loads(frame.header))
        if confined.namespace:
            self._network = os.readlink(f"/proc/{self._process.pid}/ns/net")
        for gap in confined.missing():
            log.warning("%s; %s", gap.what, gap.hint)
        return confined

    def _exchange(
        self,
        header: Mapping[str, object],
        body: Iterable[bytes],
        most: int,
        stop: Callable[[], bool],
    ) -> Frame:
        def waiting() -> None:
            if stop():
                raise SiteStopped
            self._look_at_memory()
            if self._process.poll() is not None:
                raise EOFError

        try:
            send(self._connection, json.dumps(header).encode(), body, waiting)
            return receive(self._connection, most, waiting)
        except FrameError as error:
            raise AnswerError(str(error)) from None
        except (EOFError, ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            raise WorkerDied(f"the worker ended with status {self._process.returncode}") from None


def _python() -> list[str]:
    """An interpreter that no variable and no folder can give other code; it writes no byte code."""
    user_site = ["-s"] if sys.flags.no_user_site else []
    return [sys.executable, "-E", "-P", "-B", "-u", *user_site]


def _end_all_of(network: str) -> None:
    """Kill what left its group and its parent, but could not leave its network namespace."""
    if not network or network == os.readlink("/proc/self/ns/net"):
        return
    for _ in range(_PASSES):
        left = list(members(-1, network))
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.01)
