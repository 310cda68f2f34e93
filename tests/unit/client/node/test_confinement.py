"""The walls around the worker, put up in a process of its own; as root and as somebody else."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.node.confinement.walls import KEPT_BY_THE_CODE
from client.node.confinement.watch import members, resident_bytes

ROOT = Path(__file__).parents[4]
NOBODY = 65534
TRY = """
import ctypes, json, os, resource, socket, sys
from pathlib import Path
from client.node.confinement.limits import Walls, confine
home, memory, processes, user = Path(sys.argv[1]), *map(int, sys.argv[2:5])
hidden = home / "hidden"
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    if sys.argv[5:] != ["undumpable"]:
        ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as a process is that began as this user
confined = confine(Walls(
    parent=os.getppid(), memory=memory, processes=processes,
    hidden=(str(hidden), str(hidden / "key")), readable=(str(ROOT),), writable=(str(home / "own"),),
))
def attempt(action):
    try:
        return f"got {action()}"
    except BaseException as error:
        return type(error).__name__
def forks():
    for number in range(processes + 50):
        if os.fork() == 0:
            __import__("time").sleep(60)
    return "too many"
print(json.dumps({
    "namespace": confined.namespace,
    "counted": confined.counted,
    "landlock": confined.landlock,
    "user": os.geteuid(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "open": attempt(lambda: (home / "open").read_text()),
    "hidden": attempt(lambda: (hidden / "key").read_text()),
    "new": attempt(lambda: (home / "new").write_text("x")),
    "own": attempt(lambda: (home / "own" / "file").write_text("x")),
    "moved": attempt(lambda: os.rename(home / "own" / "file", home / "own" / "sub" / "file")),
    "memory": attempt(lambda: len(bytearray(2**31))),
    "some memory": attempt(lambda: len(bytearray(2**26))),
    "privileges": Path("/proc/self/status").read_text().split("NoNewPrivs:")[1].split()[0],
    "capabilities": Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0],
    "forks": attempt(forks) if confined.counted else "",
}), flush=True)
os.killpg(0, 9)
"""


def tried(home: Path, user: int, *more: str) -> dict[str, object]:
    code = TRY.replace("str(ROOT)", repr(str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code, str(home), str(2**30), "40", str(user), *more],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: above it, pytest closes a folder to others.
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "own" / "sub").mkdir(parents=True)
        (home / "hidden").mkdir()
        (home / "open").write_text("to read", encoding="ascii")
        (home / "hidden" / "key").write_text("a secret", encoding="ascii")
        for path in (home, *home.rglob("*")):
            path.chmod(0o777)
        yield home


def as_others() -> list[int]:
    """This user; and, where root can be them, somebody without any right."""
    return [0, NOBODY] if os.geteuid() == 0 else [0]


@pytest.mark.parametrize("user", as_others())
def test_walls(home: Path, user: int) -> None:
    found = tried(home, user)
    assert found["user"] == (user or os.geteuid())
    assert found["privileges"] == "1"
    assert int(str(found["capabilities"]), 16) & ~0b1111 == 0
    assert (found["memory"], found["some memory"]) == ("MemoryError", f"got {2**26}")
    assert found["open"] == "got to read"
    if found["namespace"]:
        assert found["interfaces"] == ["lo"]
    if found["landlock"]:
        assert (found["hidden"], found["new"]) == ("PermissionError", "PermissionError")
        assert (found["own"], found["moved"]) == ("got 1", "got None")
    if found["counted"]:
        assert found["forks"] == "BlockingIOError"


def test_files_of_a_group_stay_readable_in_a_user_namespace(home: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root to be somebody else")
    os.chown(home / "open", 0, NOBODY)
    (home / "open").chmod(0o640)
    found = tried(home, NOBODY)
    assert found["open"] == "got to read"


def test_a_namespace_that_cannot_be_finished_is_not_begun(home: Path) -> None:
    """As where /proc/self is root's, or a security module refuses the half of it."""
    if os.geteuid():
        pytest.skip("needs root to be somebody else")
    found = tried(home, NOBODY, "undumpable")
    assert (found["namespace"], found["counted"], found["user"]) == (False, False, NOBODY)
    assert (found["open"], found["own"]) == ("got to read", "got 1")


def test_every_folder_that_the_code_keeps_in_the_state_is_the_workers() -> None:
    """Another one could not be made: it has to be named where the walls stand."""
    sources = [*(ROOT / "client/data").rglob("*.py"), *(ROOT / "client/training").rglob("*.py")]
    named = {
        name
        for source in sources
        for name in re.findall(r"\bstate / \"([^\"]+)\"", source.read_text(encoding="utf-8"))
    }
    assert named == set(KEPT_BY_THE_CODE)


def test_the_memory_of_a_group_is_counted() -> None:
    code = "x = bytearray(b'x' * 2**27); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert list(members(child.pid, "")) == [child.pid]
        assert 2**27 < resident_bytes(child.pid, "") < 2**28
        child.kill()
