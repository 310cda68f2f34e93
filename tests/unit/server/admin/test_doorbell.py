"""An answer of nothing is held until something comes; every other one passes as it is."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import PullObjectResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from server.admin import doorbell
from server.admin.doorbell import BELLS, Doorbell

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/runtime/push-messages"
PULL_OBJECT, PUSH_OBJECT = "/v1/fleet/pull-object", "/v1/runtime/push-object"


class Centre:
    """Answers a pull with what was pushed."""

    def __init__(self, nothing: bytes = b"", status: int = 200, *, in_parts: bool = False) -> None:
        self.there = self.nothing = nothing
        self.status, self.in_parts = status, in_parts

    async def answer(self, request: Request) -> Response:
        if "push" in request.url.path:
            self.there = b"something"
            return Response(b"")
        if self.in_parts:

            async def parts():  # type: ignore[no-untyped-def]
                for number in range(len(self.there)):
                    yield self.there[number : number + 1]

            return StreamingResponse(parts(), self.status)
        return Response(self.there, self.status)

    def app(self, closing: Callable[[], bool] = lambda: False) -> Doorbell:
        route = Route("/{path:path}", self.answer, methods=["POST"])
        return Doorbell(Starlette(routes=[route]), closing)


async def ask(app: Doorbell, path: str) -> tuple[float, bytes]:
    """Seconds and the body."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://centre") as client:
        started = time.monotonic()
        answer = await client.post(path)
        return time.monotonic() - started, answer.content


# Longer than any test may take: what is answered before was not held to the end.
_HELD_S = 100.0


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "_LOOK_S", 0.1)
    for path, bell in list(BELLS.items()):
        monkeypatch.setitem(BELLS, path, replace(bell, longest_s=_HELD_S))


def test_nothing_is_said_as_flower_says_it() -> None:
    nothing = PullObjectResponse(object_found=True, object_available=False)
    assert BELLS[PULL].nothing == PullMessagesResponse().SerializeToString()
    assert BELLS[PULL_OBJECT].nothing == nothing.SerializeToString()
    assert PullObjectResponse(object_found=False).SerializeToString() != BELLS[PULL_OBJECT].nothing


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(("pull", "push"), [(PULL, PUSH), (PULL_OBJECT, PUSH_OBJECT)])
def test_who_waits_is_told_when_something_comes(pull: str, push: str, *, in_parts: bool) -> None:
    centre = Centre(BELLS[pull].nothing, in_parts=in_parts)

    async def scene() -> None:
        app = centre.app()
        waiting = [asyncio.create_task(ask(app, pull)) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        await ask(app, push)
        for task in waiting:
            # Nothing is in the answer that was held: it may never arrive.
            taken, body = await task
            assert taken < _HELD_S and body == BELLS[pull].nothing
        taken, body = await ask(app, pull)
        assert taken < _HELD_S and body == b"something"

    asyncio.run(scene())


def test_what_comes_while_the_application_looks_is_not_missed() -> None:
    centre = Centre()

    async def scene() -> None:
        app, looked = centre.app(), asyncio.Event()
        plain = centre.answer

        async def slow(request: Request) -> Response:
            answer = await plain(request)
            if "pull" in request.url.path:
                looked.set()
                await asyncio.sleep(0.2)
            return answer

        app._app = Starlette(routes=[Route("/{path:path}", slow, methods=["POST"])])
        waiting = asyncio.create_task(ask(app, PULL))
        await looked.wait()
        await ask(app, PUSH)
        taken, _ = await waiting
        assert taken < _HELD_S

    asyncio.run(scene())


def test_nothing_is_held_for_longer_than_a_client_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(doorbell.INSTRUCTION_S, doorbell.OBJECT_S) < 30 / 2
    monkeypatch.setitem(BELLS, PULL, replace(BELLS[PULL], longest_s=0.3))
    taken, body = asyncio.run(ask(Centre().app(), PULL))
    assert 0.3 <= taken < _HELD_S and body == b""


def test_a_refusal_is_not_held() -> None:
    taken, _ = asyncio.run(ask(Centre(status=401).app(), PULL))
    assert taken < _HELD_S


@pytest.mark.parametrize("path", ["/v1/runtime/pull-messages", "/v1/fleet/send-node-heartbeat"])
def test_other_answers_are_not_held(path: str) -> None:
    taken, _ = asyncio.run(ask(Centre().app(), path))
    assert taken < _HELD_S


def test_a_few_are_held_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "_MOST_HELD", 1)

    async def scene() -> None:
        app = Centre().app()
        first = asyncio.create_task(ask(app, PULL))
        await asyncio.sleep(0.2)
        taken, _ = await ask(app, PULL)
        assert taken < _HELD_S and not first.done()
        await ask(app, PUSH)
        await first

    asyncio.run(scene())


def test_a_server_that_ends_holds_nothing() -> None:
    ends: list[bool] = []

    async def scene() -> None:
        waiting = asyncio.create_task(ask(Centre().app(lambda: bool(ends)), PULL))
        await asyncio.sleep(0.2)
        ends.append(True)
        taken, _ = await waiting
        assert taken < _HELD_S

    asyncio.run(scene())


def test_a_refused_request_rings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BELLS, PULL, replace(BELLS[PULL], longest_s=1.0))

    async def answer(request: Request) -> Response:
        return Response(b"", 403 if "push" in request.url.path else 200)

    app = Doorbell(Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])]))

    async def both() -> float:
        pulling = asyncio.create_task(ask(app, PULL))
        await asyncio.sleep(0.1)
        await ask(app, PUSH)
        return (await pulling)[0]

    assert asyncio.run(both()) >= 0.9
