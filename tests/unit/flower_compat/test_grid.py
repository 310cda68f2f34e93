"""A reply whose upload has stalled holds up no other, and not the deadline."""

import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from flower_compat.grid import PromptGrid, UnreadableReplyError


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
