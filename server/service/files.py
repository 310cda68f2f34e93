"""Files that are looked at every few seconds: read again only where they have changed."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Watched(Generic[T]):
    """What `read` makes of a file, kept until the file changes.

    Args:
        path: The file.
        read: Is called once for each version of it, and may raise.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path, self._read = path, read
        self._version: tuple[int, int, int] | None = None
        self._kept: T | None = None

    def get(self) -> T | None:
        """None where there is no file."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._version = self._kept = None
            return None
        version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if version != self._version:
            self._version = None
            self._kept = self._read(self._path)
            self._version = version
        return self._kept


class NewLines:
    """The lines that a growing file of JSON objects has got since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._read_to = 0, 0

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """New complete lines, and whether they are all there are: the file is another one.

        One that is being written is left for the next look, a torn one out.
        """
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                anew = stat.st_ino != self._inode or stat.st_size < self._read_to
                if anew:
                    self._inode, self._read_to = stat.st_ino, 0
                file.seek(self._read_to)
                complete, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            anew, complete, end = self._inode != 0, b"", b""
            self._inode = self._read_to = 0
        self._read_to += len(complete) + len(end)
        found = []
        for line in complete.splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    found.append(event)
        return found, anew
