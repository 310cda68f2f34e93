"""How much memory the worker and all that it has started take, as the kernel counts it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_COUNTED = ("RssAnon:", "RssShmem:")


def members(leader: int, network: str) -> Iterator[int]:
    """Processes of a group, and those of a network namespace of their own.

    Args:
        leader: Of the group.
        network: As /proc/PID/ns/net reads; empty: the group alone is known.
    """
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            if os.getpgid(pid) == leader or (
                network and os.readlink(f"/proc/{pid}/ns/net") == network
            ):
                yield pid


def resident_bytes(leader: int, network: str) -> int:
    """What they hold in memory that is no file's.

    A GPU's memory is not in it, nor what CUDA maps of the driver: a device's pages are no
    process's.
    """
    return sum(map(_resident, members(leader, network)))


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        return sum(
            1024 * int(line.split()[1]) for line in lines.splitlines() if line.startswith(_COUNTED)
        )
    return 0
