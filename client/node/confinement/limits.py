"""A fresh process gives up what approved code has no business with, before any of it is loaded.

Standard library alone, in the only thread: see `client.node.worker_process`.
"""

import ctypes
import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client.node.confinement.landlock import TCP_SINCE, restrict
from client.node.confinement.parent import end_with_parent

_NO_NEW_PRIVS = 38  # of prctl
_NEWUSER, _NEWNET = 0x10000000, 0x40000000  # of unshare
_CAPABILITIES_3 = 0x20080522
# What a container's root needs to read files of others: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH,
# FOWNER.
_OF_FILES = 0b1111

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Walls:
    """What a worker is to be kept from.

    Attributes:
        parent: Process with which the worker ends.
        memory: Bytes of private, writable memory that each process of the worker may have; 0: any.
        processes: Processes and threads that the worker may have in all, where users can be told
            apart (in a user namespace).
        hidden: Folders and files whose content it cannot read.
        readable: What it can read, within hidden folders too.
        writable: All that it can change.
    """

    parent: int
    memory: int
    processes: int
    hidden: tuple[str, ...]
    readable: tuple[str, ...]
    writable: tuple[str, ...]


@dataclass(frozen=True)
class Gap:
    """Something that approved code could do, and what would keep it from it."""

    what: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Confined:
    """What could be done of it on this machine.

    Attributes:
        namespace: There is no network, not even loopback.
        counted: The number of processes is limited.
        landlock: Version of Landlock in force; 0: files are as open as to the site's user.
    """

    namespace: bool
    counted: bool
    landlock: int

    def walls(self) -> str:
        """What approved code is kept from, in words."""
        counted = ", a limit of processes" if self.counted else ""
        return f"no network, no way to this site's key, audit log and approvals{counted}"

    def missing(self) -> list[Gap]:
        """What approved code could still do here."""
        gaps = []
        if not self.namespace:
            but = ", but not by TCP" if self.landlock >= TCP_SINCE else ""
            gaps.append(
                Gap(
                    f"approved code could use the network{but}: no network namespace can be made",
                    "allow user namespaces for this user, or give its container no network of"
                    " its own but to the centre",
                )
            )
        if not self.landlock:
            gaps.append(
                Gap(
                    "approved code could read this site's key and change its audit log: this"
                    " kernel has no Landlock",
                    "use Linux 5.19 or newer",
                )
            )
        return gaps


def confine(walls: Walls) -> Confined:
    """Put this process, and all that it starts, behind its walls for good.

    Raises:
        OSError: The kernel refuses what it says it has.
    """
    _prctl(_NO_NEW_PRIVS, 1)
    _limit(resource.RLIMIT_CORE, 0)
    if walls.memory:
        # Not RLIMIT_AS: CUDA reserves addresses of more than all memory.  What it reserves cannot
        # be written to, and what it maps is shared with the driver: neither counts here.
        _limit(resource.RLIMIT_DATA, walls.memory)
    namespace, own_user = _leave_the_network()
    if own_user:
        # Counted for each user in each user namespace: here, the worker's processes alone.
        _limit(resource.RLIMIT_NPROC, walls.processes)
    landlock = restrict(
        hidden=map(Path, walls.hidden),
        readable=map(Path, walls.readable),
        writable=map(Path, walls.writable),
    )
    _drop_capabilities()
    # Last, for a new user namespace forgets it.
    end_with_parent(walls.parent)
    return Confined(namespace=namespace, counted=own_user, landlock=landlock)


def _leave_the_network() -> tuple[bool, bool]:
    """Whether this process has no network now, and whether it is in a user namespace of its own.

    With the privilege for it, a network namespace alone, so that root can read what it could; else
    in a user namespace, in which this user and group keep their numbers and so their files.
    """
    if _libc.unshare(_NEWNET) == 0:
        return True, False
    # In a namespace of its own, a container's root could not read files of others.
    if os.geteuid() == 0:
        return False, False
    trial = os.fork()  # half of it done could not be undone
    if not trial:
        os._exit(not _own_user())
    _, status = os.waitpid(trial, 0)
    own = status == 0 and _own_user()
    return own, own


def _own_user() -> bool:
    """Into a user namespace with a network namespace; False: not, or not with its numbers."""
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_NEWUSER | _NEWNET) != 0:
        return False
    own = Path("/proc/self")
    try:
        (own / "setgroups").write_text("deny", "ascii")
        (own / "uid_map").write_text(f"{user} {user} 1", "ascii")
        (own / "gid_map").write_text(f"{group} {group} 1", "ascii")
    except OSError:
        return False
    return True


def _drop_capabilities() -> None:
    """None is left but root's over files; of no effect for a user without any."""
    kept = _OF_FILES if os.geteuid() == 0 else 0
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    old = (ctypes.c_uint32 * 6)()
    _libc.capget(header, old)
    # Two words each of: effective, permitted, inheritable.
    effective, permitted = old[0] & kept, old[1] & kept
    _libc.capset(header, (ctypes.c_uint32 * 6)(effective, permitted, 0, 0, 0, 0))


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    with suppress(ValueError):
        resource.setrlimit(kind, (most, most))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
