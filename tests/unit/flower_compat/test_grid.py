"""A reply whose upload has stalled holds up no other, and not the deadline."""

import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.superlink.grid import http_grid

from flower_compat.grid import Heads, PromptGrid, UnreadableReplyError, ready, rest


class Uploads:
    """Pulling "slow" waits for its upload; others are there at once."""

    def __init__(self) -> None:
        self.uploaded = threading.Event()
        self.asked: list[str] = []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        (name,) = message_ids
        self.asked.append(name)
        if name == "slow":
            assert self.uploaded.wait(10)
        if name == "broken":
            raise ConnectionError("gone")
        if name == "torn":
            raise ValueError("Object of type Patient is not supported.")
        return [] if name == "not yet" else [f"reply to {name}"]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower_compat.grid._WAIT_S", 0.05)


def test_a_stalled_upload_holds_up_nobody() -> None:
    uploads = Uploads()
    grid = PromptGrid(uploads, 0)  # type: ignore[arg-type]
    assert list(grid.pull_messages(["slow", "a", "b"])) == ["reply to a", "reply to b"]
    assert list(grid.pull_messages(["slow"])) == []
    assert uploads.asked.count("slow") == 1, "it is being pulled already"
    uploads.uploaded.set()
    grid._pulls["slow"].result(5)
    assert list(grid.pull_messages(["slow"])) == ["reply to slow"]


def test_what_is_not_there_is_asked_for_again() -> None:
    uploads = Uploads()
    grid = PromptGrid(uploads, 0)  # type: ignore[arg-type]
    for _ in range(2):
        assert list(grid.pull_messages(["not yet"])) == []
    assert uploads.asked == ["not yet", "not yet"]
    assert list(grid.pull_messages([])) == []


def test_a_failure_is_raised_where_it_is_waited_for() -> None:
    grid = PromptGrid(Uploads(), 0)  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match="gone"):
        grid.pull_messages(["broken"])


def test_a_reply_that_flower_cannot_put_together_is_told_apart_from_a_lost_line() -> None:
    """Flower raises where it inflates what a site has sent: that is no reason to end the study."""
    grid = PromptGrid(Uploads(), 0)  # type: ignore[arg-type]
    with pytest.raises(UnreadableReplyError, match=r"^torn$"):
        grid.pull_messages(["torn"])
    assert list(grid.pull_messages(["a"])) == ["reply to a"]


def test_few_replies_are_on_their_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is in memory; one that has stalled for long does not keep the others out."""
    monkeypatch.setattr("flower_compat.grid._MAX_PULLS", 2)
    now = [1000.0]
    monkeypatch.setattr("flower_compat.grid.time.monotonic", lambda: now[0])
    uploads = Uploads()
    slow = {f"slow-{n}" for n in range(3)}

    def pull(message_ids: Iterable[str]) -> list[Any]:
        (name,) = message_ids
        uploads.asked.append(name)
        if name in slow:
            assert uploads.uploaded.wait(10)
        return [f"reply to {name}"]

    monkeypatch.setattr(uploads, "pull_messages", pull)
    grid = PromptGrid(uploads, 0)  # type: ignore[arg-type]
    assert list(grid.pull_messages([*slow, "z"])) == []
    assert sorted(uploads.asked) == ["slow-0", "slow-1"]
    assert list(grid.pull_messages(["z"])) == []
    now[0] += 30
    assert list(grid.pull_messages(["z"])) == ["reply to z"]
    uploads.uploaded.set()


def test_a_reply_is_of_the_node_that_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    """What is inside a message is its sender's: a site could name another as its source."""

    def reply(node: int, to: str) -> SimpleNamespace:
        metadata = SimpleNamespace(src_node_id=node, reply_to_message_id=to)
        return SimpleNamespace(metadata=metadata, has_error=lambda: False)

    there = {"one": reply(7, "one"), "two": reply(9, "two"), "three": reply(7, "one")}

    class Replies(Uploads):
        def push_messages(self, messages: list[Any]) -> list[str]:
            return list(there)

        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            return [there[name] for name in message_ids]

    grid = PromptGrid(Replies(), 0)  # type: ignore[arg-type]
    to_seven: Any = SimpleNamespace(metadata=SimpleNamespace(dst_node_id=7))
    assert list(grid.push_messages([to_seven] * 3)) == ["one", "two", "three"]
    (one,) = grid.pull_messages(["one"])
    assert one is there["one"]
    for name in ("two", "three"):
        with pytest.raises(UnreadableReplyError):
            grid.pull_messages([name])
    assert "it is of node 7, and says that it is of node 9" in caplog.text


# ---- one look for all replies -------------------------------------------------------------------


class RuntimeApi:
    """Has replies' heads, and gives each once."""

    def __init__(self) -> None:
        self.there: dict[str, Any] = {}
        self.looks: list[list[str]] = []

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        self.looks.append(list(request.message_ids))
        heads = [self.there.pop(name) for name in request.message_ids if name in self.there]
        return PullAppMessagesResponse(
            messages_list=heads, message_object_trees=[ObjectTree(object_id="x") for _ in heads]
        )

    def arrive(self, name: str) -> None:
        self.there[name] = ProtoMessage(metadata=Metadata(reply_to_message_id=name))


class HeadGrid(http_grid.HttpGrid):
    """Flower's, whose content needs no network; it takes what its client has the heads of."""

    def __init__(self, api: RuntimeApi) -> None:
        super().__init__(token="t")
        self._client = api  # type: ignore[assignment]
        self.content = threading.Event()
        self.content.set()
        self.in_memory = self.most_in_memory = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        request = PullAppMessagesRequest(message_ids=message_ids)
        found = self._runtime_client.PullMessages(request)
        self.in_memory += len(found.messages_list)
        self.most_in_memory = max(self.most_in_memory, self.in_memory)
        assert self.content.wait(10)
        return [f"reply to {head.metadata.reply_to_message_id}" for head in found.messages_list]


@pytest.fixture
def api() -> RuntimeApi:
    return RuntimeApi()


@pytest.fixture
def heads(api: RuntimeApi) -> HeadGrid:
    return HeadGrid(api)


def settled(grid: PromptGrid, names: list[str]) -> list[str]:
    """What is ready once its content has had the time to come."""
    for _ in range(200):
        if found := ready(grid, names):
            return found
        rest(grid, 0.05, time.sleep)
    return []


def test_one_request_asks_for_all_and_one_reply_is_taken_at_a_time(
    api: RuntimeApi, heads: HeadGrid
) -> None:
    grid, names = PromptGrid(heads, 0), ["a", "b", "c"]
    assert ready(grid, names) == []
    assert api.looks == [names]
    for name in names:
        api.arrive(name)
    taken = []
    while names:
        for name in settled(grid, names):
            taken += grid.pull_messages([name])
            heads.in_memory -= 1
            names.remove(name)
    assert sorted(taken) == ["reply to a", "reply to b", "reply to c"]
    assert heads.most_in_memory == 1
    assert len(api.looks) == 2, "whose head is here is not asked for again"


def test_a_slow_reply_is_no_reason_not_to_look_for_the_others(
    api: RuntimeApi, heads: HeadGrid
) -> None:
    grid = PromptGrid(heads, 0)
    heads.content.clear()
    api.arrive("slow")
    assert ready(grid, ["slow", "b"]) == []
    assert ready(grid, ["slow", "b"]) == []
    assert api.looks == [["b", "slow"], ["b"]]
    heads.content.set()
    assert settled(grid, ["slow", "b"]) == ["slow"]
    assert list(grid.pull_messages(["slow"])) == ["reply to slow"]


def test_a_rest_ends_when_a_reply_is_all_there(api: RuntimeApi, heads: HeadGrid) -> None:
    grid, slept = PromptGrid(heads, 0), [0.0]
    rest(grid, 7.0, slept.append)
    assert slept == [0.0, 7.0], "nothing is on its way"
    heads.content.clear()
    api.arrive("a")
    assert ready(grid, ["a"]) == []
    threading.Timer(0.1, heads.content.set).start()
    rest(grid, 60.0, slept.append)
    assert ready(grid, ["a"]) == ["a"] and slept == [0.0, 7.0]


def test_a_grid_that_cannot_tell_is_asked_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ready(PromptGrid(Uploads(), 0), ["a", "b"]) == ["a", "b"]  # type: ignore[arg-type]
    slept: list[float] = []
    assert ready(Uploads(), ["b", "a"]) == ["b", "a"]  # type: ignore[arg-type]
    rest(Uploads(), 3.0, slept.append)  # type: ignore[arg-type]
    assert slept == [3.0]


def test_what_is_no_question_for_messages_goes_to_flowers_client(api: RuntimeApi) -> None:
    client = Heads(api)
    assert client.looks is api.looks
