"""What a site writes into an error reaches no log, screen, report or record of the centre."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Error
from memory_grid import RUN, Clock, MemoryGrid, Site, Witness

from protocol.audit.log import AuditLog
from protocol.audit.verification import verify
from protocol.config.study import StudyProtocol
from server.rounds.loop import new_record, run_study

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")

TEXTS = {
    "escape sequences": "\x1b[2J\x1b]0;owned\x07\x1b[31mstudy finished",
    "markup": "[bold red]all sites answered[/] [link=http://evil]x[/link] [/nothing]",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "lines": "LayoutError\nround 1: trained\r\nround 2: trained",
    "10 MB": "ValueError" * 2**20,
    "half a letter": "\ud83d",
    "a patient": "/data/Doe^John.nii.gz",
    "a word with more": "LayoutError: Doe^John",
    "nothing": "",
}


@pytest.mark.parametrize("code", [2, 2**62])
@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
@pytest.mark.parametrize("text", TEXTS)
def test_an_errors_text_becomes_a_word(
    make_protocol: MakeProtocol,
    text: str,
    kind: str,
    code: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    clock: Clock,
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol) for name in "ABC"]
    sites[2].spoil[kind] = lambda *_: Error(code, TEXTS[text])
    record = new_record(protocol, run=RUN)
    audit = AuditLog(tmp_path / "audit.jsonl")
    run_study(MemoryGrid(sites), record, Witness(), expected_sites=3, audit=audit)
    assert len(record.rounds) == 1
    assert record.rounds[0].left_out == ({"C": "OtherError"} if kind == "train" else {})
    assert "C (OtherError)" in caplog.text or "node 102 (OtherError)" in caplog.text
    log = verify(tmp_path / "audit.jsonl")
    assert log.faults == ()
    assert {entry.reason for entry in log.entries} == {"", "OtherError"}
    if TEXTS[text]:
        assert TEXTS[text][:40] not in caplog.text
    assert len(caplog.text) < 2000


@pytest.mark.parametrize("code", [4, 8])
def test_a_lost_reply_has_a_word_too(make_protocol: MakeProtocol, code: int) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol) for name in "ABC"]
    sites[2].spoil["train"] = lambda *_: Error(code, TEXTS["escape sequences"])
    record = new_record(protocol, run=RUN)
    run_study(MemoryGrid(sites), record, Witness(), expected_sites=3)
    assert record.rounds[0].left_out == {"C": "ReplyLost"}
    assert sites[2].asked["train"] == 3


def test_a_site_whose_cases_changed_is_named_with_its_word_and_the_round_goes_on(
    make_protocol: MakeProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    """The hospital's side of it: tests/unit/client/data/test_cohort.py."""
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol) for name in "ABC"]
    sites[1].spoil["train"] = lambda *_: Error(2, "CohortChanged")
    sites[2].spoil["evaluate"] = lambda *_: Error(2, "CohortChanged")
    record = new_record(protocol, run=RUN)
    run_study(MemoryGrid(sites), record, Witness(), expected_sites=3)
    assert record.rounds[0].left_out == {"B": "CohortChanged"}
    assert "left out: B (CohortChanged)" in caplog.text
    assert "not evaluated: C (CohortChanged)" in caplog.text
