"""One message through the executor: which code may answer, what leaves, and what the log says."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict

import client.node.executor
import flower_compat.runtime
from client.node.answers import AnswerError, AppError
from client.node.approval import ApprovedCode, NotApprovedError
from client.node.executor import Executor
from client.node.guard.history import HistoryError
from client.node.guard.refusal import Refusal
from client.node.worker import SiteStopped, WorkerDied
from protocol.agreement.bundle import BundleError
from protocol.audit.log import AuditEntry, AuditError, AuditLog
from protocol.audit.verification import verify
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.description import describe
from protocol.wire.messages import pack_facts, pack_instruction, read_protocol
from protocol.wire.reports import SiteFacts

pytestmark = pytest.mark.usefixtures("flower_task")

PROTOCOL = StudyProtocol(organs={"prostate": 2, "bladder": 1}, seed=5)
FACTS = SiteFacts(labelled=8, unlabelled=5, validation=2, test=1)
CENTRE = "centre.example.org:9092"
DIGEST, INSTALLED = "d" * 64, "1" * 64
FAB = b"what the centre sent"
FILES = {"client/app.py": b"approved"}


def never() -> bool:
    return False


def instruction(number: int = 1, run: str = "tiny-1") -> Message:
    content = pack_instruction(PROTOCOL, run=run)
    message = Message(content, 17, MessageType.QUERY, group_id=str(number))
    message.metadata.__dict__["_message_id"] = f"instruction-{number}"
    return message


def answer(asked: Message) -> Message:
    return Message(pack_facts("A", FACTS, PROTOCOL), reply_to=asked)


class World:
    """The SuperNode, the approval and the worker, as the executor sees them."""

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self.tokens: list[str] = []
        self.inbox: dict[str, Message | Exception] = {}
        self.clients: list[Client] = []
        self.pushed: list[Message] = []
        self.outputs: list[tuple[Context, str, str]] = []
        self.asked: list[tuple[ApprovedCode, Message]] = []
        self.code: ApprovedCode | Exception = ApprovedCode(DIGEST, FILES)
        self.answer: Callable[[Message], Any] = answer
        self.worker_closed = 0
        self.approve: Callable[[Any], None] = lambda _: None
        self.admit: Callable[[Any, Message, str], None] = lambda *_: None
        self.seal: Callable[[Message], Message] = lambda reply: reply
        self.beaten = threading.Event()
        self.beat_fails = False
        self.gone: Exception | None = None

    def arrives(self, *messages: Message | Exception) -> None:
        for message in messages:
            token = f"token-{len(self.inbox)}"
            self.tokens.append(token)
            self.inbox[token] = message

    def serve(self, *messages: Message | Exception, stop: Callable[[], bool] = never) -> None:
        self.arrives(*messages)
        executor = Executor(self.config, "127.0.0.1:1", b"secret")
        executor.poll(stop)
        executor.close()

    @property
    def entries(self) -> tuple[AuditEntry, ...]:
        found = verify(self.config.audit_file)
        assert found.faults == ()
        return found.entries

    def reply(self) -> Message:
        """The one message that left, which the log names as it is."""
        [reply] = self.pushed
        assert len(self.outputs) == 1
        sent = [entry for entry in self.entries if entry.direction == "sent"]
        assert [(e.what, e.sha256, e.bytes, e.items) for e in sent] == [
            (d["what"], d["sha256"], d["bytes"], d["items"]) for d in map(describe, self.pushed)
        ]
        return reply


class Client:
    """Stands for Flower's RuntimeHttpClient."""

    def __init__(self, world: World, interceptors: list[Any]) -> None:
        self.world, self.closed = world, False
        tokens = [vars(each).get("_token") for each in interceptors]
        self.token = next((token for token in tokens if token), None)

    def AcquireTask(self, _: Any) -> SimpleNamespace:
        if self.world.gone:
            raise self.world.gone
        return SimpleNamespace(token=self.world.tokens.pop(0) if self.world.tokens else "")

    def SendTaskHeartbeat(self, _: Any) -> None:
        self.world.beaten.set()
        if self.world.beat_fails:
            raise httpx.ReadTimeout("busy")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    config = SiteConfig(
        site="A", data=tmp_path, cache=tmp_path, state=tmp_path / "state", centre=CENTRE
    )
    world = World(config)

    class RuntimeHttpClient:
        @staticmethod
        def from_server_address(**given: Any) -> Client:
            assert given["server_address"] == "127.0.0.1:1"
            world.clients.append(Client(world, given["interceptors"]))
            return world.clients[-1]

    class Worker:
        def __init__(self, given: SiteConfig) -> None:
            assert given == config

        def answer(
            self, code: ApprovedCode, message: Message, context: Context, stop: Any
        ) -> Message:
            assert context.run_id == 2
            # By then the log knows what came, and nothing has left.
            assert world.entries[-1].direction == "received"
            world.asked.append((code, message))
            reply: Message = world.answer(message)
            return reply

        def close(self) -> None:
            world.worker_closed += 1

    def pull(client: Client) -> tuple[Message, Context, None, SimpleNamespace]:
        assert client.token is not None
        found = world.inbox[client.token]
        if isinstance(found, Exception):
            raise found
        context = Context(2, 17, {}, RecordDict(), {})
        return found, context, None, SimpleNamespace(content=FAB)

    def push(client: Client, message: Message, context: Context) -> None:
        world.pushed.append(message)

    def push_output(client: Client, context: Context, status: str, details: str) -> None:
        world.outputs.append((context, status, details))

    def check(given: SiteConfig, fab: bytes, installed: str) -> ApprovedCode:
        assert (given, fab, installed) == (config, FAB, INSTALLED)
        if isinstance(world.code, Exception):
            raise world.code
        return world.code

    monkeypatch.setattr(flower_compat.runtime, "RuntimeHttpClient", RuntimeHttpClient)
    monkeypatch.setattr(client.node.executor, "Worker", Worker)
    monkeypatch.setattr(flower_compat.runtime, "pull_task_input", pull)
    monkeypatch.setattr(flower_compat.runtime, "push_message", push)
    monkeypatch.setattr(flower_compat.runtime, "push_task_output", push_output)
    monkeypatch.setattr(client.node.executor, "check_bundle", check)
    # What the guard lets pass has tests of its own (`guard/test_guard.py`).
    guard = SimpleNamespace(
        recognise=lambda message: SimpleNamespace(
            protocol=read_protocol(message.content), manifest=SimpleNamespace(asks="training")
        ),
        require_approval=lambda study: world.approve(study),
        admit=lambda *given: world.admit(*given),
        sealed=lambda study, reply, message, last: world.seal(reply),
    )
    monkeypatch.setattr(client.node.executor, "Guard", lambda *_: guard)
    monkeypatch.setattr(
        client.node.executor, "installed_bundle", lambda: SimpleNamespace(digest=INSTALLED)
    )
    monkeypatch.setattr(client.node.executor, "_LAST_WORD_S", 0.0)
    return world


def test_an_approved_answer_leaves_and_is_logged(world: World) -> None:
    asked = instruction(3)
    world.serve(asked)
    reply = world.reply()
    assert reply.content == answer(asked).content
    assert reply.metadata.reply_to_message_id == "instruction-3"
    assert world.asked == [(ApprovedCode(DIGEST, FILES), asked)]
    came, left = world.entries
    assert (came.direction, came.what, came.sha256) == (
        "received",
        "facts instruction",
        describe(asked)["sha256"],
    )
    assert (left.direction, left.what, left.reason) == ("sent", "facts reply", "")
    for entry in (came, left):
        assert (entry.peer, entry.run, entry.round) == (CENTRE, "tiny-1", 3)
    assert world.outputs[0][1:] == ("completed", "")
    assert world.outputs[0][0].state == RecordDict()
    assert all(each.closed for each in world.clients)
    assert world.worker_closed == 1
    assert world.config.protocol_file.read_text() == PROTOCOL.canonical_json()


def test_the_log_is_written_before_the_message_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(
        flower_compat.runtime,
        "push_message",
        lambda *_: seen.append([entry.direction for entry in world.entries]),
    )
    world.serve(instruction())
    assert seen == [["received", "sent"]]


def test_the_installed_version_may_answer(world: World) -> None:
    world.code = ApprovedCode(INSTALLED, FILES)
    world.serve(instruction())
    assert [code.digest for code, _ in world.asked] == [INSTALLED]
    assert not world.reply().has_error()


def test_what_is_not_approved_does_not_run(world: World) -> None:
    world.code = NotApprovedError(DIGEST, "A")
    world.serve(instruction())
    assert world.asked == []
    assert world.reply().error.reason == "NotApproved"
    came, refused, left = world.entries
    assert came.direction == "received"
    assert (refused.direction, refused.what, refused.sha256, refused.bytes, refused.run) == (
        "refused",
        "bundle",
        DIGEST,
        len(FAB),
        "tiny-1",
    )
    assert (left.what, left.reason) == ("facts error reply", "NotApproved")
    assert not world.config.protocol_file.exists()


def test_a_hostile_bundle_does_not_run(world: World) -> None:
    world.code = BundleError("app bundle: ../../etc/passwd: is not a normal relative path")
    world.serve(instruction())
    assert world.asked == []
    assert world.reply().error.reason == "NotApproved"
    assert [entry.direction for entry in world.entries] == ["received", "refused", "sent"]
    assert world.entries[1].sha256 == ""


def raises(error: BaseException) -> Callable[[Message], Message]:
    def fail(_: Message) -> Message:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkerDied("the worker ended with status -9"), "ClientAppCrashed"),
        (SiteStopped(), "SiteStopped"),
        (AppError("LookupError"), "LookupError"),
        (AppError("SystemExit"), "SystemExit"),
        (AppError("Doe^John.nii.gz"), "OtherError"),
        (OSError("/data/Doe^John.nii.gz"), "OSError"),  # no process can be started
    ],
)
def test_an_app_that_fails_is_one_word(world: World, error: BaseException, reason: str) -> None:
    world.answer = raises(error)
    world.serve(instruction())
    reply = world.reply()
    assert (reply.error.code, reply.error.reason) == (2, reason)
    assert [entry.direction for entry in world.entries] == ["received", "sent"]
    assert world.entries[1].reason == reason
    assert b"Doe" not in world.config.audit_file.read_bytes()


def test_an_answer_of_another_form_is_one_word(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.answer = raises(AnswerError("is of 5 bytes\x1b[2J for Doe^John"))
    world.serve(instruction())
    assert world.reply().error.reason == "OutgoingRefused"
    assert [entry.direction for entry in world.entries] == ["received", "refused", "sent"]
    assert r"the worker's answer was refused: is of 5 bytes\x1b[2J for Doe^John" in caplog.text
    assert b"Doe" not in world.config.audit_file.read_bytes()


def test_an_apps_own_error_is_one_word(world: World) -> None:
    world.answer = lambda asked: Message(Error(9, "no Doe^John.nii.gz"), reply_to=asked)
    world.serve(instruction())
    assert world.reply().error.reason == "OtherError"
    assert b"Doe" not in world.config.audit_file.read_bytes()


def test_a_reply_that_is_not_agreed_is_refused_and_logged(world: World) -> None:
    def too_much(asked: Message) -> Message:
        reply = answer(asked)
        reply.content["extra"] = ConfigRecord({"patient": "Doe^John"})
        return reply

    world.answer = too_much
    asked = instruction()
    world.serve(asked)
    reply = world.reply()
    assert reply.error.reason == "OutgoingRefused"
    assert not reply.has_content()
    came, refused, left = world.entries
    assert came.direction == "received"
    assert (refused.direction, refused.what) == ("refused", "facts reply")
    assert refused.sha256 == describe(too_much(asked))["sha256"]
    assert left.reason == "OutgoingRefused"
    assert b"Doe" not in world.config.audit_file.read_bytes()


@pytest.mark.parametrize("thing", [None, 7, "Doe^John"])
def test_what_is_no_message_is_answered_and_logged(world: World, thing: Any) -> None:
    world.answer = lambda _: thing
    world.serve(instruction())
    assert world.reply().error.reason == "OutgoingRefused"
    assert [e.direction for e in world.entries] == ["received", "refused", "sent"]
    assert b"Doe" not in world.config.audit_file.read_bytes()


def test_an_instruction_without_a_study_is_refused(world: World) -> None:
    asked = instruction()
    del asked.content["study"]
    world.serve(asked)
    assert world.asked == []
    assert world.reply().error.reason == "MessageError"
    assert [entry.run for entry in world.entries] == ["", ""]


def test_a_run_that_is_a_path_is_not_logged_as_one(world: World) -> None:
    world.serve(instruction(run="../../x"))
    assert {entry.run for entry in world.entries} == {""}


def failing_log(monkeypatch: pytest.MonkeyPatch, *directions: str) -> None:
    append = AuditLog.append

    def fail(log: AuditLog, direction: Any, *given: Any, **more: Any) -> AuditEntry:
        if direction in directions:
            raise AuditError("/state/audit.jsonl: the disk is full")
        return append(log, direction, *given, **more)

    monkeypatch.setattr(AuditLog, "append", fail)


@pytest.mark.parametrize("code", [ApprovedCode(DIGEST, FILES), NotApprovedError(DIGEST, "A")])
@pytest.mark.parametrize("directions", [("received", "sent"), ("sent",), ("refused", "sent")])
def test_without_a_log_no_content_leaves(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    code: ApprovedCode | Exception,
    directions: tuple[str, ...],
) -> None:
    world.code = code
    failing_log(monkeypatch, *directions)
    world.serve(instruction())
    [reply] = world.pushed
    assert reply.error.reason == "AuditError"
    assert not reply.has_content()
    if "received" in directions:
        assert world.asked == []
        assert world.entries == ()
    assert len(world.outputs) == 1


def test_a_refusal_that_cannot_be_logged_is_no_other_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.answer = lambda asked: Message(RecordDict(), reply_to=asked)
    failing_log(monkeypatch, "refused")
    world.serve(instruction())
    [reply] = world.pushed
    assert reply.error.reason == "AuditError"


def test_a_bundle_that_cannot_be_kept_is_one_word(world: World) -> None:
    world.code = PermissionError(13, "denied", "/state/bundles/Doe")
    world.serve(instruction())
    assert world.asked == []
    assert [reply.error.reason for reply in world.pushed] == ["OSError"]


def test_that_a_bundle_could_not_be_kept_is_logged(world: World) -> None:
    world.code = PermissionError(13, "denied", "/state/bundles")
    world.serve(instruction())
    assert [entry.direction for entry in world.entries] == ["received", "sent"]
    assert world.reply().error.reason == world.entries[1].reason == "OSError"


def test_an_app_that_exits_does_not_end_the_site(world: World) -> None:
    answers = iter([raises(AppError("SystemExit")), answer])
    world.answer = lambda asked: next(answers)(asked)
    world.serve(instruction(1), instruction(2))
    assert [reply.has_error() for reply in world.pushed] == [True, False]


def test_a_message_that_cannot_be_taken_does_not_end_it(world: World) -> None:
    world.serve(RuntimeError("no messages"), httpx.ReadTimeout("gone"), instruction(3))
    assert world.reply().metadata.reply_to_message_id == "instruction-3"


def test_an_answer_that_cannot_be_pushed_does_not_end_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push(_: Client, message: Message, __: Context) -> None:
        world.pushed.append(message)
        if len(world.pushed) == 1:
            raise httpx.ConnectError("the SuperNode ended")

    monkeypatch.setattr(flower_compat.runtime, "push_message", push)
    world.serve(instruction(1), instruction(2))
    assert [reply.metadata.group_id for reply in world.pushed] == ["1", "2"]
    assert len(world.outputs) == 1


def test_a_message_that_cannot_be_taken_leaves_no_open_client(world: World) -> None:
    world.serve(RuntimeError("no messages"))
    assert len(world.clients) == 2
    assert all(each.closed for each in world.clients)


def test_several_messages_are_answered_in_turn(world: World) -> None:
    world.serve(instruction(1), instruction(2), instruction(3))
    assert [reply.metadata.group_id for reply in world.pushed] == ["1", "2", "3"]
    assert [entry.direction for entry in world.entries] == ["received", "sent"] * 3
    assert world.tokens == []


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("nobody is there"),
        httpx.ReadTimeout("busy"),
        ValueError("what came back is no answer of a SuperNode"),
    ],
)
def test_a_supernode_that_does_not_answer_is_none(world: World, error: Exception) -> None:
    world.gone = error
    world.arrives(instruction())
    executor = Executor(world.config, "127.0.0.1:1", b"secret")
    executor.poll(never)
    assert world.pushed == []
    assert len(world.tokens) == 1
    world.gone = None  # it is there again
    executor.poll(never)
    assert not world.reply().has_error()
    executor.close()


def test_a_defect_of_taking_is_not_passed_over(world: World) -> None:
    world.gone = AttributeError("a defect")
    with pytest.raises(AttributeError, match="a defect"):
        world.serve(instruction())


def test_after_a_stop_nothing_more_is_taken(world: World) -> None:
    world.serve(instruction(1), instruction(2), stop=lambda: bool(world.pushed))
    assert len(world.pushed) == 1
    assert len(world.tokens) == 1
    world.pushed.clear()
    world.serve(stop=lambda: True)
    assert world.pushed == []


@pytest.mark.parametrize("fails", [False, True])
def test_the_supernode_hears_that_somebody_is_at_it(
    world: World, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(flower_compat.runtime, "_HEARTBEAT_S", 0.001)
    world.beat_fails = fails
    before = threading.active_count()

    def slow(asked: Message) -> Message:
        assert world.beaten.wait(10.0)
        world.beaten.clear()
        assert world.beaten.wait(10.0)  # a failed beat is followed by another
        return answer(asked)

    world.answer = slow
    world.serve(instruction())
    assert not world.reply().has_error()
    assert threading.active_count() == before


def test_a_message_that_the_supernode_withdrew_does_not_hold_up_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content never comes: the centre's run ended while it was on its way."""
    never_comes = threading.Event()
    pull = flower_compat.runtime.pull_task_input

    def stuck(taken: Any) -> Any:
        if taken.token == "token-0":
            never_comes.wait(10)
        return pull(taken)

    monkeypatch.setattr(flower_compat.runtime, "pull_task_input", stuck)
    monkeypatch.setattr(client.node.executor, "_POLL_S", 0.01)
    world.serve(instruction(1), instruction(2))
    never_comes.set()
    [reply] = world.pushed
    assert reply.metadata.reply_to_message_id == "instruction-2"
    assert [words for _, _, words in world.outputs] == ["withdrawn", ""]
    assert [entry.round for entry in world.entries] == [2, 2]


# ---- the guard ----------------------------------------------------------------------------------


def test_what_the_guard_refuses_is_neither_stored_nor_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise Refusal("WrongRound", "round 1: is over; ask the centre")

    world.admit = refuse
    world.serve(instruction())
    assert world.asked == []
    assert world.reply().error.reason == "WrongRound"
    assert not world.config.protocol_file.exists()
    came, refused, left = world.entries
    assert (refused.direction, refused.what, refused.reason) == (
        "refused",
        "facts instruction",
        "WrongRound",
    )
    assert refused.sha256 == came.sha256
    assert left.reason == "WrongRound"
    assert "refused (WrongRound): round 1: is over; ask the centre" in caplog.text


def test_code_waits_for_the_same_person_as_a_study_that_is_not_approved(world: World) -> None:
    checked: list[str] = []

    def unapproved(_: Any) -> None:
        checked.append("study")
        raise Refusal("StudyNotApproved", "not approved")

    world.approve = unapproved
    world.code = NotApprovedError(DIGEST, "A")
    world.serve(instruction())
    assert (checked, world.reply().error.reason) == (["study"], "NotApproved")
    world.pushed.clear()
    world.outputs.clear()
    world.code = ApprovedCode(DIGEST, FILES)
    world.serve(instruction())
    assert [reply.error.reason for reply in world.pushed] == ["StudyNotApproved"]
    assert world.asked == []


@pytest.mark.parametrize("error", [OSError("disk full"), HistoryError("damaged")])
def test_an_answer_that_cannot_be_remembered_does_not_leave(world: World, error: Exception) -> None:
    world.seal = raises(error)
    world.serve(instruction())
    assert len(world.asked) == 1
    reply = world.reply()
    assert not reply.has_content()
    assert reply.error.reason == type(error).__name__


def test_an_instruction_without_a_manifest_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.node.guard.guard import Guard

    monkeypatch.setattr(client.node.executor, "Guard", Guard)
    world.serve(instruction())
    assert world.asked == []
    assert world.reply().error.reason == "NotSigned"
