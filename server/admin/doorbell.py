"""Holds back an answer that says "nothing yet" until something has come, so that few have to ask.

Flower's sites and ServerApps ask again and again, and each question costs the SuperLink some 10 ms
and a look into its database.  What is held says nothing: whoever asked asks once more and is given
what there is then.  So a site whose line is cut meanwhile loses no instruction.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OK = 200
# Flower's clients wait 30 s for an answer.
INSTRUCTION_S, OBJECT_S = 5.0, 1.0
# Each is a connection with an answer in memory; beyond them, the answer is given at once.
_MOST_HELD = 1024
# How often a held answer looks whether the server is to end.
_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class _Bell:
    """What is waited for.

    Attributes:
        nothing: The body that says that it is not there yet, in Flower's protobuf.
        rung_by: The request that brings it.
        longest_s: How long such an answer is held.
    """

    nothing: bytes
    rung_by: str
    longest_s: float


# An empty PullMessagesResponse; a PullObjectResponse with `object_found` alone.
_NO_MESSAGE, _NO_OBJECT = b"", b"\x08\x01"
BELLS = {
    "/v1/fleet/pull-messages": _Bell(
        nothing=_NO_MESSAGE, rung_by="/v1/runtime/push-messages", longest_s=INSTRUCTION_S
    ),
    "/v1/fleet/pull-object": _Bell(
        nothing=_NO_OBJECT, rung_by="/v1/runtime/push-object", longest_s=OBJECT_S
    ),
    "/v1/runtime/pull-object": _Bell(
        nothing=_NO_OBJECT, rung_by="/v1/fleet/push-object", longest_s=OBJECT_S
    ),
}
_RINGING = {bell.rung_by for bell in BELLS.values()}


class Doorbell:
    """An ASGI application whose answers of nothing are held; all others pass as they are.

    Args:
        app: The application.
        closing: Asked again and again; once it is true, nothing is held any more.
    """

    def __init__(self, app: ASGIApp, closing: Callable[[], bool] = lambda: False) -> None:
        self._app, self._closing = app, closing
        self._rung: dict[str, asyncio.Event] = {}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the application's."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path in _RINGING:
            statuses: list[int] = []

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                await send(message)

            await self._app(scope, receive, noted)
            # What was refused has brought nothing, whoever asked.
            if statuses == [_OK] and (event := self._rung.pop(path, None)):
                event.set()
        elif bell := BELLS.get(path):
            # Before the application looks: what comes while it does has rung.
            event = self._rung.setdefault(bell.rung_by, asyncio.Event())
            await self._app(scope, receive, _Answer(self, bell, event, send))
        else:
            await self._app(scope, receive, send)

    async def hold(self, event: asyncio.Event, longest_s: float) -> None:
        """Until it rings, for so long at most."""
        if self._held >= _MOST_HELD:
            return
        self._held += 1
        try:
            until = asyncio.get_running_loop().time() + longest_s
            while not event.is_set() and not self._closing():
                left = until - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left, _LOOK_S))
        finally:
            self._held -= 1


class _Answer:
    """Takes an answer's parts; passes them on once it is known to say something, or was held."""

    def __init__(self, doorbell: Doorbell, bell: _Bell, event: asyncio.Event, send: Send) -> None:
        self._doorbell, self._bell, self._event, self._send = doorbell, bell, event, send
        self._kept: list[Message] = []
        self._body = b""
        self._passing = False

    async def __call__(self, message: Message) -> None:
        if self._passing:
            await self._send(message)
            return
        self._kept.append(message)
        if message["type"] == "http.response.start":
            self._passing = message["status"] != _OK
        else:
            self._body += message.get("body", b"")
            whole = not message.get("more_body", False)
            if whole and self._body == self._bell.nothing:
                await self._doorbell.hold(self._event, self._bell.longest_s)
            self._passing = whole or not self._bell.nothing.startswith(self._body)
        if self._passing:
            for kept in self._kept:
                await self._send(kept)
            self._kept.clear()
