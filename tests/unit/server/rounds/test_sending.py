"""Instructions go out together: hashed once, logged each, asked anew where one was not taken."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from memory_grid import Answer, Clock, MemoryGrid, Site, Witness

from protocol.audit.log import AuditLog
from protocol.audit.verification import verify
from protocol.config.study import StudyProtocol
from server.rounds import channel as channel_module
from server.rounds.channel import Channel, Exchange

pytestmark = pytest.mark.usefixtures("flower_task")


class Pushes(MemoryGrid):
    """Notes what is pushed together; takes nothing for the nodes that are `put_out`."""

    def __init__(self, sites: Iterable[Site]) -> None:
        super().__init__(sites)
        self.together: list[int] = []
        self.put_out: set[int] = set()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self.together.append(len(sent))
        out = {m.metadata.dst_node_id for m in sent} & self.put_out
        taken = iter(super().push_messages(m for m in sent if m.metadata.dst_node_id not in out))
        return ["" if m.metadata.dst_node_id in out else next(taken) for m in sent]


class Short(Site):
    """Answers with its name."""

    def answer(self, message: Message) -> Answer:
        return RecordDict({"site": ConfigRecord({"name": self.name})})


def sites(count: int) -> list[Site]:
    names = [f"S{number}" for number in range(count)]
    return [Short(name, StudyProtocol(), registered_as=name) for name in names]


def channel_over(grid: MemoryGrid, log: Path | None = None, absence_s: float = 60) -> Channel:
    audit = None if log is None else AuditLog(log)
    return Channel(
        grid=grid, run="r", timeout_s=600, absence_s=absence_s, audit=audit, watcher=Witness()
    )


def ask(channel: Channel, contents: Sequence[RecordDict]) -> dict[str, str]:
    nodes = sorted(channel.roster.online())
    given = dict(zip(nodes, contents, strict=True))
    return Exchange(channel, 3, MessageType.TRAIN, lambda reply: None).request(given)


def content(text: str = "same") -> RecordDict:
    return RecordDict({"study": ConfigRecord({"protocol": text})})


def test_what_all_are_sent_is_hashed_once_and_logged_for_each(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[RecordDict] = []
    plain = channel_module.describe

    def describe(message: Message):  # type: ignore[no-untyped-def]
        if not message.metadata.reply_to_message_id:
            hashed.append(message.content)
        return plain(message)

    monkeypatch.setattr(channel_module, "describe", describe)
    grid = Pushes(sites(4))
    same, other = content(), content("of one site")
    assert ask(channel_over(grid, tmp_path / "log"), [same, other, same, same]) == {}
    assert hashed == [same, other]
    assert grid.together == [4]
    sent = [e for e in verify(tmp_path / "log").entries if e.direction == "sent"]
    assert [entry.peer for entry in sent] == ["S0", "S1", "S2", "S3"]
    assert [entry.sha256 == sent[0].sha256 for entry in sent] == [True, False, True, True]


def test_many_sites_are_sent_theirs_in_several_requests(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_BATCH", 3)
    grid = Pushes(sites(7))
    assert ask(channel_over(grid), [content()] * 7) == {}
    assert grid.together == [3, 3, 1]


def test_a_node_that_is_put_out_is_asked_again_and_given_up(clock: Clock) -> None:
    grid = Pushes(sites(3))
    grid.put_out = {101}
    channel = channel_over(grid, absence_s=30)
    clock.after(10, lambda: setattr(grid.sites[101], "state", "offline"))
    failures = ask(channel, [content()] * 3)
    assert failures == {"node 101": "offline for over 30 s"}
    assert [node for node, _ in grid.pushed] == [100, 102]
    grid.put_out, grid.sites[101].state = set(), "online"
    assert ask(channel, [content()] * 3) == {}
