"""A process of its own ends with the one that started it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PATIENCE_S = 60.0
PARENT = """
import os, sys, time
from client.node.own_process import own_process
if __name__ == "__main__":
    child = own_process(time.sleep, 600)
    if sys.argv[1:] == ["other parent"]:
        child._args = (1, *child._args[1:])
    child.start()
    print(child.pid, flush=True)
    child.join()
    print(child.exitcode, flush=True)
"""
# Ignores SIGTERM, as a SuperNode does whose main thread is held up in a library.
SUPERNODE = """
import os, signal, sys, threading, time
import client.node.supernode as supernode
supernode._SIGN_OFF_S = 0.2
if sys.argv[2] == "held up":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=supernode._end_with, args=(int(sys.argv[1]),), daemon=True).start()
print(os.getpid(), flush=True)
time.sleep(600)
"""


def await_end(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"process {pid} is still there")


def start(code: str, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    script = folder / "parent.py"
    script.write_text(code, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_it_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    with start(PARENT, tmp_path) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while b"spawn_main" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
        await_end(pid)


def test_it_does_not_begin_where_the_parent_has_ended_already(tmp_path: Path) -> None:
    with start(PARENT, tmp_path, "other parent") as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert parent.stdout.readline() == "1\n"


@pytest.mark.parametrize("state", ["well", "held up"])
def test_a_supernode_ends_after_its_parent_whatever_holds_it_up(tmp_path: Path, state: str) -> None:
    (tmp_path / "node.py").write_text(SUPERNODE, encoding="utf-8")
    code = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {str(tmp_path / 'node.py')!r}, str(os.getpid()),"
        f" {state!r}])\ntime.sleep(600)\n"
    )
    with start(code, tmp_path) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        await_end(pid)
