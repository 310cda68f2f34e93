"""Room in the cache: known from headers before a scan is resampled, and bounded.

What was used longest ago goes first, but nothing that a study in hand needs: each process names the
entries of its study in a file below `.in-use` and holds that file's lock while it lives.
"""

import contextlib
import gc
import json
import os
import re
import shutil
import uuid
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.config.limits import SiteLimits
from protocol.files import LockedError, locked, remove_drafts

GIB = 2**30
_ENTRY = re.compile(r"[0-9a-f]{64}")
_IN_USE, _LOCK = ".in-use", ".lock"
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
# What a killed process left half written; no scan takes so long to write.
_DRAFT_S = 3600.0


class CacheError(OSError):
    """The cache cannot be written, or has no room."""


class Lease:
    """Entries of the cache that nobody removes while this object lives, or its process does."""

    def __init__(self, path: Path, wanted: Mapping[str, int]) -> None:
        held = contextlib.ExitStack()
        held.enter_context(locked(path, mode=_PRIVATE_FILE, timeout_s=0))
        path.write_text(json.dumps(dict(wanted)), encoding="utf-8")
        held.callback(path.unlink, missing_ok=True)
        weakref.finalize(self, held.close)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process has none of it."""
        return type(None), ()


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A folder of the cache: its bytes and when it was used last."""

    folder: Path
    bytes: int
    used: float


def make_room(cache: Path, limits: SiteLimits, wanted: Mapping[str, int]) -> Lease:
    """Make room for these entries, and keep it while the lease lives.

    Args:
        cache: The folder; made if it is not there and something is to be written.
        limits: Of the site; `cache_gib` holds.
        wanted: Every entry that is needed together, by key, and the bytes that it takes at most.

    Raises:
        CacheError: The study alone does not fit, or does not fit beside those of other processes;
            then nothing is written or removed.
    """
    limit = int(limits.cache_gib * GIB)
    if sum(wanted.values()) > limit:
        raise CacheError(_too_small(cache, sum(wanted.values()), limits, "this study alone needs"))
    try:
        cache.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        with locked(cache / _LOCK, mode=_PRIVATE_FILE):
            _forget_dead(cache)
            try:
                _evict(cache, _leased(cache), wanted, limits)
            except CacheError:
                # A study that this process is done with may hang in a cycle, as of a traceback.
                gc.collect()
                _evict(cache, _leased(cache), wanted, limits)
            leases = cache / _IN_USE
            leases.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
            return Lease(leases / f"{uuid.uuid4().hex}.json", wanted)
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(
            f"cache {cache}: cannot be used ({error.strerror}); free space on that disk or set"
            " `cache` in the site's file to another one"
        ) from None


def touch(folder: Path) -> None:
    """Note that an entry is used now, and close it to other users."""
    # It may be another user's, or gone: then reading it says so.
    with contextlib.suppress(OSError):
        os.utime(folder)
        if folder.stat().st_mode & 0o077:
            folder.chmod(_PRIVATE_FOLDER)


def _evict(
    cache: Path, reserved: Mapping[str, int], wanted: Mapping[str, int], limits: SiteLimits
) -> None:
    """Remove what was used longest ago until all that is there or to come fits."""
    entries = {entry.folder.name: entry for entry in _entries(cache)}
    to_come = {key: size for key, size in {**reserved, **wanted}.items() if key not in entries}
    total = sum(e.bytes for e in entries.values()) + sum(to_come.values()) + _draft_bytes(cache)
    over = total - int(limits.cache_gib * GIB)
    needed = reserved.keys() | wanted.keys()
    free = sorted(
        (entry for name, entry in entries.items() if name not in needed), key=lambda e: e.used
    )
    if over > sum(entry.bytes for entry in free):
        needs = total - sum(entry.bytes for entry in free)
        raise CacheError(_too_small(cache, needs, limits, "this and what is in use there need"))
    for entry in free:
        if over <= 0:
            return
        # Out of sight first: nobody finds half an entry.
        gone = cache / f".draft-{uuid.uuid4().hex}"
        entry.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        over -= entry.bytes


def _too_small(cache: Path, needed: float, limits: SiteLimits, who: str) -> str:
    return (
        f"cache {cache}: {who} {needed / GIB:.3g} GiB, limits.cache_gib of the site's file allows"
        f" {limits.cache_gib:g}; have the centre choose a coarser spacing, or raise it if the disk"
        " has room"
    )


def _entries(cache: Path) -> Iterator[_Entry]:
    """The cache's own folders; whatever else lies there is not its."""
    for folder in cache.iterdir() if cache.is_dir() else ():
        if not _ENTRY.fullmatch(folder.name):
            continue
        # Another process may remove it meanwhile.
        with contextlib.suppress(OSError):
            yield _Entry(folder=folder, bytes=entry_size(folder), used=folder.stat().st_mtime)


def _draft_bytes(cache: Path) -> int:
    total = 0
    for draft in cache.glob(".draft-*"):
        with contextlib.suppress(OSError):
            total += sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
    return total


def entry_size(folder: Path) -> int:
    """Bytes of an entry's files."""
    return sum(file.stat().st_size for file in folder.iterdir())


def _leased(cache: Path) -> dict[str, int]:
    """Entries that are needed now, by whatever process, and their bytes."""
    needed: dict[str, int] = {}
    for path in (cache / _IN_USE).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            needed |= json.loads(path.read_text(encoding="utf-8"))
    return needed


def _forget_dead(cache: Path) -> None:
    """Clear away what ended processes have left."""
    remove_drafts(cache, _DRAFT_S)
    for path in (cache / _IN_USE).glob("*.json"):
        with contextlib.suppress(OSError, LockedError), locked(path, flags=os.O_RDWR, timeout_s=0):
            path.unlink()
