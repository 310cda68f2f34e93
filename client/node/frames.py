"""Frames between the executor and its worker: a header of JSON and a body of bytes, both bounded.

Standard library alone: the worker reads its first frame before it imports anything.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

POLL_S = 0.2
HEADER_BYTES = 2**20  # at most: numbers, names and shapes of an answer take some thousand

_LENGTHS = struct.Struct(">IQ")
_PIECE = 2**20


class FrameError(ValueError):
    """What came is longer than agreed."""


@dataclass(frozen=True)
class Frame:
    """One message of either side."""

    header: bytes
    body: memoryview


def send(
    connection: socket.socket,
    header: bytes,
    parts: Iterable[bytes] = (),
    waiting: Callable[[], None] = lambda: None,
) -> None:
    """Send one frame.

    Args:
        connection: To the other process.
        header: JSON.
        parts: Of the body, one after the other.
        waiting: Called every POLL_S; raises to give up.
    """
    body = list(parts)
    ticking = _Ticking(waiting)
    for part in (_LENGTHS.pack(len(header), sum(map(len, body))), header, *body):
        left = memoryview(part)
        while left:
            with suppress(TimeoutError):
                left = left[connection.send(left[:_PIECE]) :]
            ticking()


def receive(
    connection: socket.socket,
    most: int,
    waiting: Callable[[], None] = lambda: None,
    header: int = HEADER_BYTES,
) -> Frame:
    """Take one frame.

    Args:
        connection: To the other process.
        most: Bytes that the body may have.
        waiting: Called every POLL_S; raises to give up.
        header: Bytes that the header may have.

    Raises:
        FrameError: It is longer; nothing of it was read.
        EOFError: The other side is gone.
    """
    header_bytes, body_bytes = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size, waiting))
    if header_bytes > header or body_bytes > most:
        raise FrameError(
            f"is of {header_bytes} and {body_bytes} bytes, at most {header} and {most} may be"
        )
    return Frame(
        bytes(_exactly(connection, header_bytes, waiting)),
        _exactly(connection, body_bytes, waiting),
    )


def _exactly(connection: socket.socket, count: int, waiting: Callable[[], None]) -> memoryview:
    content = memoryview(bytearray(count))
    done = 0
    ticking = _Ticking(waiting)
    while done < count:
        try:
            got = connection.recv_into(content[done:], min(_PIECE, count - done))
        except TimeoutError:
            got = None
        except ConnectionError:
            got = 0
        if got == 0:
            raise EOFError("the other process is gone")
        done += got or 0
        ticking()
    return content.toreadonly()


class _Ticking:
    """Calls `waiting` every POLL_S: also while the other side sends a byte now and then."""

    def __init__(self, waiting: Callable[[], None]) -> None:
        self._waiting, self._last = waiting, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= POLL_S:
            self._waiting()
            self._last = time.monotonic()
