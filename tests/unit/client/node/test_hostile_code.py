"""Approved code that turns on its site: each attack is run, on the executor and worker as built.

What it gets is in the app's own answer; what the centre gets is one word, what the site reads is in
its log.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from client.node.answers import AppError
from client.node.approval import ApprovedCode
from client.node.executor import Executor
from protocol.audit.log import AuditLog
from protocol.audit.verification import verify
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import pack_instruction

pytestmark = pytest.mark.usefixtures("flower_task")

PATIENCE_S = 60.0
PROTOCOL = StudyProtocol(organs={"prostate": 2, "bladder": 1}, seed=5)
HEAD = """
import json, os, signal, socket, struct, sys, threading, time
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
STATE = {state!r}

def frames():
    "The socket to the executor: the only one that is open."
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                return socket.socket(fileno=os.dup(int(name)))
        except OSError:
            pass

def attempt(action):
    try:
        return f"got {{action()!r}}"
    except BaseException as error:
        return type(error).__name__

def told(**found):
    raise LookupError(json.dumps(found))

"""


class Site:
    """A site whose centre has sent code that somebody approved without reading it."""

    def __init__(self, config: SiteConfig, log: pytest.LogCaptureFixture) -> None:
        self.config, self.log = config, log
        log.set_level("INFO")
        self.executor = Executor(config, "127.0.0.1:1", b"secret")
        AuditLog(config.audit_file).append("note", "before", peer="")
        config.key_file.write_text("the key", encoding="ascii")

    def answers(
        self, app: str, stop: Callable[[], bool] = lambda: False, kind: str = MessageType.QUERY
    ) -> Message:
        """What leaves in answer to an instruction, which this app gets."""
        source = HEAD.format(state=str(self.config.state)) + app
        files = {"client/__init__.py": b"", "client/app.py": source.encode()}
        message = Message(pack_instruction(PROTOCOL, run="tiny-1"), 17, kind)
        message.metadata.__dict__["_message_id"] = "instruction-1"
        context = Context(2, 17, {}, RecordDict(), {})
        code = ApprovedCode(str(hash(app)), files)
        return self.executor._run(code, message, context, stop)

    def word(self, app: str) -> str:
        """The one word that the centre gets."""
        reply = self.answers(app)
        assert not reply.has_content()
        return str(reply.error.reason)

    def found(self, app: str) -> dict[str, str]:
        """What the app could find out, by the site's log: the centre gets one word."""
        self.log.clear()
        assert self.word(app) == "LookupError"
        deadline = time.monotonic() + PATIENCE_S
        while not (lines := [m for m in self.log.messages if m.startswith("LookupError: ")]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        [line] = lines
        found: dict[str, str] = json.loads(line.removeprefix("LookupError: "))
        return found

    @property
    def pid(self) -> int:
        child = self.executor._worker._child
        assert child is not None
        return child._process.pid


@pytest.fixture
def site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Site]:
    (tmp_path / "data").mkdir()
    (tmp_path / "state").mkdir()
    config = SiteConfig(
        site="A",
        data=tmp_path / "data",
        cache=tmp_path / "cache",
        state=tmp_path / "state",
        centre="centre.example.org:9092",
    )
    site = Site(config, caplog)
    yield site
    site.executor.close()


def walls(site: Site) -> tuple[bool, int]:
    """Whether this machine lets the worker have no network, and its Landlock."""
    child = site.executor._worker._child
    assert child is not None
    return child.confined.namespace, child.confined.landlock


def await_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")


def test_an_answer_that_would_run_code_when_unpickled_is_no_answer(site: Site) -> None:
    """It is not even pickled: in the worker it is no message, and that is all that is told."""
    reply = site.answers(
        "class Evil:\n"
        "    def __reduce__(self):\n"
        "        return os.system, ('touch ' + STATE + '/owned',)\n"
        "def app(message, context):\n"
        "    return Evil()\n"
    )
    assert reply.error.reason == "OutgoingRefused"
    assert "the worker's answer was refused: the app returned a Evil" in site.log.text
    assert not (site.config.state / "owned").exists()
    [_, refused] = verify(site.config.audit_file).entries
    assert (refused.direction, refused.reason) == ("refused", "OutgoingRefused")


def test_a_pickle_in_place_of_a_frame_is_refused(site: Site) -> None:
    word = site.word(
        "import pickle\n"
        "class Evil:\n"
        "    def __reduce__(self):\n"
        "        return os.system, ('touch ' + STATE + '/owned',)\n"
        "def app(message, context):\n"
        "    frames().sendall(pickle.dumps(Evil()) + b'x' * 2**16)\n"
        "    time.sleep(600)\n"
    )
    assert word == "OutgoingRefused"
    assert not (site.config.state / "owned").exists()


FRAMES = {
    "5 GiB": ("struct.pack('>IQ', 2, 5 * 2**30) + b'{}'", "at most"),
    "a header of 4 GiB": ("struct.pack('>IQ', 2**32 - 1, 0) + b'{}'", "at most"),
    "deep JSON": ("struct.pack('>IQ', 10**6, 0) + b'[' * 10**6", "is not of the agreed form"),
    "no JSON": ("struct.pack('>IQ', 9, 0) + b'\\xff\\x00 \\x1b[2J~~'", "is not of the agreed form"),
    "another message's": (
        "(lambda h: struct.pack('>IQ', len(h), 0) + h)"
        "(json.dumps({'number': 7, 'outcome': 'answered'}).encode())",
        "answers message 7, was asked number 1",
    ),
    "an array that is not there": (
        "(lambda h: struct.pack('>IQ', len(h), 0) + h)"
        "(json.dumps({'number': 1, 'outcome': 'answered', 'records': [{'name': 'x', 'kind':"
        " 'arrays', 'arrays': [{'name': 'a', 'dtype': 'uint8', 'shape': [9], 'stype': 'n',"
        " 'size': 2**40}]}]}).encode())",
        "is not in its body",
    ),
    "half a UTF-16 pair": (
        "(lambda h: struct.pack('>IQ', len(h), 0) + h)"
        "(json.dumps({'number': 1, 'outcome': 'raised', 'reason': chr(0xd800)}).encode())",
        "is not of the agreed form",
    ),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_of_another_form_is_refused_and_its_process_ended(site: Site, frame: str) -> None:
    sent, reason = FRAMES[frame]
    word = site.word(
        f"def app(message, context):\n    frames().sendall({sent})\n    time.sleep(600)\n"
    )
    assert word == "OutgoingRefused"
    assert "the worker's answer was refused: " in site.log.text and reason in site.log.text
    assert "\x1b" not in site.log.text
    assert site.executor._worker._child is None


def test_more_than_was_sent_does_not_come_back(site: Site) -> None:
    """By the proper way: a facts reply has no bytes at all, a scan of 32 MB is refused unread."""
    word = site.word(
        "def app(message, context):\n"
        "    scan = Array('uint8', (2**25,), 'numpy.ndarray', bytes(2**25))\n"
        "    return Message(RecordDict({'scan': ArrayRecord({'a': scan})}), reply_to=message)\n"
    )
    assert word == "OutgoingRefused"
    assert "at most 1048576 and 0 may be" in site.log.text


def test_what_it_prints_is_text_of_the_log(site: Site) -> None:
    word = site.word(
        "def app(message, context):\n"
        "    os.write(1, b'\\x00\\x00\\x00\\x02' + b'\\x1b]0;owned\\x07\\x1b[2J[red]\\xff\\r\\n')\n"
        "    os.write(2, b'2026-01-01 root: all is well\\n')\n"
        "    for _ in range(100):\n"
        "        os.write(1, b'y' * 2**16)\n"
        "    raise KeyError\n"
    )
    assert word == "KeyError"
    assert r"\x00\x00\x00\x02\x1b]0;owned\x07\x1b[2J[red]" in site.log.text
    assert "\x1b" not in site.log.text
    assert "it prints too much; the rest is left out" in site.log.text
    assert len(site.log.text) < 2**22
    own = [record.name for record in site.log.records if "all is well" in record.getMessage()]
    assert own == ["client.node.worker"]


def test_it_has_no_network(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = site.found(
            "def app(message, context):\n"
            f"    tcp = lambda: socket.create_connection(('127.0.0.1', {port}), 5)\n"
            "    plain = socket.socket(type=socket.SOCK_DGRAM)\n"
            "    udp = lambda: plain.sendto(b'x', ('127.0.0.1', 9))\n"
            "    name = lambda: socket.getaddrinfo('example.org', 80)\n"
            "    told(tcp=attempt(tcp), udp=attempt(udp), name=attempt(name))\n"
        )
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    namespace, landlock = walls(site)
    if not namespace and landlock < 4:
        pytest.skip("this kernel has no walls")
    assert not found["tcp"].startswith("got")
    assert not namespace or not found["udp"].startswith("got")
    assert not found["name"].startswith("got")


def test_it_reaches_no_file_of_the_executor(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_TOKEN", "a secret of the service's")
    config, root = site.config, Path(__file__).parents[4]
    (config.bundles / "approved").mkdir(parents=True)
    found = site.found(
        f"LOG, KEY, ROOT = {str(config.audit_file)!r}, {str(config.key_file)!r}, {str(root)!r}\n"
        f"DATA = {str(config.data)!r}\n"
        "def app(message, context):\n"
        "    parent = os.getppid()\n"
        "    told(\n"
        "        log=attempt(lambda: open(LOG).read()),\n"
        "        append=attempt(lambda: open(LOG, 'a')),\n"
        "        cut=attempt(lambda: os.truncate(LOG, 0)),\n"
        "        move=attempt(lambda: os.rename(LOG, STATE + '/worker/x')),\n"
        "        delete=attempt(lambda: os.unlink(LOG)),\n"
        "        link=attempt(lambda: os.link(LOG, STATE + '/worker/x')),\n"
        "        key=attempt(lambda: open(KEY).read()),\n"
        "        secret=attempt(lambda: open(STATE + '/runtime.secret').read()),\n"
        "        approve=attempt(lambda: open(STATE + '/bundles/approved/x.fab', 'w')),\n"
        "        scan=attempt(lambda: open(DATA + '/new.nii', 'w')),\n"
        "        code=attempt(lambda: open(ROOT + '/evil.py', 'w')),\n"
        "        memory=attempt(lambda: open(f'/proc/{parent}/mem', 'rb+')),\n"
        "        files=attempt(lambda: open(f'/proc/{parent}/fd/0')),\n"
        "        token=attempt(lambda: os.environ['SITE_TOKEN']),\n"
        "        environment=attempt(lambda: open(f'/proc/{parent}/environ').read()),\n"
        "        own=attempt(lambda: open(STATE + '/optimisers/x', 'w').close()),\n"
        "        temporary=attempt(lambda: __import__('tempfile').TemporaryFile().close()),\n"
        "        core=attempt(lambda: __import__('resource').getrlimit(4)),\n"
        "    )\n"
    )
    if not walls(site)[1]:
        pytest.skip("this kernel has no Landlock")
    own = {name: found.pop(name) for name in ("own", "temporary", "core")}
    assert own == {"own": "got None", "temporary": "got None", "core": "got (0, 0)"}
    assert {name for name, what in found.items() if what.startswith("got")} == set(), found
    assert [entry.what for entry in verify(config.audit_file).entries] == ["before"]
    assert not (root / "evil.py").exists()


def test_a_child_that_flees_its_group_ends_with_the_worker(site: Site, tmp_path: Path) -> None:
    found = site.found(
        "def app(message, context):\n"
        "    out, into = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork():\n"
        "            os._exit(0)\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        os.write(into, str(os.getpid()).encode())\n"
        "        time.sleep(600)\n"
        "    told(child=os.read(out, 20).decode())\n"
    )
    child = int(found["child"])
    assert Path(f"/proc/{child}").exists()
    if not walls(site)[0]:
        pytest.skip("this kernel lets no namespace be made")
    site.executor.close()
    await_gone(child)


def test_a_worker_that_will_not_stop_is_ended(site: Site) -> None:
    begun = time.monotonic()
    told: list[float] = []
    pids: list[int] = []

    def stop() -> bool:
        if "deaf" in site.log.text and not told:
            told.append(time.monotonic())
            pids.append(site.pid)
        return bool(told) or time.monotonic() - begun > PATIENCE_S

    reply = site.answers(
        "def app(message, context):\n"
        "    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "    print('deaf')\n"
        "    frames().sendall(struct.pack('>IQ', 100, 0))\n"
        "    while True:\n"  # a byte now and then, so that something always comes
        "        time.sleep(.1)\n"
        "        frames().sendall(b' ')\n",
        stop,
    )
    assert reply.error.reason == "SiteStopped"
    assert time.monotonic() - told[0] < 5.0
    await_gone(pids[0])


def test_a_worker_that_is_gone_is_one_word(site: Site) -> None:
    assert site.word("def app(message, context):\n    os._exit(0)\n") == "ClientAppCrashed"
    assert site.word("def app(message, context):\n    os.kill(os.getpid(), 11)\n") == (
        "ClientAppCrashed"
    )
    assert "the worker ended with status -11; the next message gets a new one" in site.log.text


def test_its_context_stays_where_it_is(site: Site) -> None:
    context = Context(2, 17, {}, RecordDict(), {})
    files = {
        "client/__init__.py": b"",
        "client/app.py": b"def app(message, context):\n"
        b"    from flwr.app import ConfigRecord\n"
        b"    context.state['patient'] = ConfigRecord({'name': 'Doe^John'})\n"
        b"    raise KeyError\n",
    }
    message = Message(pack_instruction(PROTOCOL, run="tiny-1"), 17, MessageType.QUERY)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    with pytest.raises(AppError, match="KeyError"):
        site.executor._worker.answer(ApprovedCode("x", files), message, context, lambda: False)
    assert context.state == RecordDict()


def test_the_attacks_leave_nothing_behind(site: Site) -> None:
    site.word("def app(message, context):\n    os._exit(0)\n")
    assert site.executor._worker._child is None
    assert [name for name in os.listdir(site.config.state) if name == "owned"] == []
