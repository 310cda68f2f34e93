"""The audit log: what is written verifies, and no change of a line goes unseen."""

import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol.audit.log import AuditLog
from protocol.audit.verification import compare, verify

LINES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def content(folder: Path) -> bytes:
    """A real log."""
    log = AuditLog(folder / "real.jsonl")
    for number in range(1, LINES + 1):
        log.append(
            "sent",
            "train reply é",
            peer="centre:9092",
            run="pelvis",
            round=number,
            bytes=170,
            sha256=f"{number:x}" * 64,
            items={"segmenter tensors": 42, "metrics values": 37},
            reason='a "quoted" \\ word' if number == 2 else "",
        )
    return (folder / "real.jsonl").read_bytes()


def faults(folder: Path, content: bytes) -> tuple[str, ...]:
    path = folder / "changed.jsonl"
    path.write_bytes(content)
    return verify(path).faults


def test_the_real_log_has_no_faults(folder: Path, content: bytes) -> None:
    assert faults(folder, content) == ()


@given(data=st.data())
@settings(max_examples=400)
def test_any_changed_byte_is_found(folder: Path, content: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.one_of(st.sampled_from(b'0123456789abcdef ",:{}\\\n'), st.integers(0, 255)))
    assume(content[place] != byte)
    assert faults(folder, content[:place] + bytes([byte]) + content[place + 1 :])


@given(data=st.data())
@settings(max_examples=200)
def test_any_inserted_or_removed_byte_is_found(
    folder: Path, content: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.one_of(st.sampled_from(b' 0\t\n\r,"'), st.integers(0, 255)))
    assert faults(folder, content[:place] + bytes([byte]) + content[place:])
    assert faults(folder, content[:place] + content[place + 1 :])


@given(order=st.lists(st.integers(0, LINES - 1), max_size=6))
def test_lines_in_any_other_order_or_number_are_found(
    folder: Path, content: bytes, order: list[int]
) -> None:
    lines = content.splitlines(keepends=True)
    # A log whose end was cut off is the one thing that looks whole.
    whole = order == list(range(len(order)))
    assert (faults(folder, b"".join(lines[i] for i in order)) == ()) is whole


@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from(["sent", "received", "refused", "note"]),
            st.text(),
            st.text(st.characters(exclude_categories=())),
            st.integers(0, 2**63 - 1),
            st.dictionaries(st.text(), st.integers(0, 2**63 - 1)),
        ),
        max_size=5,
    ),
    torn=st.binary(max_size=40).filter(lambda torn: b"\n" not in torn),
)
@settings(max_examples=60)
def test_whatever_is_appended_verifies(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple], torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    log = AuditLog(path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: None)
        for direction, what, reason, size, items in entries:
            log.append(direction, what, peer="A", reason=reason, bytes=size, items=items)
        before = verify(path).entries
        with path.open("ab") as file:
            file.write(torn)
        last = log.append("note", "last", peer="")
    verification = verify(path)
    assert verification.faults == ()
    assert len(before) == len(entries)
    assert verification.entries[: len(before)] == tuple(before)
    assert len(verification.entries) == len(entries) + 1 + bool(torn)
    assert verification.head == last.hash


@given(
    sent=st.lists(st.sampled_from("abc"), max_size=8),
    received=st.lists(st.sampled_from("abc"), max_size=8),
)
@settings(max_examples=100)
def test_a_comparison_counts_every_message_once(
    folder: Path, content: bytes, sent: list[str], received: list[str]
) -> None:
    entry = verify(folder / "real.jsonl").entries[0]
    own = [entry.model_copy(update={"sha256": c * 64, "seq": n}) for n, c in enumerate(sent)]
    other = [
        entry.model_copy(update={"sha256": c * 64, "seq": n, "direction": "received", "peer": "A"})
        for n, c in enumerate(received)
    ]
    comparison = compare(own, other, site="A")
    common = sum(min(sent.count(c), received.count(c)) for c in "abc")
    assert comparison.matched == common
    assert len(comparison.own_only) == len(sent) - common
    assert len(comparison.other_only) == len(received) - common
    assert comparison.agree is (sorted(sent) == sorted(received))
