"""Flower's Grid, whose pull waits for no upload that has stalled, and takes nothing too large.

Flower hands out a reply as soon as its head is there and then waits for its content, up to two
hours, while the replies behind it wait too.  One hospital with a slow or hostile line would hold
up every round beyond its deadline.
"""

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import Any

import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.superlink.grid import http_grid

from flower_compat.inflating import BadMessageError, Bounds, bound_pulls

log = logging.getLogger(__name__)

# A reply that is all there is usually here by then; one that is not is looked at again.
_WAIT_S = 0.3
# Replies on their way from the SuperLink, each in memory; a stalled one counts for so long.
_MAX_PULLS, _STALLED_S = 8, 20.0


class UnreadableReplyError(Exception):
    """A reply whose parts are not what Flower makes of them; its name is the error's text."""


class PromptGrid(Grid):
    """Pulls each message in a thread of its own.

    The threads are daemons: one that still waits does not keep the ServerApp from ending.

    Args:
        grid: Flower's.
        array_bytes: What the largest lawful reply's arrays take.
    """

    def __init__(self, grid: Grid, array_bytes: int) -> None:
        self._grid = grid
        bound_pulls(Bounds(array_bytes=array_bytes), vars(http_grid))
        self._pulls: dict[str, Future[list[Message]]] = {}
        self._since: dict[str, float] = {}
        self._asked: dict[str, int] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are all there.

        A pull that is under way holds what has come of its reply.  Only a few are, and no others
        are begun meanwhile, but for those that have taken too long to be waited for.

        Raises:
            UnreadableReplyError: For one that Flower cannot put together, that is too large for it
                to, or that says that it is of another node.  It has been taken from the SuperLink,
                and does not come again.
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
            replies = self._pulls.pop(name).result()
        except (OSError, httpx.HTTPError, MemoryError):
            raise
        except Exception as error:
            # What a site sent: a wrong type, a torn message, a part that contains itself.
            raise UnreadableReplyError(name) from error
        if replies:
            self._asked.pop(name, None)
        return replies

    def _start(self, name: str) -> Future[list[Message]]:
        future: Future[list[Message]] = Future()

        def pull() -> None:
            try:
                replies = list(self._grid.pull_messages([name]))
                future.set_result([self._checked(name, reply) for reply in replies])
            except BadMessageError as error:
                log.warning("a reply is refused: it %s", error)
                future.set_exception(error)
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=pull, daemon=True).start()
        return future

    def _checked(self, name: str, reply: Message) -> Message:
        """The reply, if it says that it is of the node that was asked, as its sender may not."""
        node = self._asked.get(name)
        if node is None or reply.has_error():
            return reply
        said = reply.metadata.src_node_id, reply.metadata.reply_to_message_id
        if said != (node, name):
            raise BadMessageError(f"is of node {node}, and says that it is of node {said[0]}")
        return reply

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As Flower's."""
        sent = list(messages)
        names = list(self._grid.push_messages(sent))
        # Flower gives fewer names, or none, for what it could not send.
        for name, message in zip(names, sent, strict=False):
            self._asked[name] = message.metadata.dst_node_id
        return names

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
