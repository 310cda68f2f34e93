"""Client of a SuperNode's Runtime API: it pulls the centre's messages and sends replies.

Flower's own executor (`flwr-clientapp`) unpacks and imports whatever bundle came with a message and
sends an exception's text back; there is no public way to replace it.
"""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from flower_compat.inflating import (
    BadMessageError,
    Bounds,
    bound_pulls,
)

log = logging.getLogger(__name__)

# Flower takes a task for dead without a first one in 30 s, then after two of its 30 s heartbeats.
_HEARTBEAT_S = 15.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True)
class TaskInput:
    """An instruction, Flower's context of its run, and the bundle that the centre sent along."""

    message: Message
    context: Context
    bundle: bytes


class Task:
    """One message that is being answered."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client = client

    def pull(self) -> Future[TaskInput]:
        """What is to be answered, once it is there; its thread ends with the task."""
        future: Future[TaskInput] = Future()

        def pull() -> None:
            try:
                message, context, _, fab = pull_task_input(self._client)
                future.set_result(TaskInput(message, context, fab.content))
            except BadMessageError as error:
                log.error("an instruction is refused: it %s", error)
                self.give_up("BadInstruction")
                future.set_exception(error)
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=pull, daemon=True).start()
        return future

    def complete(self, reply: Message, context: Context) -> None:
        """Send the reply."""
        push_message(self._client, reply, context)
        push_task_output(self._client, context, SubStatus.COMPLETED, "")

    def give_up(self, reason: str) -> None:
        """End it without a reply."""
        push_task_output(self._client, None, SubStatus.FAILED, reason)


class RuntimeApi:
    """The Runtime API of one SuperNode.

    Args:
        address: Its host:port, on loopback.
        secret: What the SuperNode knows its executor by.
        array_bytes: What the arrays of an instruction may take; a larger one is given up.
    """

    def __init__(self, address: str, secret: bytes, array_bytes: int) -> None:
        bound_pulls(Bounds(array_bytes=array_bytes), vars(run_clientapp))
        self._address = address
        protected = frozenset([_ACQUIRE])
        self._acquirer = self._client(
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=protected)
        )

    def acquire(self) -> str:
        """The token of the oldest message that waits; empty if none does."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        try:
            return str(self._acquirer.AcquireTask(request).token)
        except (httpx.HTTPError, ValueError) as error:
            log.debug("the SuperNode does not answer: %s", error)
            return ""

    @contextmanager
    def task(self, token: str) -> Iterator[Task]:
        """The message of this token; the SuperNode knows meanwhile that somebody is at it."""
        with (
            closing(self._client(RuntimeTokenHttpInterceptor(token))) as client,
            _heartbeat(client),
        ):
            yield Task(client)

    def close(self) -> None:
        """Ask for no more messages."""
        self._acquirer.close()

    def _client(self, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                interceptor,
            ],
        )


@contextmanager
def _heartbeat(client: RuntimeHttpClient) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        while True:
            try:
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except httpx.HTTPError as error:
                log.warning("the SuperNode did not take a heartbeat: %s", error)
            if done.wait(_HEARTBEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
