"""The gate before the SuperLink, and that Flower really puts it there."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import flwr.superlink.main
import httpx
import pytest
from flwr.superlink import extensions
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flower_compat.owner import HEADER
from server.admin.gate import MAX_BODY_BYTES, MAX_OTHER_BYTES, Gate

OUTSIDE = ["203.0.113.5", "10.0.0.7", "192.168.1.2", "2001:db8::1", "fe80::1", "0.0.0.0"]
LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]
CLOSED = [
    "/v1/control/register-node",
    "/v1/control/start-run",
    "/v1/runtime/pull-task",
    "/docs",
    "/openapi.json",
    "/",
    "/v1/fleet",
    "/v1/fleetx/pull",
    "/V1/fleet/pull",
    "/v1/control/v1/fleet/pull",
]


async def echo(request: Request) -> PlainTextResponse:
    body = await request.body()
    return PlainTextResponse(f"{request.url.path} {len(body)}")


TOKEN = "ab" * 32
OWNER = {HEADER: TOKEN}


def ask(
    host: str,
    method: str,
    path: str,
    *,
    content: Any = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """One request from this address to an app behind the gate that answers everything."""
    anything = Route("/{path:path}", echo, methods=["GET", "HEAD", "POST", "PUT"])
    app = Starlette(routes=[anything], middleware=[Middleware(Gate, owner_token=TOKEN)])

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(host, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="https://centre") as client:
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(send())


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_closed_to_the_outside(
    path: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = ask("203.0.113.5", method, path, content=b"x", headers=OWNER)
    assert answer.status_code == 403, "the token does not open them from outside"
    assert "this API is for the centre's own machine" in answer.text
    assert f"203.0.113.5 asked for {path}" in caplog.text


@pytest.mark.parametrize("host", OUTSIDE)
def test_from_wherever_outside(host: str) -> None:
    assert ask(host, "POST", "/v1/control/start-run", content=b"x").status_code == 403
    answer = ask(host, "POST", "/v1/fleet/pull-messages", content=b"12345")
    assert (answer.status_code, answer.text) == (200, "/v1/fleet/pull-messages 5")


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("path", CLOSED)
def test_the_owner_is_let_through_on_the_centres_own_machine(host: str, path: str) -> None:
    answer = ask(host, "POST", path, content=bytes(MAX_BODY_BYTES + 1), headers=OWNER)
    assert answer.status_code == 200
    assert answer.text.endswith(f" {MAX_BODY_BYTES + 1}")


@pytest.mark.parametrize(
    "claimed",
    [
        {},
        {HEADER: ""},
        {HEADER: "0" * 64},
        {HEADER: TOKEN[:-1]},
        {HEADER: TOKEN + "a"},
        {HEADER: f"Bearer {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}"},
        {"flwr-task-token": TOKEN},
        {"Cookie": f"{HEADER}={TOKEN}"},
    ],
)
@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("path", CLOSED)
def test_no_other_user_of_the_centres_own_machine(
    host: str, path: str, claimed: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = ask(host, "POST", path, content=b"x", headers=claimed)
    assert answer.status_code == 403
    assert "for the user who runs the SuperLink" in answer.text
    assert f"{host} asked for {path} without the owner's token" in caplog.text


@pytest.mark.parametrize("host", ["203.0.113.5", "127.0.0.1"])
def test_the_log_shows_no_control_characters_of_a_stranger(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ask(host, "POST", "/%1b[2J%0aadmitted: all" + "x" * 10_000, content=b"x")
    (record,) = caplog.records
    assert "\\x1b[2J\\nadmitted" in record.getMessage()
    assert record.getMessage().isprintable() and len(record.getMessage()) < 300


def test_a_caller_whose_address_is_unknown_is_outside() -> None:
    assert ask("", "POST", "/v1/control/start-run", content=b"x").status_code == 403
    for host in ("localhost", "::ffff:203.0.113.5", "::ffff:0:127.0.0.1"):
        assert ask(host, "POST", "/v1/control/start-run", content=b"x").status_code == 403


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Host"])
def test_a_claimed_name_admits_no_node(name: str) -> None:
    answer = ask("203.0.113.5", "POST", "/v1/control/x", content=b"", headers={name: "127.0.0.1"})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["203.0.113.5", "127.0.0.1"])
def test_the_largest_body(host: str) -> None:
    path = "/v1/fleet/push-object"
    fits = ask(host, "POST", path, content=bytes(MAX_BODY_BYTES))
    assert (fits.status_code, fits.text) == (200, f"{path} {MAX_BODY_BYTES}")
    over = ask(host, "POST", path, content=bytes(MAX_BODY_BYTES + 1))
    assert over.status_code == 413


@pytest.mark.parametrize("path", ["/v1/fleet/push-messages", "/v1/fleet/get-run", "/health"])
def test_only_objects_are_large(path: str) -> None:
    fits = ask("203.0.113.5", "POST", path, content=bytes(MAX_OTHER_BYTES))
    assert fits.status_code == 200
    over = ask("203.0.113.5", "POST", path, content=bytes(MAX_OTHER_BYTES + 1))
    assert over.status_code == 413 and f"{MAX_OTHER_BYTES} bytes at most" in over.text


async def endless() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"x"
    pytest.fail("the body was read")


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_body_without_a_length_is_not_read(method: str) -> None:
    answer = ask("203.0.113.5", method, "/v1/fleet/push", content=endless())
    assert answer.status_code == 413
    assert f"declare its length, {MAX_OTHER_BYTES} bytes at most" in answer.text


@pytest.mark.parametrize("length", ["99999999999999999999", "-1", "1e3", "", "x", "0x10", "1, 1"])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    headers = {"Content-Length": length}
    answer = ask("203.0.113.5", "POST", "/v1/fleet/push", content=b"x", headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_length_beside_a_chunked_body_says_nothing(method: str) -> None:
    headers = {"Content-Length": "1", "Transfer-Encoding": "chunked"}
    if method == "GET":
        del headers["Content-Length"]

    async def more() -> AsyncIterator[bytes]:
        yield bytes(MAX_BODY_BYTES)
        yield b"more"

    answer = ask("203.0.113.5", method, "/v1/fleet/push", content=more(), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("host", ["203.0.113.5", "127.0.0.1"])
def test_health_is_for_all(host: str) -> None:
    assert ask(host, "GET", "/health").status_code == 200
    assert ask(host, "HEAD", "/health").status_code == 200


def test_health_is_one_path() -> None:
    assert ask("203.0.113.5", "GET", "/health").status_code == 200
    assert ask("203.0.113.5", "GET", "/healthy-secrets").status_code == 403


def test_what_is_not_http_passes() -> None:
    """Starting up and shutting down are messages too."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Gate(app, TOKEN)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


# ---- the body ------------------------------------------------------------------------------------


def received(parts: list[Any]) -> list[Any]:
    """What the application is given of a request that comes in these parts."""
    seen: list[Any] = []
    coming = iter(parts)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            seen.append(await receive())

    async def receive() -> Any:
        return next(coming)

    head = [(b"content-length", b"6")]
    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/push-object", "headers": head}
    asyncio.run(Gate(app, TOKEN)(scope, receive, None))  # type: ignore[arg-type]
    return seen


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


def test_a_body_in_many_parts_reaches_flower_in_one() -> None:
    parts = [part(b"ab", more=True), part(b"", more=True), part(b"cdef", more=False), GONE]
    assert received(parts) == [part(b"abcdef", more=False), GONE]
    assert received([{"type": "http.request"}, GONE]) == [part(b"", more=False), GONE]


def test_half_a_body_is_none() -> None:
    assert received([part(b"ab", more=True), GONE, GONE]) == [GONE, GONE]


# ---- Flower's hook ------------------------------------------------------------------------------


def test_flower_asks_for_the_middleware_and_puts_it_outermost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = flwr.superlink.main._get_middleware()
    assert all(item.cls is not Gate for item in before)
    monkeypatch.setattr(
        extensions, "get_middleware", lambda: (Middleware(Gate, owner_token=TOKEN),)
    )
    found = flwr.superlink.main._get_middleware()
    assert found[0].cls is Gate
    assert [item.cls for item in found[1:]] == [item.cls for item in before]


def test_flowers_own_app_is_behind_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """From outside the Control and Runtime APIs are closed, and the Fleet API is reached."""
    monkeypatch.setattr(
        extensions, "get_middleware", lambda: (Middleware(Gate, owner_token=TOKEN),)
    )
    app = flwr.superlink.main.create_app()

    async def status(host: str, method: str, path: str) -> int:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(host, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="https://centre") as client:
            return (await client.request(method, path, content=b"")).status_code

    paths = {route.path for route in app.routes if hasattr(route, "methods")}
    paths |= set(app.openapi()["paths"])
    inner = sorted(path for path in paths if not path.startswith(("/v1/fleet/", "/health")))
    assert any(path.startswith("/v1/control/") for path in inner)
    assert any(path.startswith("/v1/runtime/") for path in inner)
    for path in inner:
        assert asyncio.run(status("203.0.113.5", "POST", path)) == 403
        assert asyncio.run(status("127.0.0.1", "POST", path)) == 403
    fleet = sorted(path for path in paths if path.startswith("/v1/fleet/"))
    assert fleet
    assert asyncio.run(status("203.0.113.5", "POST", fleet[0])) != 403
