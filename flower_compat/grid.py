"""Flower's Grid, whose pull waits for no upload that has stalled, and takes nothing too large.

Flower hands out a reply as soon as its head is there and then waits for its content, up to two
hours, while the replies behind it wait too.  One hospital with a slow or hostile line would hold
up every round beyond its deadline.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import httpx
from flwr.app import Message
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.serverapp import Grid
from flwr.superlink.grid import http_grid

from flower_compat.inflating import BadMessageError, Bounds, bound_pulls

log = logging.getLogger(__name__)

# A reply that is all there is usually here by then; one that is not is looked at again.
_WAIT_S = 0.3
# Replies on their way from the SuperLink, each in memory; a stalled one counts for so long.
_MAX_PULLS, _STALLED_S = 8, 20.0
# Asked for in one request.
_HEADS = 32


class UnreadableReplyError(Exception):
    """A reply whose parts are not what Flower makes of them; its name is the error's text."""


class Heads:
    """A Runtime API whose replies' heads are asked for together, and handed out one by one.

    Flower takes a reply's content with its head: all replies that are there would be in memory.

    Args:
        client: Flower's.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._heads: dict[str, tuple[Any, Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._heads

    def look(self, names: Iterable[str]) -> None:
        """One request for the heads of all these replies; the SuperLink gives each once."""
        found = self._client.PullMessages(PullAppMessagesRequest(message_ids=sorted(names)))
        for head, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            self._heads[head.metadata.reply_to_message_id] = head, tree

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        """As Flower's, of the heads that are here."""
        names = [name for name in request.message_ids if name in self._heads]
        heads = [self._heads.pop(name) for name in names]
        return PullAppMessagesResponse(
            messages_list=[head for head, _ in heads],
            message_object_trees=[tree for _, tree in heads],
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


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
        self._begin(wanted, _MAX_PULLS)
        here = sorted(wanted & set(self._pulls))
        return [message for name in here for message in self._finished(name)]

    def ready(self, message_ids: Collection[str]) -> list[str]:
        """Which of these replies `pull_messages` would give now; one request asks for all.

        One more of them is begun to be pulled, and waited for a little.
        """
        wanted = set(message_ids)
        heads = self._heads()
        if heads is None:
            return sorted(wanted)
        if unseen := {name for name in wanted - set(self._pulls) if name not in heads}:
            names = sorted(unseen)
            # The SuperLink gives a head once: what one lost answer loses is bounded.
            for start in range(0, len(names), _HEADS):
                heads.look(names[start : start + _HEADS])
        self._begin({name for name in wanted if name in heads}, 1)
        return sorted(name for name in wanted & set(self._pulls) if self._pulls[name].done())

    def rest(self, seconds: float, sleep: Callable[[float], None]) -> None:
        """Sleep, or until one of the replies that are on their way is all here."""
        under_way = [pull for pull in self._pulls.values() if not pull.done()]
        if under_way:
            wait(under_way, timeout=seconds, return_when=FIRST_COMPLETED)
        else:
            sleep(seconds)

    def _heads(self) -> Heads | None:
        """None where Flower's grid is another than over HTTP, as in tests."""
        if not isinstance(self._grid, http_grid.HttpGrid):
            return None
        flowers: Any = self._grid
        if not isinstance(flowers._runtime_client, Heads):
            flowers._client = Heads(flowers._runtime_client)
        heads: Heads = flowers._runtime_client
        return heads

    def _begin(self, names: Collection[str], most: int) -> None:
        """Pull some of these, and give them a little time."""
        oldest = time.monotonic() - _STALLED_S
        active = sum(since > oldest for since in self._since.values())
        started = sorted(set(names) - set(self._pulls))[: max(0, min(most, _MAX_PULLS - active))]
        for name in started:
            self._pulls[name], self._since[name] = self._start(name), time.monotonic()
        wait([self._pulls[name] for name in started], timeout=_WAIT_S)

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


def ready(grid: Grid, names: Collection[str]) -> list[str]:
    """The replies that are worth a pull: all, where the grid cannot tell."""
    return grid.ready(names) if isinstance(grid, PromptGrid) else list(names)


def rest(grid: Grid, seconds: float, sleep: Callable[[float], None]) -> None:
    """Sleep so long; shorter where a reply that is on its way is all there before."""
    if isinstance(grid, PromptGrid):
        grid.rest(seconds, sleep)
    else:
        sleep(seconds)
