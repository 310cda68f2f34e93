"""The SuperLink's open connections: no address, and no slow one, may keep the others out.

uvicorn waits without end for a TLS handshake, the head of a request or its body, and a process can
have only so many open files.  Here each stage has its time, and an address that opens too many
connections loses its oldest ones that have not sent a whole request.  A request that is being
answered is never closed for another.
"""

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

Peer = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many connections, and how long each may take.

    Attributes:
        per_address: Open at once from one address.
        in_all: Open at once.
        head_s: For the TLS handshake and the head of a request, and between two requests.
        body_s: For the body, and
        body_rate: one second more for each so many bytes of it.
        answer_s: For the answer to be made and taken.
        bytes_per_address: Of bodies in memory at once, from one address; who calls is looked at
            when all of a body is there.
    """

    per_address: int = 128
    in_all: int = 2048
    head_s: float = 15.0
    body_s: float = 20.0
    body_rate: int = 8 * 2**10
    answer_s: float = 600.0
    bytes_per_address: int = 128 * 2**20


@dataclass(kw_only=True)
class _Connection:
    socket: socket.socket
    deadline: float
    answering: bool = False
    # After a request: where nothing more comes, no more is meant to.
    resting: bool = False
    received: int = 0

    def end(self) -> None:
        # Not closed: the event loop does that when it sees the end.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Connections:
    """Who is connected, at which stage, and until when it may take."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._open: dict[str, dict[int, _Connection]] = {}
        self._too_many: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def admit(self, connection: socket.socket, peer: Peer) -> bool:
        """Take a new connection in, in the place of another if need be; False: there is no room."""
        host, port = peer
        self._forget_closed(host)
        if len(self._open.get(host, ())) >= self._limits.per_address and not self._make_room(host):
            return False
        if len(self) >= self._limits.in_all:
            for known in list(self._open):
                self._forget_closed(known)
            busiest = max(self._open, key=lambda known: len(self._open[known]), default="")
            if len(self) >= self._limits.in_all and not self._make_room(busiest):
                return False
        deadline = self._clock() + self._limits.head_s
        # The oldest first: a dictionary keeps the order in which its keys have come.
        self._open.setdefault(host, {})[port] = _Connection(socket=connection, deadline=deadline)
        return True

    def head(self, peer: Peer) -> None:
        """The head of a request has come."""
        self._stage(peer, self._limits.body_s)

    def body(self, peer: Peer, length: int, *, complete: bool) -> None:
        """So many more bytes of the body have come."""
        connection = self._find(peer)
        if connection is None:
            return
        received = connection.received + length
        if complete:
            self._stage(peer, self._limits.answer_s, answering=True)
        else:
            connection.deadline += length / self._limits.body_rate
        connection.received = received
        mine = self._open[peer[0]].values()
        if sum(known.received for known in mine) > self._limits.bytes_per_address:
            self._too_many[peer[0]] += 1
            self._open[peer[0]].pop(peer[1]).end()

    def answered(self, peer: Peer) -> None:
        """The request has been answered; another may follow."""
        self._stage(peer, self._limits.head_s, resting=True)

    def close_late(self) -> None:
        """End what has taken too long; say in the log whose connections were ended, and why."""
        now = self._clock()
        for host in list(self._open):
            self._forget_closed(host)
            mine = self._open.get(host, {})
            late = [port for port, connection in mine.items() if connection.deadline < now]
            ended = [mine.pop(port) for port in late]
            for connection in ended:
                connection.end()
            if slow := sum(not connection.resting for connection in ended):
                log.warning("closed: %d slow connections of %s", slow, host)
        for host, count in self._too_many.items():
            log.warning("closed: %d connections of %s, which opens or sends too many", count, host)
        self._too_many.clear()

    def _stage(
        self, peer: Peer, seconds: float, *, answering: bool = False, resting: bool = False
    ) -> None:
        if connection := self._find(peer):
            connection.deadline = self._clock() + seconds
            connection.answering, connection.resting = answering, resting
            connection.received = 0

    def _find(self, peer: Peer) -> _Connection | None:
        return self._open.get(peer[0], {}).get(peer[1])

    def _make_room(self, host: str) -> bool:
        """End the oldest connection of this address that has not sent a whole request."""
        self._too_many[host] += 1
        mine = self._open.get(host, {})
        waiting = (port for port, connection in mine.items() if not connection.answering)
        oldest = next(waiting, None)
        if oldest is None:
            return False
        mine.pop(oldest).end()
        return True

    def _forget_closed(self, host: str) -> None:
        mine = self._open.get(host, {})
        for port in [port for port, c in mine.items() if c.socket.fileno() < 0]:
            del mine[port]
        if not mine:
            self._open.pop(host, None)


class Listener(socket.socket):
    """A listening socket whose connections are limited; for asyncio's event loop, not uvloop."""

    def __init__(self, family: socket.AddressFamily, connections: Connections) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._connections = connections

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket's.

        Raises:
            ConnectionAbortedError: If there is no room; the event loop goes on.
        """
        connection, address = super().accept()
        if self._connections.admit(connection, address[:2]):
            return connection, address
        connection.close()
        raise ConnectionAbortedError


class Watched:
    """An ASGI application that tells `connections` how far each request has come."""

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app, self._connections = app, connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the application's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = scope["client"][0], scope["client"][1]

        async def counted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                complete = not message.get("more_body", False)
                self._connections.body(peer, len(message.get("body", b"")), complete=complete)
            return message

        self._connections.head(peer)
        try:
            await self._app(scope, counted, send)
        finally:
            self._connections.answered(peer)
