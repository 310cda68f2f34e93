"""The process that runs the code: which code, how it ends, and what it leaves behind."""

import importlib.util
import logging
import os
import py_compile
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from client.node.answers import AppError
from client.node.approval import ApprovedCode
from client.node.worker import SiteStopped, Worker, WorkerDied
from protocol.agreement.bundle import installed_bundle
from protocol.config.site import SiteConfig

pytestmark = pytest.mark.usefixtures("flower_task")

# What a test waits for at most; all of it takes a second or two.
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[4]

APP = """
import os, sys, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
import protocol
from protocol.version import VERSION

def app(message, context):
    told = message.content["told"]
    if told["do"] == "die":
        os._exit(9)
    if told["do"] == "raise":
        raise LookupError("in the app")
    if told["do"] == "exit":
        sys.exit("patient Doe")
    if told["do"] == "sleep":
        print("asleep", flush=True)
        time.sleep(600)
    found = ConfigRecord({
        "file": __file__,
        "protocol": protocol.__file__,
        "version": VERSION,
        "pid": os.getpid(),
        "run": context.run_id,
        "task": TaskIdentity.task_id,
    })
    return Message(RecordDict({"found": found}), reply_to=message)
"""


def bundle(version: str, **more: str) -> ApprovedCode:
    files = {
        "client/__init__.py": "",
        "client/app.py": APP,
        "protocol/__init__.py": "",
        "protocol/version.py": f"VERSION = {version!r}\n",
    }
    return ApprovedCode(version, {path: text.encode() for path, text in (files | more).items()})


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    (tmp_path / "data").mkdir()
    return SiteConfig(
        site="A", data=tmp_path / "data", cache=tmp_path / "cache", state=tmp_path / "state"
    )


@pytest.fixture
def worker(config: SiteConfig) -> Iterator[Worker]:
    worker = Worker(config)
    yield worker
    worker.close()


def await_end(pid: int) -> None:
    """No process has this number, or a zombie that its parent has not waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            status = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if status == b"Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")


def instruction(do: str = "tell") -> Message:
    message = Message(RecordDict({"told": ConfigRecord({"do": do})}), 17, MessageType.QUERY)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    return message


def context() -> Context:
    return Context(run_id=2, node_id=17, node_config={}, state=RecordDict(), run_config={})


def soon() -> Callable[[], bool]:
    deadline = time.monotonic() + PATIENCE_S
    return lambda: time.monotonic() > deadline


def ask(worker: Worker, code: ApprovedCode, do: str = "tell") -> dict[str, object]:
    reply = worker.answer(code, instruction(do), context(), soon())
    assert reply.metadata.reply_to_message_id == "instruction-1"
    return dict(reply.content["found"])


def pid_of(found: dict[str, object]) -> int:
    return int(str(found["pid"]))


def test_what_was_approved_runs_and_leaves_no_file(worker: Worker, tmp_path: Path) -> None:
    found = ask(worker, bundle("first"))
    before = sorted(tmp_path.rglob("*"))
    assert found["file"] == "bundle:first/client/app.py"
    assert found["protocol"] == "bundle:first/protocol/__init__.py"
    assert found["version"] == "first"
    assert (found["run"], found["task"]) == (2, 3)
    assert found["pid"] != os.getpid()
    assert ask(worker, bundle("first"))["pid"] == found["pid"]  # it stays warm
    other = ask(worker, bundle("second"))
    assert (other["file"], other["version"]) == ("bundle:second/client/app.py", "second")
    assert other["pid"] != found["pid"]
    await_end(pid_of(found))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_installed_version_runs_from_its_bundle(worker: Worker) -> None:
    installed = installed_bundle()
    code = ApprovedCode(installed.digest, installed.files)
    reply = worker.answer(code, instruction(), context(), soon())
    # Of client.app: this context names no site's file.
    assert reply.error.reason == "KeyError"


def test_a_module_that_is_not_in_the_bundle_is_not_found_elsewhere(worker: Worker) -> None:
    code = bundle("1", **{"client/app.py": "import client.node.egress\n" + APP})
    with pytest.raises(AppError, match="ModuleNotFoundError"):
        ask(worker, code)


@pytest.mark.parametrize("shadow", ["client/app.py", "protocol/version.py", "json.py", "flwr.py"])
def test_a_folder_on_pythonpath_gives_no_module(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shadow: str
) -> None:
    evil = tmp_path / "evil" / shadow
    evil.parent.mkdir(parents=True)
    (evil.parent / "__init__.py").touch()
    evil.write_text("raise RuntimeError('shadowed')\n")
    (tmp_path / "evil" / "sitecustomize.py").write_text("raise SystemExit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "evil"))
    monkeypatch.setenv("PYTHONSTARTUP", str(evil))
    monkeypatch.chdir(tmp_path / "evil")
    assert ask(worker, bundle("1"))["version"] == "1"


def test_byte_code_beside_the_source_is_not_read(worker: Worker, tmp_path: Path) -> None:
    """Byte code with the time and size of a source in our checkout: Python would take it."""
    evil = tmp_path / "evil.py"
    source = ROOT / "client" / "node" / "frames.py"
    evil.write_text("raise RuntimeError('stale')\n")
    cached = Path(importlib.util.cache_from_source(str(source)))
    kept = cached.read_bytes() if cached.exists() else None
    try:
        py_compile.compile(str(evil), str(cached), doraise=True)
        facts = source.stat()
        content = bytearray(cached.read_bytes())
        content[8:12] = int(facts.st_mtime).to_bytes(4, "little")
        content[12:16] = facts.st_size.to_bytes(4, "little")
        cached.write_bytes(content)
        line = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import client.node.frames"
        naive = subprocess.run(
            [sys.executable, "-c", line], check=False, capture_output=True, text=True
        )
        assert "stale" in naive.stderr  # so it does, where nothing is done about it
        assert ask(worker, bundle("1"))["version"] == "1"
    finally:
        cached.unlink()
        if kept is not None:
            cached.write_bytes(kept)


def test_a_process_that_dies_is_followed_by_another(worker: Worker) -> None:
    with pytest.raises(WorkerDied, match="status 9"):
        ask(worker, bundle("1"), "die")
    assert ask(worker, bundle("1"))["version"] == "1"


@pytest.mark.parametrize(("do", "name"), [("raise", "LookupError"), ("exit", "SystemExit")])
def test_an_exception_of_the_app_is_its_name(
    worker: Worker, caplog: pytest.LogCaptureFixture, do: str, name: str
) -> None:
    caplog.set_level(logging.INFO)
    pid = ask(worker, bundle("1"))["pid"]
    with pytest.raises(AppError) as caught:
        ask(worker, bundle("1"), do)
    assert str(caught.value) == name
    assert ask(worker, bundle("1"))["pid"] == pid
    # The site's own log has the rest, through a thread that reads what the process prints.
    end = time.monotonic() + 60
    while f"{name}: " not in caplog.text and time.monotonic() < end:
        time.sleep(0.05)
    assert f"{name}: " in caplog.text


def test_a_stop_in_the_middle_of_a_message_ends_the_process(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pid = pid_of(ask(worker, bundle("1")))
    told: list[float] = []

    def stop() -> bool:
        if "asleep" in caplog.text and not told:
            told.append(time.monotonic())
        return bool(told)

    with pytest.raises(SiteStopped):
        worker.answer(bundle("1"), instruction("sleep"), context(), stop)
    assert time.monotonic() - told[0] < 1.0
    await_end(pid)


def test_what_is_closed_twice_stays_closed(config: SiteConfig) -> None:
    worker = Worker(config)
    worker.close()
    pid = pid_of(ask(worker, bundle("1")))
    worker.close()
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


SITE = """
import sys
from flwr.supercore.task_identity import TaskIdentity
from pathlib import Path
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 3, 2, 1
from client.node.worker import Worker
from protocol.config.site import SiteConfig
import test_worker
state = Path(sys.argv[1])
config = SiteConfig(site="A", data=state, cache=state / "cache", state=state / "state")
worker = Worker(config)
print(test_worker.ask(worker, test_worker.bundle("1"))["pid"], flush=True)
if sys.argv[2] == "busy":
    test_worker.ask(worker, test_worker.bundle("1"), "sleep")
sys.stdin.read()
"""


@pytest.mark.parametrize("doing", ["idle", "busy"])
def test_no_orphan_is_left_of_a_site_that_was_killed(tmp_path: Path, doing: str) -> None:
    folders = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    with subprocess.Popen(
        [sys.executable, "-c", SITE, str(tmp_path), doing],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folders},
    ) as site:
        assert site.stdout is not None
        pid = int(site.stdout.readline())
        if doing == "busy":
            time.sleep(0.5)
        site.send_signal(signal.SIGKILL)
        await_end(pid)
