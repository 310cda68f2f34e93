"""Landlock: a process of Linux gives up, for good, files that it could use and TCP.

Three system calls, which Python does not have; they need no privilege.  What is given up is given
up for all children too.  Standard library alone: see `client.node.worker_process`.
"""

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
# Before, no file could be moved to another folder at all.
_OLDEST = 2
TCP_SINCE, _TRUNCATE_SINCE, _SIGNALS_SINCE = 4, 3, 6

# Bits of linux/landlock.h.
_WRITE_FILE, _READ_FILE = 1 << 1, 1 << 2
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

_OF_A_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
_CHANGES = (
    _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO
    | _MAKE_SYM | _REFER | _TRUNCATE
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """Of the kernel's Landlock; 0: there is none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)))


def restrict(*, hidden: Iterable[Path], readable: Iterable[Path], writable: Iterable[Path]) -> int:
    """From now on, no file is changed but below `writable`, and none below `hidden` is read.

    No TCP either, no signal to a process outside, no socket of one without a name in the file
    system, as far as this kernel knows how.  The calling thread must be the only one, and have
    PR_SET_NO_NEW_PRIVS.

    Args:
        hidden: Folders and files whose content is not to be read.
        readable: What may be read, within hidden folders too.
        writable: Files and folders that may be read and changed, wherever they are.

    Returns:
        The version of Landlock that is in force; 0: this kernel has none that serves.

    Raises:
        OSError: The kernel has it and refuses.
    """
    known = version()
    if known < _OLDEST:
        return 0
    changes = _CHANGES if known >= _TRUNCATE_SINCE else _CHANGES & ~_TRUNCATE
    attributes = _Ruleset(
        files=_READ_FILE | changes,
        network=_BIND_TCP | _CONNECT_TCP if known >= TCP_SINCE else 0,
        scoped=_ABSTRACT_SOCKETS | _SIGNALS if known >= _SIGNALS_SINCE else 0,
    )
    rules = _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for path in (*_beside({path.resolve() for path in hidden}), *readable):
            _allow(rules, path, _READ_FILE)
        for path in writable:
            _allow(rules, path, _READ_FILE | changes)
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return known


def _beside(hidden: set[Path]) -> Iterator[Path]:
    """Everything that neither is hidden nor leads there; links lead where they lead."""
    leading = {
        parent
        for path in hidden
        for parent in path.parents
        if not hidden & {parent, *parent.parents}
    }
    for folder in leading:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if Path(entry.path) not in hidden | leading and not entry.is_symlink():
                    yield Path(entry.path)


def _allow(rules: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError, PermissionError, NotADirectoryError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                rights &= _OF_A_FILE
            rule = _Beneath(allowed=rights, folder=place)
            _call(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(place)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
