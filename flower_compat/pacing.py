"""A SuperNode's line to the centre, of which it takes so many bytes a second and no more.

Flower 1.41 has no setting for it.  Messages travel as objects of 8 MiB at most, each a request of
its own that is repeated where it fails: what has arrived is not sent again.  Here these requests
take turns, and each goes in small blocks; signs of life do not wait behind them.
"""

import threading
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

import httpx
from flwr.supernode.fleet_http_client import FleetHttpClient

# Of these each may be megabytes; the others are some hundred bytes.
_LARGE = frozenset(f"/v1/fleet/{name}" for name in ("push-object", "pull-object", "get-fab"))
_BLOCK = 2**14


class Rate:
    """So many bytes a second; who has taken some waits until they are over.

    Args:
        bytes_per_s: In both directions together.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Wait for the turn of so many bytes."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + count / self._bytes_per_s
        if start > now:
            time.sleep(start - now)


class PacedTransport(httpx.BaseTransport):
    """A transport of which the large requests go one after the other, at a rate.

    Args:
        inner: What sends.
        rate: Of all transports that share it.
        turn: Held during a large request.
    """

    def __init__(self, inner: httpx.BaseTransport, rate: Rate, turn: threading.Lock) -> None:
        self._inner, self._rate, self._turn = inner, rate, turn

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As the inner one's; the answer to a large request has been read."""
        if request.url.path not in _LARGE:
            return self._inner.handle_request(request)
        with self._turn:
            assert isinstance(request.stream, httpx.SyncByteStream)
            request.stream = _Blocks(request.stream, self._rate)
            answer = self._inner.handle_request(request)
            try:
                assert isinstance(answer.stream, httpx.SyncByteStream)
                content = b"".join(_Blocks(answer.stream, self._rate))
            finally:
                answer.close()
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            stream=httpx.ByteStream(content),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """As the inner one's."""
        self._inner.close()


class _Blocks(httpx.SyncByteStream):
    """A stream in small blocks, each in its time."""

    def __init__(self, stream: httpx.SyncByteStream, rate: Rate) -> None:
        self._stream, self._rate = stream, rate

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            for begin in range(0, len(part), _BLOCK):
                block = part[begin : begin + _BLOCK]
                self._rate.take(len(block))
                yield block

    def close(self) -> None:
        self._stream.close()


def pace_line(module: MutableMapping[str, Any], bytes_per_s: float) -> None:
    """In this module of Flower, given by its globals, the centre is spoken to at this rate.

    Raises:
        RuntimeError: This version of Flower speaks to it in another way.
    """
    if module.get("FleetHttpClient") is not FleetHttpClient:
        raise RuntimeError("this version of Flower has another client of the centre")
    rate, turn = Rate(bytes_per_s), threading.Lock()

    class PacedClient(FleetHttpClient):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            http = self._client
            http._transport = PacedTransport(http._transport, rate, turn)
            http._mounts = {
                pattern: None if inner is None else PacedTransport(inner, rate, turn)
                for pattern, inner in http._mounts.items()
            }

    module["FleetHttpClient"] = PacedClient
