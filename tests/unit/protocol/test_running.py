"""What runs once at a time; whoever died is in nobody's way."""

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.files import LockedError
from protocol.running import AlreadyRunningError, running_now, running_once

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from protocol.running import running_once
with running_once(Path(sys.argv[1]), "site A"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "running.lock"


def test_a_killed_process_leaves_a_file_and_no_lock(file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        words = f"process {other.pid} (since "
        assert running_now(file).startswith(words)
        refused = pytest.raises(
            AlreadyRunningError, match=f"site A: already running, process {other.pid}"
        )
        with refused, running_once(file, "site A"):
            raise AssertionError("it runs twice")
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert str(other.pid) in file.read_text(encoding="ascii")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert running_now(file) == ""
    with running_once(file, "site A"):
        assert str(other.pid) not in running_now(file)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 5000])
def test_what_stands_in_the_file_decides_nothing(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    assert running_now(file) == ""
    with running_once(file, "site A"):
        file.write_bytes(content)
        assert running_now(file) == "in a process that has not said which"


def test_an_error_of_what_runs_is_its_own(file: Path) -> None:
    with pytest.raises(LockedError, match="another's"), running_once(file, "site A"):
        raise LockedError("another's")


def test_a_look_makes_nothing(file: Path) -> None:
    assert running_now(file) == ""
    assert not file.parent.exists()
