"""Flower's Grid, whose pull never waits for an upload that has stalled.

Flower hands out a reply as soon as its head is there and then waits for its content, up to two
hours, while the replies behind it wait too.  One hospital with a slow or hostile line would hold
up every round beyond its deadline.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import Any

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

# A reply that is all there is usually here by then; one that is not is looked at again.
_WAIT_S = 0.3
# Replies on their way from the SuperLink, each in memory; a stalled one counts for so long.
_MAX_PULLS, _STALLED_S = 8, 20.0


class UnreadableReplyError(Exception):
    """A reply whose parts are not what Flower makes of them; its name is the error's text."""


class PromptGrid(Grid):
    """Pulls each message in a thread of its own.

    The threads are daemons: one that still waits does not keep the ServerApp from ending.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._pulls: dict[str, Future[list[Message]]] = {}
        self._since: dict[str, float] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are all there.

        A pull that is under way holds what has come of its reply.  Only a few are, and no others
        are begun meanwhile, but for those that have taken too long to be waited for.

        Raises:
            UnreadableReplyError: For one that Flower cannot put together.  It has been taken from
                the SuperLink, and does not come again.
        """
        wanted = set(message_ids)
        oldest = time.monotonic() - _STALLED_S
        active = sum(since > oldest for since in self._since.values())
        started = sorted(wanted - set(self._pulls))[: max(0, _MAX_PULLS - active)]
        for name in started:
            self._pulls[name], self._since[name] = self._start(name), time.monotonic()
        wait([self._pulls[name] for name in started], timeout=_WAIT_S)
        here = sorted(wanted & set(self._pulls))
        return [message for name in here for message in self._finished(name)]

    def _finished(self, name: str) -> list[Message]:
        if not self._pulls[name].done():
            return []
        del self._since[name]
        try:
            return self._pulls.pop(name).result()
        except (OSError, httpx.HTTPError, MemoryError):
            raise
        except Exception as error:
            # What a site sent: a wrong type, a torn message, a part that contains itself.
            raise UnreadableReplyError(name) from error

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

    def get_nodes(self) -> Iterable[Any]:
        """As Flower's."""
        return self._grid.get_nodes()

    def get_node_ids(self) -> Iterable[int]:
        """As Flower's."""
        return self._grid.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Not used: `server.rounds.channel` waits itself."""
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
