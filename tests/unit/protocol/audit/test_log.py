"""The audit log: a chain that shows every change, and survives what stops a process."""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from audit_chain import filled

from protocol.audit.log import ORIGIN, AuditError, AuditLog
from protocol.audit.verification import verify

DIGEST = hashlib.sha256(b"weights").hexdigest()


# ---- what is written ----------------------------------------------------------------------------


def test_an_entry_holds_what_was_said_and_links_to_the_one_before(path: Path) -> None:
    log = AuditLog(path)
    first = log.append(
        "sent",
        "train reply",
        peer="centre:9092",
        run="pelvis",
        round=3,
        bytes=160,
        sha256=DIGEST,
        items={"segmenter tensors": 42, "numbers": 37},
    )
    second = log.append("refused", "bundle", peer="centre:9092", reason="not approved")
    assert (first.seq, first.previous, second.seq, second.previous) == (1, ORIGIN, 2, first.hash)
    assert (second.run, second.round, second.bytes, second.sha256, second.items) == (
        "",
        0,
        0,
        "",
        {},
    )
    fields = json.loads(path.read_bytes().splitlines()[0])
    assert fields.pop("hash") == first.hash
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert first.hash == hashlib.sha256(canonical).hexdigest()
    verification = verify(path)
    assert verification.entries == (first, second)
    assert (verification.faults, verification.head) == ((), second.hash)


def test_no_log_yet_is_an_empty_one(path: Path) -> None:
    assert (verify(path).entries, verify(path).faults, verify(path).head) == ((), (), ORIGIN)
    assert not path.parent.exists()


def test_only_the_owner_may_read_the_file(path: Path) -> None:
    filled(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_one_write_a_line_and_on_the_disk_before_it_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    write, fsync = os.write, os.fsync

    def written(file: int, data: bytes) -> int:
        calls.append("write" if data.endswith(b"\n") and data.count(b"\n") == 1 else "part")
        return write(file, data)

    def synced(file: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(os, "fsync", synced)
    filled(path, 2)
    assert calls == ["write", "file", "folder", "write", "file"]


def test_odd_texts_do_not_spoil_a_line(path: Path) -> None:
    log = AuditLog(path)
    entry = log.append(
        "received", "a\nb\x1b[31m\u2028é", peer='"}', run="\ud800", items={"\udc00": 1}
    )
    log.append("note", "after", peer="")
    assert entry.run == "\\ud800"
    assert verify(path).faults == ()
    assert verify(path).entries[0] == entry
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"round": -1}, "round"),
        ({"bytes": -1}, "bytes"),
        ({"bytes": 2**63}, "bytes"),
        ({"sha256": "abc"}, "sha256"),
        ({"items": {"numbers": -2}}, "items.numbers"),
    ],
)
def test_invalid_values_are_not_written(path: Path, given: Any, place: str) -> None:
    filled(path, 1)
    before = path.read_bytes()
    with pytest.raises(AuditError, match=f"audit entry: {place}: "):
        AuditLog(path).append("sent", "train reply", peer="c", **given)
    assert path.read_bytes() == before


@pytest.mark.parametrize("length", [100, 8191, 8192, 8193, 30_000])
def test_the_tail_is_found_behind_lines_longer_than_a_block(path: Path, length: int) -> None:
    log = AuditLog(path)
    for number in range(3):
        log.append("note", "x" * length, peer="", round=number)
    assert [entry.seq for entry in verify(path).entries] == [1, 2, 3]
    assert verify(path).faults == ()


def test_only_the_end_of_a_long_log_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    filled(path, 200)
    read: list[int] = []
    pread = os.pread

    def counted(file: int, length: int, start: int) -> bytes:
        read.append(length)
        return pread(file, length, start)

    monkeypatch.setattr(os, "pread", counted)
    AuditLog(path).append("note", "one more", peer="")
    assert 0 < sum(read) <= 8192 < path.stat().st_size
    assert verify(path).faults == ()


def test_several_processes_write_one_chain(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    names = [[f"process {process} entry {n}" for n in range(25)] for process in range(4)]
    # Long lines take long enough to write that the four get into each other's way.
    append = partial(AuditLog(path).append, "sent", peer="c" * 100_000)
    # The barrier lets nobody begin before all have started, which takes far longer than the work.
    with context.Pool(4, initializer=context.Barrier(4).wait) as pool:
        pool.map(append, [name for group in names for name in group], chunksize=25)
    verification = verify(path)
    assert verification.faults == ()
    assert [entry.seq for entry in verification.entries] == list(range(1, 101))
    written = [entry.what for entry in verification.entries]
    for group in names:
        assert [what for what in written if what in group] == group


# ---- what stops a process -----------------------------------------------------------------------


def test_a_write_torn_at_any_byte_is_repaired(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    lines = filled(path, 3)
    whole = b"".join(lines[:2])
    for torn in range(1, len(lines[2])):
        path.write_bytes(whole + lines[2][:torn])
        found = verify(path)
        assert len(found.faults) == 1
        assert f"line 3 is a torn last line of {torn:,} bytes" in found.faults[0]
        assert (found.torn_bytes, found.only_torn, len(found.entries)) == (torn, True, 2)
        entry = AuditLog(path).append("sent", "train reply", peer="centre:9092")
        repaired = verify(path)
        assert repaired.faults == ()
        assert path.read_bytes().startswith(whole)
        assert repaired.entries[3:] == (entry,)
        note = repaired.entries[2]
        assert (note.direction, note.what) == ("note", "audit repaired")
        assert note.items == {"bytes removed": torn}


def test_a_first_line_that_is_torn_is_repaired(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"bytes":0' * 2000)  # longer than a block
    AuditLog(path).append("sent", "facts reply", peer="c")
    assert [entry.what for entry in verify(path).entries] == ["audit repaired", "facts reply"]
    assert verify(path).entries[0].items == {"bytes removed": 20_000}
    assert verify(path).faults == ()


def full_disk(file: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
    write(file, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def nearly_full_disk(file: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
    return write(file, data[: len(data) // 2])


@pytest.mark.parametrize("disk", [full_disk, nearly_full_disk])
@pytest.mark.parametrize("entries", [0, 2])
def test_a_full_disk_leaves_no_half_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[..., int], entries: int
) -> None:
    before = b"".join(filled(path, entries)) if entries else b""
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", disk)
        with pytest.raises(
            AuditError, match=r"No space left.*nothing may leave unlogged"
        ) as caught:
            AuditLog(path).append("sent", "train reply", peer="c")
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == before
    assert AuditLog(path).append("sent", "train reply", peer="c").seq == entries + 1
    assert verify(path).faults == ()


def test_an_error_of_the_disk_when_it_syncs_leaves_no_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = b"".join(filled(path))

    def broken(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(AuditError, match=os.strerror(errno.EIO)):
        AuditLog(path).append("sent", "train reply", peer="c")
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"cannot be written.*check free space and rights"):
        AuditLog(tmp_path).append("sent", "train reply", peer="c")
    with pytest.raises(AuditError, match="cannot be read"):
        verify(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(AuditError, match="cannot be written"):
        AuditLog(tmp_path / "file" / "audit.jsonl").append("sent", "train reply", peer="c")


@pytest.mark.parametrize("last", [b"{}\n", b"\x00\n", b"\n"])
def test_nothing_is_added_to_a_log_whose_end_was_changed(path: Path, last: bytes) -> None:
    lines = filled(path)
    for end in (last, lines[4].replace(b'"round":5', b'"round":6')):
        path.write_bytes(b"".join(lines[:4]) + end)
        before = path.read_bytes()
        with pytest.raises(AuditError, match=r"the last entry .*keep the file as evidence"):
            AuditLog(path).append("sent", "train reply", peer="c")
        assert path.read_bytes() == before


def test_a_reader_waits_for_a_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 1)
    taken: list[int] = []
    flock = fcntl.flock

    def noticed(file: int, lock: int) -> None:
        taken.append(lock)
        flock(file, lock)

    monkeypatch.setattr(fcntl, "flock", noticed)
    verify(path)
    AuditLog(path).append("note", "x", peer="")
    shared, exclusive, release = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN
    assert taken == [shared, release, exclusive, release]
