"""Nobody keeps the others out of the SuperLink's port: by hand on a clock, and on real sockets."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from server.admin import serving
from server.admin.certificates import issue_server, make_ca
from server.admin.connections import Connections, Limits

ATTACKER, HOSPITAL = "127.0.0.2", "127.0.0.3"
# Times as in use, a hundred times as fast.
QUICK = Limits(per_address=8, in_all=64, head_s=0.5, body_s=0.5, answer_s=20.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """A socket that says whether it was ended."""

    def __init__(self) -> None:
        self.ended = False
        self.closed = False

    def shutdown(self, how: int) -> None:
        self.ended = True

    def fileno(self) -> int:
        return -1 if self.closed else 3


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> Connections:
    limits = Limits(per_address=3, in_all=5, head_s=10, body_s=20, body_rate=100, answer_s=60)
    return Connections(limits, clock)


def connect(table: Connections, host: str, port: int) -> Wire:
    wire: Any = Wire()
    assert table.admit(wire, (host, port))
    return wire  # type: ignore[no-any-return]


def test_each_stage_has_its_time(
    table: Connections, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    silent, slow, busy = (connect(table, "a", port) for port in (1, 2, 3))
    clock.now += 9
    for port in (2, 3):
        table.head(("a", port))
    table.body(("a", 3), 10, complete=True)
    clock.now += 2
    table.close_late()
    assert (silent.ended, slow.ended, busy.ended) == (True, False, False)
    assert "closed: 1 slow connections of a" in caplog.text
    table.body(("a", 2), 500, complete=False)  # five seconds' worth
    clock.now += 22
    table.close_late()
    assert not slow.ended
    clock.now += 2
    table.close_late()
    assert (slow.ended, busy.ended) == (True, False)
    table.answered(("a", 3))
    clock.now += 11
    caplog.clear()
    table.close_late()
    assert busy.ended and len(table) == 0
    assert caplog.text == "", "it had nothing more to ask"


def test_an_address_with_too_many_loses_its_oldest_that_waits(
    table: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    busy, first, second = (connect(table, "a", port) for port in (1, 2, 3))
    table.head(("a", 1))
    table.body(("a", 1), 0, complete=True)
    other = connect(table, "b", 1)
    third = connect(table, "a", 4)
    ended = [wire.ended for wire in (busy, first, second, other, third)]
    assert ended == [False, True, False, False, False]
    with caplog.at_level(logging.WARNING):
        table.close_late()
    assert "closed: 1 connections of a, which opens or sends too many" in caplog.text


def test_there_is_no_room_where_all_are_answered(table: Connections) -> None:
    for port in (1, 2, 3):
        connect(table, "a", port)
        table.head(("a", port))
        table.body(("a", port), 0, complete=True)
    wire: Any = Wire()
    assert not table.admit(wire, ("a", 4))
    connect(table, "b", 1)


def test_of_all_the_busiest_address_makes_room(table: Connections) -> None:
    many = [connect(table, "a", port) for port in (1, 2, 3)]
    few = [connect(table, "b", port) for port in (1, 2)]
    connect(table, "c", 1)
    assert [wire.ended for wire in many + few] == [True] + [False] * 4


def test_what_is_closed_counts_no_more(table: Connections) -> None:
    wires = [connect(table, "a", port) for port in (1, 2, 3)]
    wires[1].closed = True
    connect(table, "a", 4)
    assert not wires[0].ended and len(table) == 3


def test_bodies_of_one_address_are_bounded_together(clock: Clock) -> None:
    table = Connections(Limits(bytes_per_address=100), clock)
    first, second, other = connect(table, "a", 1), connect(table, "a", 2), connect(table, "b", 1)
    for peer in (("a", 1), ("a", 2), ("b", 1)):
        table.head(peer)
    table.body(("a", 1), 60, complete=True)
    table.body(("b", 1), 60, complete=True)
    table.body(("a", 2), 60, complete=False)
    assert (first.ended, second.ended, other.ended) == (False, True, False)
    # Once answered, they are not in memory any more.
    table.answered(("a", 1))
    third = connect(table, "a", 3)
    table.head(("a", 3))
    table.body(("a", 3), 90, complete=True)
    assert not third.ended


# ---- On real sockets ----------------------------------------------------------------------------


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.client} {len(await request.body())}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    now, folder = datetime.now(UTC), tmp_path_factory.mktemp("tls")
    server = issue_server(
        make_ca(2, now - timedelta(hours=1), ("localhost",)), ("localhost",), 1, now
    )
    (folder / "key").write_bytes(server.key_pem)
    (folder / "pem").write_bytes(server.certificate_pem)
    return {"ssl_keyfile": str(folder / "key"), "ssl_certfile": str(folder / "pem")}


@pytest.fixture
def port(certificate: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server as the SuperLink's, with short times, where the environment believes headers."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    made: list[uvicorn.Server] = []

    class Server(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            made.append(self)

    monkeypatch.setattr("server.admin.serving.uvicorn.Server", Server)
    with socket.create_server(("127.0.0.1", 0)) as found:
        number: int = found.getsockname()[1]
    options: dict[str, Any] = {
        "app": Starlette(routes=[Route("/{path:path}", length, methods=["GET", "POST"])]),
        "host": "127.0.0.1", "port": number, "reload": False, "workers": 1, "log_config": None,
        "access_log": True, "limits": QUICK,
    }  # fmt: skip
    thread = threading.Thread(target=serving.serve, kwargs=options | certificate)
    thread.start()
    while not (made and made[0].started):
        time.sleep(0.02)
    yield number
    made[0].should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def plain(port: int, source: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 5, source_address=(source, 0))
    connection.settimeout(5)
    return connection


def encrypted(port: int, source: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain(port, source))


def answered(port: int, source: str, headers: str = "") -> str:
    """The answer to a whole request, within 5 s."""
    request = f"POST /x HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 2\r\nConnection: close\r\n"
    with encrypted(port, source) as connection:
        connection.sendall(request.encode() + b"\r\nab")
        content = b""
        while part := connection.recv(4096):
            content += part
    return content.decode()


def half_open(port: int, kind: str) -> socket.socket:
    """A request that goes no further than its kind."""
    if kind == "no TLS hello":
        return plain(port, ATTACKER)
    if kind == "half a TLS hello":
        connection = plain(port, ATTACKER)
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        return connection
    sent = {
        "no request": b"",
        "half a request line": b"POST /v1/fl",
        "half a head": b"POST /v1/fleet/push HTTP/1.1\r\nHost: x\r\nA: b\r\n",
        "no body": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        "half a body": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
        "half of a second request": b"GET /x HTTP/1.1\r\nHost: x\r\n\r\nGET /",
    }
    encrypted_one = encrypted(port, ATTACKER)
    encrypted_one.sendall(sent[kind])
    return encrypted_one


KINDS = (
    "no TLS hello",
    "half a TLS hello",
    "no request",
    "half a request line",
    "half a head",
    "no body",
    "half a body",
    "half of a second request",
)


@contextmanager
def many(port: int, kind: str, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(half_open(port, kind))) for _ in range(count)]


def ended(connection: socket.socket) -> bool:
    """Whether the server has ended it, or does so within 5 s."""
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_half_open_requests_of_one_address_keep_nobody_out(port: int, kind: str) -> None:
    with many(port, kind, 3 * QUICK.per_address) as connections:
        start = time.monotonic()
        assert "200 OK" in answered(port, HOSPITAL)
        assert time.monotonic() - start < 2
        # Not even who shares the attacker's address.
        assert "200 OK" in answered(port, ATTACKER)
        assert all(map(ended, connections)), "each has its end after a while"
        assert time.monotonic() - start < 6


def test_a_slow_client_that_goes_on_is_heard(port: int) -> None:
    with encrypted(port, HOSPITAL) as connection:
        connection.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 32768\r\n\r\n")
        for _ in range(8):
            time.sleep(0.3)
            connection.sendall(bytes(4096))
        assert b"200 OK" in connection.recv(4096)


def test_a_head_without_end_is_refused(port: int) -> None:
    with encrypted(port, ATTACKER) as connection:
        connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n")
        with pytest.raises(OSError):
            for _ in range(10_000):
                connection.sendall(b"A: " + b"b" * 1000 + b"\r\n")


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_a_callers_address_is_the_connections(port: int, name: str) -> None:
    answer = answered(port, HOSPITAL, f"{name}: 10.9.8.7\r\n")
    assert f"host='{HOSPITAL}'" in answer and "10.9.8.7" not in answer


def test_a_port_that_is_taken(certificate: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        serving.serve(
            app=Starlette(), limits=QUICK, host="127.0.0.1", port=taken.getsockname()[1],
            log_config=None, **certificate,
        )  # fmt: skip


def test_one_socket_for_ipv6_and_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[socket.socket] = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        (listener,) = sockets
        listener.listen()
        bound.append(listener)
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as caller:
                caller.settimeout(5)
                caller.connect((address, listener.getsockname()[1]))
        self.started = True

    monkeypatch.setattr(uvicorn.Server, "run", run)
    serving.serve(app=Starlette(), limits=QUICK, host="::", port=0, log_config=None)
    assert len(bound) == 1
