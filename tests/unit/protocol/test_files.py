import errno
import fcntl
import json
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.files import (
    LockedError,
    append_line,
    atomic_file,
    atomic_folder,
    is_locked,
    locked,
    remove_drafts,
    sync_folder,
    write_bytes,
    write_json,
    write_text,
)


def fails(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- whole files --------------------------------------------------------------------------------


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old ü")
    write_bytes(path, "new ü".encode())
    assert path.read_text(encoding="utf-8") == "new ü"
    assert names(tmp_path) == ["file.txt"]


def test_a_draft_has_the_endings_of_its_file(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "014.nii.gz") as draft:
        assert draft.parent == tmp_path
        assert draft.name.endswith(".nii.gz")
        assert draft.name.startswith(".")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, failing, fails)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["key"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as draft:
        draft.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["key"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "file", []

    def fsync(file: int) -> None:
        status = os.fstat(file)
        synced.append((stat.S_ISDIR(status.st_mode), status.st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(path, b"12345")
    assert synced == [(False, 5, False), (True, tmp_path.stat().st_size, True)]


def test_a_private_file_is_never_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen when it is opened and between writing and moving in place, under the widest umask."""
    seen: list[int] = []
    replace, opened = os.replace, os.open

    def note(draft: Path, path: Path) -> None:
        seen.append(stat.S_IMODE(draft.stat().st_mode))
        replace(draft, path)

    def note_open(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            seen.append(mode)
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "replace", note)
    monkeypatch.setattr(os, "open", note_open)
    before = os.umask(0)
    try:
        write_bytes(tmp_path / "key", b"secret", 0o600)
    finally:
        os.umask(before)
    assert seen == [0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for content in ("first", "second"):
        try:
            with atomic_file(path, overwrite=False) as draft:
                draft.write_text(content)
        except FileExistsError:
            assert content == "second"
    assert path.read_text() == "first"
    assert names(tmp_path) == ["key"]


def test_json_is_sorted_so_that_two_runs_can_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"b": 1, "a": {"d": None, "c": [1]}})
    text = path.read_text()
    assert text == json.dumps({"a": {"c": [1], "d": None}, "b": 1}, indent=2) + "\n"


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"round": 1})
    with pytest.raises(TypeError):
        write_json(path, {"round": object()})
    assert json.loads(path.read_text()) == {"round": 1}
    assert names(tmp_path) == ["facts.json"]


def test_a_file_system_without_a_sync_of_folders_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(error: int) -> Callable[[int], None]:
        def fail(_: int) -> None:
            raise OSError(error, os.strerror(error))

        return fail

    monkeypatch.setattr(os, "fsync", fsync(errno.EINVAL))
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)


# ---- whole folders ------------------------------------------------------------------------------


def make(folder: Path, content: str, **options: bool) -> None:
    with atomic_folder(folder, **options) as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "file").write_text(content)


def content_of(folder: Path) -> str:
    return (folder / "inner" / "file").read_text()


@pytest.mark.parametrize("durable", [True, False])
def test_a_folder_is_replaced(tmp_path: Path, durable: bool) -> None:
    for content in ("old", "new"):
        make(tmp_path / "case", content, durable=durable)
        assert content_of(tmp_path / "case") == content
        assert names(tmp_path) == ["case"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_replaced_too(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "case", tmp_path / "other"
    other.mkdir()
    path.write_text("") if kind == "file" else path.symlink_to(other)
    make(path, "new")
    assert not path.is_symlink()
    assert content_of(path) == "new"
    assert names(tmp_path) == ["case", "other"]


def test_a_folder_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "case", "old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "case") as draft:
        (draft / "file").write_text("half")
        raise KeyboardInterrupt
    assert content_of(tmp_path / "case") == "old"
    assert names(tmp_path) == ["case"]


def test_a_rename_that_fails_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "case", "old")
    rename = Path.rename

    def only_old(path: Path, target: Path) -> Path:
        if path.name == "new":
            fails()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", only_old)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path / "case", "new")
    assert content_of(tmp_path / "case") == "old"
    assert names(tmp_path) == ["case"]


def test_a_folder_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "entry", "first", overwrite=False)
    with pytest.raises(FileExistsError):
        make(tmp_path / "entry", "second", overwrite=False)
    assert content_of(tmp_path / "entry") == "first"
    assert names(tmp_path) == ["entry"]


def test_drafts_of_a_killed_process_are_cleared_away_after_a_day(tmp_path: Path) -> None:
    for name in (".draft-old", ".draft-new", "case-0"):
        (tmp_path / name).mkdir()
    (tmp_path / ".draft-old.csv").touch()
    for name in (".draft-old", ".draft-old.csv", "case-0"):
        os.utime(tmp_path / name, (0, 0))
    remove_drafts(tmp_path)
    assert names(tmp_path) == [".draft-new", "case-0"]
    remove_drafts(tmp_path / "none")


# ---- logs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b"new\n"), (b"old\n", b"old\nnew\n"), (b"old\nto", b"old\nto\nnew\n")],
    ids=["new", "whole", "torn"],
)
def test_a_torn_line_does_not_take_the_next_with_it(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    path = tmp_path / "events.jsonl"
    if before:
        path.write_bytes(before)
    append_line(path, "new")
    assert path.read_bytes() == after


# ---- locks --------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process that holds the lock."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "lock", there))
    process.start()
    assert here.poll(60)
    yield process
    process.kill()
    process.join()


def hold(path: Path, pipe: "multiprocessing.connection.Connection") -> None:
    with locked(path):
        pipe.send("held")
        time.sleep(600)


def test_a_lock_ends_with_its_process(
    tmp_path: Path, elsewhere: multiprocessing.process.BaseProcess
) -> None:
    path = tmp_path / "lock"
    assert is_locked(path)
    with pytest.raises(LockedError), locked(path, timeout_s=0.1):
        pytest.fail("two processes hold one lock")
    elsewhere.kill()
    elsewhere.join()
    assert not is_locked(path)
    with locked(path, timeout_s=0):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path, held = tmp_path / "lock", threading.Event()

    def hold_shortly() -> None:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            held.set()
            time.sleep(0.2)

    other = threading.Thread(target=hold_shortly)
    other.start()
    assert held.wait(5)
    assert not is_locked(path)
    with locked(path, timeout_s=5):
        assert is_locked(path)
    other.join()


def test_a_lock_does_not_make_what_it_is_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "log", os.O_RDONLY, shared=True):
        pytest.fail("there is nothing to read")
    assert names(tmp_path) == []
