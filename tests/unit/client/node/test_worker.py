"""The process that runs the code: which code, how it ends, and what it leaves behind."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from client.node.worker import SiteStopped, Worker

pytestmark = pytest.mark.usefixtures("flower_task")

# What a test waits for at most; all of it takes a second or two.
PATIENCE_S = 60.0

APP = """
import os, sys, time
from pathlib import Path
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
    if told["do"] == "sleep":
        Path(told["sign"]).touch()
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


def write_bundle(folder: Path, version: str) -> Path:
    for room in ("client", "protocol"):
        (folder / room).mkdir(parents=True)
        (folder / room / "__init__.py").touch()
    (folder / "client" / "app.py").write_text(APP)
    (folder / "protocol" / "version.py").write_text(f"VERSION = {version!r}\n")
    return folder


def await_no_children() -> None:
    """All children have ended and were waited for.

    `join` may return a moment early: the pool's own thread waits for the same child, and whoever
    comes second is told that there is none before the first has noted its end.
    """
    deadline = time.monotonic() + PATIENCE_S
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert multiprocessing.active_children() == []


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()
    await_no_children()


@pytest.fixture(autouse=True)
def byte_code_is_not_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test of __pycache__ could not fail: a child inherits -B."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.setattr("multiprocessing.util._args_from_interpreter_flags", list)


def instruction(do: str = "tell", sign: Path | None = None) -> Message:
    told = ConfigRecord({"do": do, "sign": str(sign)})
    message = Message(RecordDict({"told": told}), 17, MessageType.QUERY)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    return message


def context() -> Context:
    return Context(run_id=2, node_id=17, node_config={}, state=RecordDict(), run_config={})


def ask(worker: Worker, code: Path | None, do: str = "tell") -> dict[str, object]:
    deadline = time.monotonic() + PATIENCE_S
    message = instruction(do)
    reply = worker.answer(code, message, context(), lambda: time.monotonic() > deadline)
    assert reply.metadata.reply_to_message_id == "instruction-1"
    return dict(reply.content["found"])


def test_the_code_of_the_folder_runs_and_leaves_no_byte_code(
    worker: Worker, tmp_path: Path
) -> None:
    first, second = (write_bundle(tmp_path / name, name) for name in ("first", "second"))
    before = sorted(path for path in tmp_path.rglob("*"))
    found = ask(worker, first)
    assert found["file"] == str(first / "client" / "app.py")
    assert found["protocol"] == str(first / "protocol" / "__init__.py")
    assert found["version"] == "first"
    assert (found["run"], found["task"]) == (2, 3)
    assert found["pid"] != os.getpid()
    assert ask(worker, first)["pid"] == found["pid"]  # it stays warm
    children = multiprocessing.active_children()
    other = ask(worker, second)
    assert (other["file"], other["version"]) == (str(second / "client" / "app.py"), "second")
    assert other["pid"] != found["pid"]
    [old] = [child for child in children if child.pid == found["pid"]]
    deadline = time.monotonic() + PATIENCE_S
    while old.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not old.is_alive()
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_without_a_folder_the_installed_version_runs(worker: Worker) -> None:
    reply = worker.answer(None, instruction(), context(), lambda: False)
    # Of client.app: this context names no site's file.
    assert reply.error.reason == "KeyError"


def test_a_process_that_dies_is_followed_by_another(worker: Worker, tmp_path: Path) -> None:
    code = write_bundle(tmp_path / "code", "1")
    with pytest.raises(BrokenProcessPool):
        ask(worker, code, "die")
    assert ask(worker, code)["version"] == "1"


def test_an_exception_of_the_app_is_raised_here(worker: Worker, tmp_path: Path) -> None:
    code = write_bundle(tmp_path / "code", "1")
    with pytest.raises(LookupError, match="in the app"):
        ask(worker, code, "raise")
    assert ask(worker, code)["version"] == "1"


def test_a_stop_in_the_middle_of_a_message_ends_the_process(worker: Worker, tmp_path: Path) -> None:
    code, sign = write_bundle(tmp_path / "code", "1"), tmp_path / "asleep"
    told: list[float] = []
    children: list[multiprocessing.process.BaseProcess] = []

    def stop() -> bool:
        if sign.exists() and not told:
            told.append(time.monotonic())
            children.extend(multiprocessing.active_children())
        return bool(told)

    with pytest.raises(SiteStopped):
        worker.answer(code, instruction("sleep", sign), context(), stop)
    assert time.monotonic() - told[0] < 1.0
    assert len(children) == 1
    await_no_children()


def test_what_is_closed_twice_stays_closed(tmp_path: Path) -> None:
    worker = Worker()
    worker.close()
    code = write_bundle(tmp_path / "code", "1")
    pid = ask(worker, code)["pid"]
    worker.close()
    worker.close()
    await_no_children()
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(pid)), 0)
