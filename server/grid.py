"""Flower's Grid, whose pull never waits for an upload that has stalled.

Flower hands out a reply as soon as its head is there and then waits for its content, up to two
hours, while the replies behind it wait too.  One hospital with a slow or hostile line would hold
up every round beyond its deadline.
"""

import threading
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import Any

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

# A reply that is all there is usually here by then; one that is not is looked at again.
_GLANCE_S = 0.3


class PromptGrid(Grid):
    """Pulls each message in a thread of its own.

    The threads are daemons: one that still waits does not keep the ServerApp from ending.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._pulls: dict[str, Future[list[Message]]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are all there."""
        wanted = set(message_ids)
        for name in wanted - set(self._pulls):
            self._pulls[name] = self._start(name)
        wait([self._pulls[name] for name in wanted], timeout=_GLANCE_S)
        done = [name for name in sorted(wanted) if self._pulls[name].done()]
        return [message for name in done for message in self._pulls.pop(name).result()]

    def _start(self, name: str) -> Future[list[Message]]:
        future: Future[list[Message]] = Future()

        def pull() -> None:
            try:
                future.set_result(list(self._grid.pull_messages([name])))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=pull, daemon=True).start()
        return future

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As Flower's."""
        return self._grid.push_messages(messages)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """As Flower's."""
        nodes: Iterable[NodeInfo] = self._grid.get_nodes()
        return nodes

    def get_node_ids(self) -> Iterable[int]:
        """As Flower's."""
        return self._grid.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Not used: `server.exchange` waits itself."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not used: deprecated by Flower."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """As Flower's."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """As Flower's."""
        return self._grid.run
