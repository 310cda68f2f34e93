"""A command in a process group of its own: its status, and its end by a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulation.commands.run import _stopped
from simulation.supervision import in_own_group

ROOT = Path(__file__).parents[3]
# The child starts a process of its own and waits for it, as Ray does.
SCRIPT = """
import subprocess, sys
from simulation.supervision import in_own_group
status = in_own_group(lambda: print("stopped: nothing is kept", file=sys.stderr))
if status is not None:
    sys.exit(status)
print(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
sys.exit(3)
"""


def start(what: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def test_output_and_status_are_the_commands() -> None:
    process = start("print('trained', flush=True)")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.split(), err) == (3, ["trained", "0"], "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it_in_one_line(number: signal.Signals) -> None:
    process = start("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == "stopped: nothing is kept\n"
    deadline = time.monotonic() + 10
    while alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(grandchild)


def test_nothing_is_done_where_another_program_reads_the_output() -> None:
    assert in_own_group(lambda: None) is None


def test_what_is_left_of_a_run_that_was_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "sites").mkdir(parents=True)
    _stopped(out, new=False)  # somebody's own folder
    assert out.exists()
    (out / "checkpoint.safetensors").touch()
    (out / "model" / "best").mkdir(parents=True)
    _stopped(out, new=True)
    err = capsys.readouterr().err
    assert f"stopped: {out} keeps what" in err and "is not resumed" in err
    assert f"asdnet-site predict --model {out / 'model' / 'best'}" in err
    (out / "checkpoint.safetensors").unlink()
    _stopped(out, new=True)
    assert not out.exists()
    assert capsys.readouterr().err == "stopped: no round was complete, and nothing is kept\n"
