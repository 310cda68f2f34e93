"""What a child process prints, as lines of this site's log: escaped, and not without end."""

import logging
import threading
from typing import IO

from protocol.escaping import printable
from reporting.logs import printed_line, record_of

_LINE_BYTES = 4096
_RECORD_BYTES = 2**20


class ChildOutput:
    """Reads a stream to its end, in a thread of its own.

    Args:
        stream: stdout and stderr of the child.
        log: Where its lines go.
        most: Bytes that are logged until `allow` is called; None: all.
        mark: Words that are looked for in its lines; empty: none.
        trusted: It runs our code alone: lines that are records (`reporting.logs`) are logged as
            they were there.  Other code could forge them.

    Attributes:
        marked: Whether a line had them.
    """

    def __init__(
        self,
        stream: IO[bytes],
        log: logging.Logger,
        most: int | None = None,
        mark: str = "",
        *,
        trusted: bool = False,
    ) -> None:
        self._stream, self._log, self._most, self._trusted = stream, log, most, trusted
        self._mark, self.marked = mark.encode(), False
        self._left = most
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    def allow(self) -> None:
        """From now on, as much as at the beginning."""
        self._left = self._most

    def join(self, timeout_s: float) -> None:
        """Wait for the last lines of a child that has ended."""
        self._thread.join(timeout_s)

    def _forward(self) -> None:
        with self._stream:
            while line := self._stream.readline(_RECORD_BYTES if self._trusted else _LINE_BYTES):
                self.marked = self.marked or (self._mark != b"" and self._mark in line)
                if self._trusted and (record := record_of(line.decode("utf-8", "replace"))):
                    logging.getLogger(record.name).handle(record)
                elif self._left is None or self._left > 0:
                    self._log.info("%s", printable(printed_line(line)))
                    self._count(len(line))

    def _count(self, size: int) -> None:
        if self._left is not None:
            self._left -= size
            if self._left <= 0:
                self._log.warning("it prints too much; the rest is left out")
