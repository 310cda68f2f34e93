"""One process at a time: a second one learns which is at work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.files import LockedError, locked


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which names this process.

    Raises:
        LockedError: Another process does; the message names it.
    """
    try:
        with locked(path, timeout_s=1.0) as file:
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
            yield
    except LockedError:
        number = path.read_text(encoding="ascii", errors="replace")[:20]
        raise LockedError(f"already running, process {number or 'unknown'}") from None
