"""Each request goes through every middleware of Flower's that does anything with it."""

import asyncio
from typing import Any

import pytest
from flwr.superlink import main
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from flower_compat import middleware as ours
from flower_compat.middleware import PASSED_BY, Beside, pass_by_idle_middleware

KINDS = [item.cls for item in main._get_middleware()]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_get_middleware", main._get_middleware)


class Marked:
    """Notes the paths that go through."""

    def __init__(self, app: Any, seen: list[str]) -> None:
        self._app, self._seen = app, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._seen.append(scope.get("path", scope["type"]))
        await self._app(scope, receive, send)


def answered(paths: tuple[str, ...], asked: str) -> list[str]:
    """What goes through the middleware of a request to this path."""
    seen: list[str] = []

    async def endpoint(request: Request) -> Response:
        return Response(b"here")

    beside = Middleware(Beside, middleware=Middleware(Marked, seen=seen), paths=paths)
    app = Starlette(routes=[Route("/{path:path}", endpoint)], middleware=[beside])
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        scope = {"type": "http", "method": "GET", "path": asked, "headers": [], "query_string": b""}
        await app(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert sent[-1]["body"] == b"here"
    return seen


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/health", "/v1/fleet", "/v1/fleetx/a"])
def test_other_requests_go_through(path: str) -> None:
    assert answered(("/v1/fleet/",), path) == [path]


def test_those_of_the_path_pass_by() -> None:
    assert answered(("/v1/fleet/", "/v1/runtime/"), "/v1/fleet/pull-object") == []
    assert answered(("/v1/fleet/", "/v1/runtime/"), "/v1/runtime/pull-object") == []


def test_starting_up_goes_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    beside = Beside(app, Middleware(Marked, seen=seen), ("/v1/fleet/",))
    asyncio.run(beside({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_sites_are_authenticated_as_before_and_nothing_else_is_left_out() -> None:
    assert PASSED_BY[NodeAuthMiddleware] == ("/v1/runtime/",)
    pass_by_idle_middleware()
    pass_by_idle_middleware()
    found = main._get_middleware()
    inner = [i.kwargs["middleware"].cls if i.cls is Beside else i.cls for i in found]
    assert inner == KINDS, "the same, in the same order"
    assert {i.kwargs["middleware"].cls for i in found if i.cls is Beside} == set(PASSED_BY)
    for item in found:
        if item.cls is Beside:
            assert item.kwargs["paths"] == PASSED_BY[item.kwargs["middleware"].cls]


def test_every_one_that_is_passed_by_is_flowers() -> None:
    assert set(PASSED_BY) <= set(KINDS)
    assert {path for paths in PASSED_BY.values() for path in paths} == {ours._FLEET, ours._RUNTIME}
