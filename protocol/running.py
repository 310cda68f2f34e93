"""What runs once at a time: the kernel holds the lock, and gives it back whatever happens."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from asdnet_models.fields import Frozen
from protocol.files import LockedError, is_locked, locked

# Who only looks holds the lock for an instant.
_PATIENCE_S = 0.5
_MOST_BYTES = 1024


class AlreadyRunningError(RuntimeError):
    """Another process holds the lock; the message says which."""


class _Holder(Frozen):
    """Who holds the lock, for people alone: whether it is held, the kernel says."""

    process: int
    since: AwareDatetime


@contextmanager
def running_once(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of a file; a process that dies in here, by SIGKILL too, is in nobody's way.

    Args:
        path: The lock's file; its folder is made.
        name: What runs, for the message.

    Raises:
        AlreadyRunningError: Another process does.
        OSError: The file cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            lock = locked(path, os.O_RDWR | os.O_CREAT, 0o600, timeout_s=_PATIENCE_S)
            file = stack.enter_context(lock)
        except LockedError:
            raise AlreadyRunningError(
                f"{name}: already running, {_holder(path)}; end that one before you start it again"
            ) from None
        holder = _Holder(process=os.getpid(), since=datetime.now().astimezone())
        os.ftruncate(file, 0)
        os.pwrite(file, holder.model_dump_json().encode(), 0)
        yield


def running_now(path: Path) -> str:
    """Which process holds the lock, and since when; empty: none."""
    return _holder(path) if path.exists() and is_locked(path) else ""


def _holder(path: Path) -> str:
    try:
        with path.open("rb") as file:
            holder = _Holder.model_validate_json(file.read(_MOST_BYTES))
    except (OSError, ValidationError):  # it is just being written
        return "in a process that has not said which"
    return f"process {holder.process} (since {holder.since.astimezone():%Y-%m-%d %H:%M})"
