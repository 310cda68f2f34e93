"""Errors that nobody expected, in all three commands: one line, and the traceback in a file."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from client.data.errors import ScanError
from reporting.unexpected import (
    DEBUG,
    LOG,
    is_for_users,
    note_unexpected,
    threads_told,
    unexpected_place,
    working_on,
)

ROOT = Path(__file__).parents[3]
# The command of a module, with a function in place of one of its own.
PROBE = """
import sys
def boom(*args, **options):
    patient = "Jane Doe"
    raise {error}
module, _, name = sys.argv[1].rpartition(":")
vars(__import__(module, fromlist=["_"]))[name] = boom
from {room}.cli import app
app(sys.argv[2:])
"""
COMMANDS = {
    "client": ("client.data.folder.layout:survey_folder", "check", "--site", "A"),
    "server": ("server.commands.provision:create_centre", "init"),
    "simulation": ("simulation.cohort:find_cohort", "run"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(DEBUG, raising=False)
    return tmp_path / "xdg" / "asdnet"


def caught(raised: BaseException) -> BaseException:
    secret = "Jane Doe"  # pragma: allowlist secret
    try:
        assert secret
        raise raised
    except BaseException as error:
        return error


def test_the_traceback_is_in_a_private_file_and_not_in_the_line(folder: Path) -> None:
    line = note_unexpected(caught(KeyError("/data/Doe^Jane")))
    assert line == (
        "something went wrong that this program did not expect"
        f" (KeyError in tests/unit/reporting/test_unexpected.py:{line_of('raise raised')});"
        f" the details are in {folder / LOG}; please report it"
    )
    text = (folder / LOG).read_text(encoding="utf-8")
    assert "KeyError: '/data/Doe^Jane'" in text and "raise raised" in text
    assert "Jane Doe" not in text
    assert stat.S_IMODE((folder / LOG).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_log_that_others_could_read_is_closed_to_them(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / LOG).touch()
    (folder / LOG).chmod(0o644)
    note_unexpected(caught(KeyError("/data/Doe^Jane")))
    assert stat.S_IMODE((folder / LOG).stat().st_mode) == 0o600


def line_of(words: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == words)


def test_the_log_is_bounded_and_forged_by_nobody(folder: Path) -> None:
    for _ in range(80):
        note_unexpected(caught(ValueError("x" * 30_000 + "\n2026-01-01 00:00:00 UTC: all is well")))
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == 2 and sum(sizes) < 2.2 * 2**20
    entries = [line for line in (folder / LOG).read_text().splitlines() if line[0] != " "]
    assert all(", process " in line for line in entries)


def test_a_log_that_cannot_be_written_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("not a folder", encoding="utf-8")
    line = note_unexpected(caught(KeyError("Doe")))
    assert f"its details could not be written (file exists), {DEBUG}=1 shows them here" in line


def test_a_link_in_place_of_the_log_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (folder / LOG).symlink_to(tmp_path / "elsewhere")
    assert "could not be written" in note_unexpected(caught(KeyError("Doe")))
    assert not (tmp_path / "elsewhere").exists()


def test_memory_that_ran_out_has_its_own_words(folder: Path) -> None:
    assert note_unexpected(caught(MemoryError())).startswith("memory ran out (MemoryError in tests")


def test_the_case_that_was_worked_on_is_named(folder: Path) -> None:
    with pytest.raises(KeyError) as raised, working_on("case 014"):
        raise KeyError("x")
    assert "did not expect while it worked on case 014 (KeyError in" in note_unexpected(
        raised.value
    )


def test_an_error_of_another_process_has_its_line_there(folder: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        error = pool.submit(os.path.join, 3).exception()  # type: ignore[arg-type]
        ours = pool.submit(_in_another_process).exception()
    assert error is not None and unexpected_place(error) == "TypeError"
    assert ours is not None
    assert unexpected_place(ours).startswith("KeyError in tests/unit/reporting/test_unexpected.py:")


def _in_another_process() -> None:
    raise KeyError("x")


def test_a_thread_ends_in_a_line_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with threads_told():
        thread = threading.Thread(target=_in_another_process)
        thread.start()
        thread.join()
    shown = capsys.readouterr().err
    assert shown.startswith("error: something went wrong") and shown.count("\n") == 1


def run(room: str, error: str, tmp_path: Path, **environment: str) -> Any:
    (tmp_path / "A.yaml").write_text("site: A\ndata: A\ncache: cache\nstate: state\n")
    options = {
        "client": ("--configs", str(tmp_path)),
        "server": ("--centre", str(tmp_path / "centre"), "--host", "localhost"),
        "simulation": ("--out", str(tmp_path / "out"), "--preset", "smoke"),
    }
    (tmp_path / "probe.py").write_text(PROBE.format(room=room, error=error))
    return subprocess.run(
        [sys.executable, str(tmp_path / "probe.py"), *COMMANDS[room], *options[room]],
        check=False, capture_output=True, encoding="utf-8", cwd=tmp_path, timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


@pytest.mark.parametrize("room", COMMANDS)
def test_every_command_ends_in_one_line(folder: Path, tmp_path: Path, room: str) -> None:
    done = run(room, "KeyError(patient)", tmp_path)
    log = tmp_path / "state" / LOG if room == "client" else folder / LOG
    assert done.returncode == 70, done.stderr
    assert done.stderr.startswith("error: something went wrong that this program did not expect (")
    assert done.stderr.count("\n") == 1
    assert f"the details are in {log}; please report it" in done.stderr
    assert "Doe" not in done.stderr + done.stdout
    text = log.read_text(encoding="utf-8")
    assert "KeyError: 'Jane Doe'" in text and "patient =" not in text


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        ("OSError(28, 'No space left on device', 'x')", 2, "error: x: no space left on device\n"),
        ("KeyboardInterrupt", 130, "\ninterrupted\n"),
        ("MemoryError", 70, "error: memory ran out (MemoryError in "),
    ],
)
def test_what_is_no_defect_has_words_of_its_own(
    folder: Path, tmp_path: Path, error: str, status: int, line: str
) -> None:
    done = run("server", error, tmp_path)
    assert done.returncode == status
    assert done.stderr.startswith(line) and "Traceback" not in done.stderr


def test_developers_see_the_traceback(folder: Path, tmp_path: Path) -> None:
    done = run("server", "KeyError(patient)", tmp_path, **{DEBUG: "1"})
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert "KeyError: 'Jane Doe'" in done.stderr


@pytest.mark.parametrize(
    ("words", "memory"),
    [
        ("libtorch_cpu.so: failed to map segment from shared object", True),
        ("libtorch_cpu.so: cannot map zero-fill pages: Cannot allocate memory", True),
        ("libgomp.so.1: cannot allocate memory in static TLS block", False),
        ("No module named 'torch'", False),
    ],
)
def test_a_library_that_finds_no_room_is_told_as_memory(
    folder: Path, words: str, memory: bool
) -> None:
    line = note_unexpected(caught(ImportError(words)))
    assert line.startswith("memory ran out") == memory


def test_words_are_shown_of_what_was_written_for_a_user() -> None:
    def raised(raises: Callable[[], object]) -> Exception:
        with pytest.raises(Exception) as caught:
            raises()
        return caught.value

    def own(error: Exception) -> None:
        raise error

    assert is_for_users(raised(lambda: Path("/nowhere/at/all").read_text(encoding="utf-8")))
    scan = ScanError("case 1: image", "is empty", rule="format")
    assert is_for_users(raised(lambda: own(scan)))
    assert is_for_users(raised(lambda: own(ValueError("patch: must be 8"))))
    # A path, a name or a value may stand in these.
    assert not is_for_users(raised(lambda: own(KeyError("Doe"))))
    assert not is_for_users(raised(lambda: json.loads("{Doe")))
