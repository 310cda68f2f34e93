"""What a hostile site writes, as far as it gets: record, events, follower, terminal, audit log."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from memory_grid import RUN, MemoryGrid, Site, Spoil
from rich.console import Console

from flower_compat.grid import UnreadableReplyError
from protocol.audit.log import AuditLog
from protocol.audit.verification import verify
from protocol.config.study import StudyProtocol
from protocol.wire.messages import SEGMENTER, SITE
from server.monitoring.follow import follow
from server.monitoring.progress import TerminalWatcher
from server.monitoring.run_folder import EventWriter, RunFacts, RunFolder
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watchers

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")

EVIL = (
    "\x1b[2J\x1b]0;owned\x07[bold red]done[/] [/nothing] :boom: <script>x</script>\r\nround 9\u202e"
)


def fails(text: str) -> Spoil:
    return lambda *_: Error(2, text)


def strange_type(_: Message, content: RecordDict) -> RecordDict:
    """A type whose fields have names: the refusal quotes them."""
    array = np.zeros(3, dtype=[(f"{EVIL}{n}", "u1") for n in range(50)])
    content[SEGMENTER] = ArrayRecord(array_dict={"safetensors": Array(array)})
    return content


def names_itself(_: Message, content: RecordDict) -> RecordDict:
    content[SITE] = ConfigRecord({"name": EVIL})
    return content


def other_kind(message: Message, _: RecordDict) -> Any:
    message.metadata.__dict__["_message_type"] = "train.x" + "y" * 10**6
    return Error(2, "ValueError")


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "10 MB": (fails(EVIL * 2**17), "OtherError"),
    "control characters": (fails(EVIL), "OtherError"),
    "a word with markup": (fails("ValueError[/]"), "OtherError"),
    "type": (strange_type, "segmenter: must be bytes, not [("),
    "name": (names_itself, "record 'site' has no name that a site can have"),
    "kind of message": (other_kind, "ValueError"),
}


def run(
    tmp_path: Path, protocol: StudyProtocol, sites: list[Site], grid: MemoryGrid | None = None
) -> tuple[StudyRecord, RunFolder, str]:
    """The record, the run's folder, and what a terminal was sent."""
    folder = RunFolder(tmp_path / "one")
    folder.create(RunFacts(name="one", mlflow_uri=""), protocol)
    record = new_record(protocol, run=RUN)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=400)
    watchers = Watchers([EventWriter(folder), TerminalWatcher(console)])
    audit = AuditLog(tmp_path / "audit.jsonl")
    run_study(grid or MemoryGrid(sites), record, watchers, expected_sites=3, audit=audit)
    folder.add_event("finished", reason="")
    return record, folder, screen.getvalue()


def harmless(text: str) -> None:
    assert "owned\x07" not in text and "\x1b]" not in text and "\x1b[2J" not in text
    assert "\u202e" not in text and "\nround 9" not in text
    assert "\x1b[1;31m" not in text  # [bold red]
    assert len(text) < 50_000


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_screen_obeys_what_a_site_writes(
    make_protocol: MakeProtocol,
    tmp_path: Path,
    hostile: str,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil, told = HOSTILE[hostile]
    if hostile == "type" and kind != "train":
        told = "1 records are not on the allow-list"
    protocol = make_protocol(training={"rounds": 2})
    sites = [Site(name, protocol) for name in "ABC"]
    sites[2].spoil[kind] = spoil
    record, folder, screen = run(tmp_path, protocol, sites)
    assert len(record.rounds) == 2
    for finished in record.rounds:
        assert all(told in why and len(why) < 600 for why in finished.left_out.values())
        assert ("C" in finished.left_out) is (kind == "train")
        assert ("C" in (finished.evaluation or {})) is (kind == "train")
    followed = io.StringIO()
    console = Console(file=followed, force_terminal=True, width=400)
    assert follow(folder, console) == ("finished", "")
    for text in (screen, followed.getvalue(), caplog.text):
        harmless(text)
    if kind != "evaluate":
        assert told in followed.getvalue()
    for line in folder.events.read_text().splitlines():
        assert len(line) < 2000 and json.loads(line)
    log = verify(tmp_path / "audit.jsonl")
    assert log.faults == ()
    assert all(len(entry.reason) < 600 and entry.reason.isprintable() for entry in log.entries)
    assert {entry.what for entry in log.entries if entry.reason} <= {
        f"{name} {end}"
        for name in ("facts", "train", "evaluate", "unknown")
        for end in ("reply", "error reply")
    }


class Torn(MemoryGrid):
    """Flower cannot put C's training replies together."""

    def pull_messages(self, message_ids: Any) -> Any:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            if reply.metadata.src_node_id == 102 and reply.metadata.message_type == "train":
                raise UnreadableReplyError(EVIL)
        return replies


def test_a_reply_that_cannot_be_put_together_ends_no_study(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    protocol = make_protocol(training={"rounds": 2})
    sites = [Site(name, protocol) for name in "ABC"]
    record, _, screen = run(tmp_path, protocol, sites, Torn(sites))
    assert [f.left_out for f in record.rounds] == [{"C": "sent what cannot be read"}] * 2
    harmless(screen)
    refused = [e for e in verify(tmp_path / "audit.jsonl").entries if e.direction == "refused"]
    assert [(e.peer, e.what, e.round) for e in refused] == [
        ("C", "train reply", 1),
        ("C", "train reply", 2),
    ]


@pytest.mark.parametrize("error", [OverflowError, RecursionError, ZeroDivisionError, KeyError])
def test_whatever_a_reply_does_to_its_reader_it_ends_no_study(
    make_protocol: MakeProtocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    from server.rounds import round as rounds

    honest = rounds.accept_update

    def dies(members: Any, updates: Any, reply: Message) -> None:
        if reply.metadata.src_node_id == 102:
            raise error(EVIL)
        honest(members, updates, reply)

    monkeypatch.setattr(rounds, "accept_update", dies)
    protocol = make_protocol(training={"rounds": 2})
    sites = [Site(name, protocol) for name in "ABC"]
    record, folder, screen = run(tmp_path, protocol, sites)
    expected = f"could not be read ({error.__name__})"
    assert [f.left_out for f in record.rounds] == [{"C": expected}] * 2
    harmless(screen)
    assert EVIL[:6] not in folder.events.read_text()
