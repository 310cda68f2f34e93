"""The line to the centre takes so many bytes a second, and Flower still has this client."""

import threading
from collections.abc import Iterator

import httpx
import pytest
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient

from flower_compat import pacing
from flower_compat.pacing import PacedTransport, Rate, pace_line

PUSH, PULL, BEAT = (
    f"https://centre.org/v1/fleet/{name}"
    for name in ("push-object", "pull-object", "send-node-heartbeat")
)


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pacing, "time", made)
    return made


class Centre(httpx.BaseTransport):
    """Reads a request block by block, and answers with so many bytes."""

    def __init__(self, clock: Clock, answer: int = 0) -> None:
        self.clock, self.answer = clock, answer
        self.read_at: list[tuple[float, int]] = []
        self.closed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        self.read_at += [(self.clock.now, len(block)) for block in request.stream]
        # As of a socket: it has not been read.
        return httpx.Response(200, stream=httpx.ByteStream(bytes(self.answer)))

    def close(self) -> None:
        self.closed += 1


def line(centre: Centre, bytes_per_s: float) -> httpx.Client:
    return httpx.Client(transport=PacedTransport(centre, Rate(bytes_per_s), threading.Lock()))


def test_an_object_is_pushed_at_the_rate_in_small_blocks(clock: Clock) -> None:
    centre = Centre(clock)
    with line(centre, 2**16) as client:
        client.post(PUSH, content=bytes(2**20)).raise_for_status()
        client.post(PUSH, content=bytes(2**20)).raise_for_status()
    assert sum(length for _, length in centre.read_at) == 2**21
    assert max(length for _, length in centre.read_at) <= 2**14
    # The last block goes when those before it have had their time.
    assert clock.now - 50 == pytest.approx(32, abs=0.26)
    assert centre.closed == 1


def test_an_object_is_pulled_at_the_rate(clock: Clock) -> None:
    centre = Centre(clock, answer=2**20)
    with line(centre, 2**18) as client:
        answer = client.post(PULL, content=b"which")
        assert answer.content == bytes(2**20)
        assert client.post(PULL, content=b"which").content == bytes(2**20)
    assert clock.now - 50 == pytest.approx(8, abs=0.2)


def test_a_sign_of_life_waits_for_no_object(clock: Clock) -> None:
    inside, answered = threading.Event(), threading.Event()

    class Slow(Centre):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("push-object"):
                inside.set()
                assert answered.wait(30)
            return super().handle_request(request)

    with line(Slow(clock), 2**16) as client:
        pushing = threading.Thread(target=client.post, args=(PUSH,), kwargs={"content": b"object"})
        pushing.start()
        assert inside.wait(30)
        assert client.post(BEAT, content=b"I am here").status_code == 200
        answered.set()
        pushing.join(30)


def test_a_request_that_fails_gives_its_turn_back(clock: Clock) -> None:
    class Broken(Centre):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("the cable is pulled")

    with line(Broken(clock), 2**16) as client:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                client.post(PUSH, content=b"object")


@pytest.fixture
def flowers_module() -> Iterator[dict[str, object]]:
    yield dict(vars(fleet_http_connection))


def test_flowers_client_is_paced_with_and_without_a_proxy(
    flowers_module: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.org:3128")
    pace_line(flowers_module, 2**16)
    made = flowers_module["FleetHttpClient"]
    assert isinstance(made, type) and issubclass(made, FleetHttpClient)
    with made.from_server_address("centre.org:9092", True, None, interceptors=[]) as client:
        http = client._client
        ways = [http._transport, *(way for way in http._mounts.values() if way is not None)]
        assert len(ways) >= 2
        assert all(isinstance(way, PacedTransport) for way in ways)


def test_another_flower_is_refused() -> None:
    with pytest.raises(RuntimeError, match="another client"):
        pace_line({}, 2**16)
