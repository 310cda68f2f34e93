"""Atomic files, logs that survive a crash, locks that end with a process."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_DRAFT = ".draft-"
_LOCK_POLLING_S = 0.05


class LockedError(RuntimeError):
    """Somebody else holds the lock."""


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o666, overwrite: bool = True) -> Iterator[Path]:
    """A draft to write to, in the same folder, which replaces `path` atomically.

    The draft has the endings of `path`, because some libraries choose the format by them.  It is
    brought to the disk before it gets its name; after an exception there is neither it nor a
    change.

    Args:
        path: The file.
        mode: Its permissions from the first byte on, less the umask.
        overwrite: False: never replace a file that exists.

    Raises:
        FileExistsError: There is such a file, and it may not be overwritten.
        OSError: The file cannot be written.
    """
    draft = path.with_name(f"{_DRAFT}{uuid.uuid4().hex}{''.join(path.suffixes[-2:])}")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield draft
        _sync(draft)
        if overwrite:
            os.replace(draft, path)
        else:
            os.link(draft, path)  # unlike a rename, it fails where another process was faster
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def why_not_writable(path: Path) -> str:
    """Why nothing could be made at `path`, whose folders may be missing yet; "": it could.

    Nothing is left there.
    """
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"{folder}: {(error.strerror or type(error).__name__).lower()}"


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the file atomically; see `atomic_file`."""
    with atomic_file(path, mode=mode) as draft:
        draft.write_bytes(content)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode(), mode)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_text` of sorted, indented JSON."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextmanager
def atomic_folder(
    path: Path, *, mode: int = 0o777, overwrite: bool = True, durable: bool = True
) -> Iterator[Path]:
    """A folder to write into, which replaces `path` atomically, or not at all.

    Args:
        path: Where the folder goes.
        mode: The folder's permissions, less the umask.
        overwrite: Whatever is there is removed at the end.  False: it stays.
        durable: Bring the files to the disk first.  False for what can be made anew.

    Raises:
        FileExistsError: There is something, and it may not be overwritten.
        OSError: The folder cannot be written, or another process put one there meanwhile.
    """
    work = path.with_name(f"{_DRAFT}{uuid.uuid4().hex}")
    draft, old = work / "new", work / "old"
    try:
        work.mkdir(parents=True, mode=0o700)
        draft.mkdir(mode=mode)
        yield draft
        if durable:
            for file in (file for file in draft.rglob("*") if file.is_file()):
                _sync(file)
        if overwrite:
            with suppress(FileNotFoundError):
                path.rename(old)
        try:
            draft.rename(path)
        except OSError as error:
            if os.path.lexists(old) and not os.path.lexists(path):
                old.rename(path)
            if not overwrite and os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
            raise
        if durable:
            sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove_drafts(folder: Path, older_than_s: float = 24 * 3600.0) -> None:
    """Clear away what killed processes left half written in a folder."""
    for draft in folder.glob(f"{_DRAFT}*"):
        with suppress(OSError):  # another process's may be gone by now
            if time.time() - draft.stat().st_mtime > older_than_s:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def append_line(path: Path, line: str) -> None:
    """Add a line to a log and bring it to the disk.

    A line that a crash left torn gets its end first, so that it does not take this one with it.
    """
    content = line.encode() + b"\n"
    with path.open("a+b") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            content = b"\n" + content
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(
    path: Path,
    flags: int = os.O_RDWR | os.O_CREAT | os.O_APPEND,
    mode: int = 0o666,
    *,
    shared: bool = False,
    timeout_s: float | None = None,
) -> Iterator[int]:
    """Hold the lock of a file; the kernel gives it back when the process dies.

    Args:
        path: The file, made if the flags say so.
        flags: As in `os.open`; an exclusive lock needs a file that may be written.
        mode: A new file's permissions, less the umask.
        shared: Several processes may hold it at once.
        timeout_s: How long to wait for it; None: without end.

    Yields:
        The open file's descriptor.

    Raises:
        LockedError: Others hold it.
        OSError: The file cannot be opened.
    """
    file = os.open(path, flags, mode)
    try:
        _lock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout_s)
        yield file
    finally:
        # Closing alone would not do: a process that another thread forked meanwhile shares the
        # open file, and with it the lock.
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock alone; who asks shares it for an instant."""
    try:
        with locked(path, shared=True, timeout_s=0):
            return False
    except LockedError:
        return True


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _lock(file: int, kind: int, timeout_s: float | None) -> None:
    if timeout_s is None:
        fcntl.flock(file, kind)
        return
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError("another process holds the lock") from None
        time.sleep(_LOCK_POLLING_S)
