"""What a verification finds in one log, and what two sides' logs say of each other."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_chain import filled, sealed

from protocol.audit.log import AuditEntry, AuditLog
from protocol.audit.verification import compare, verify

# ---- what a forger does -------------------------------------------------------------------------

Edit = Callable[[list[bytes]], list[bytes]]


def replace(lines: list[bytes], number: int, line: bytes) -> list[bytes]:
    return [*lines[: number - 1], line, *lines[number:]]


FORGERIES: dict[str, tuple[Edit, list[str]]] = {
    "a field changed": (
        lambda lines: replace(lines, 3, lines[2].replace(b'"round":3', b'"round":4')),
        ["line 3 was changed: its content and its hash do not fit"],
    ),
    "a field changed and sealed again": (
        lambda lines: replace(lines, 3, sealed(lines[2], bytes=9)),
        ["line 4 does not follow from the entry before it"],
    ),
    "the last field sealed again, its link with it": (
        lambda lines: replace(lines, 5, sealed(lines[4], previous="1" * 64)),
        ["line 5 does not follow from the entry before it"],
    ),
    "spaces": (
        lambda lines: replace(lines, 2, lines[1].replace(b":", b": ", 1)),
        ["line 2 was changed: it is not written as this log writes"],
    ),
    "a field given twice": (
        lambda lines: replace(lines, 2, lines[1].replace(b"{", b'{"bytes":7,', 1)),
        ["line 2 was changed: it is not written as this log writes"],
    ),
    "first line removed": (
        lambda lines: lines[1:],
        ["line 1 is entry 2 where 1 is due: 1 removed before it"],
    ),
    "two lines removed": (
        lambda lines: lines[:1] + lines[3:],
        ["line 2 is entry 4 where 2 is due: 2 removed before it"],
    ),
    "two lines swapped": (
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        ["line 2 is entry 3 where 2", "line 3 is entry 2 where 4", "line 4 is entry 4 where 3"],
    ),
    "a line inserted, with a number of its own": (
        lambda lines: [
            *lines[:2],
            sealed(lines[2], previous=json.loads(lines[1])["hash"], run="x"),
            *lines[2:],
        ],
        ["line 4 is entry 3 a second time: it was repeated or inserted"],
    ),
    "a line repeated": (
        lambda lines: [*lines, lines[4]],
        ["line 6 is entry 5 a second time"],
    ),
    "a line of another log as the first": (
        lambda lines: replace(lines, 1, sealed(lines[0], previous="2" * 64)),
        ["line 1 does not follow from the beginning of a log", "line 2 does not follow from"],
    ),
    "numbers left out, links right": (
        lambda lines: [*lines, sealed(lines[4], seq=9, previous=json.loads(lines[4])["hash"])],
        ["line 6 is entry 9 where 6 is due"],
    ),
    "no JSON": (
        lambda lines: replace(lines, 2, lines[1].replace(b"}", b"", 1)),
        ["line 2 is malformed: it is not JSON"],
    ),
    "an empty line": (
        lambda lines: [*lines[:2], b"\n", *lines[2:]],
        ["line 3 is malformed: it is not JSON"],
    ),
    "bytes that are no text": (
        lambda lines: replace(lines, 2, b"\xff\x00" + lines[1]),
        ["line 2 is malformed"],
    ),
    "a field of another type": (
        lambda lines: replace(lines, 2, lines[1].replace(b'"round":2', b'"round":"two"')),
        ["line 2 is malformed: round: "],
    ),
    "an unknown field": (
        lambda lines: replace(lines, 2, lines[1].replace(b"{", b'{"also":1,', 1)),
        ["line 2 is malformed: also: "],
    ),
    "no object": (
        lambda lines: replace(lines, 2, b"[]\n"),
        ["line 2 is malformed: entry: "],
    ),
    "two places at once, and a torn end": (
        lambda lines: [b"{}\n", *lines[1:3], sealed(lines[3], run="x"), lines[4], b"{"],
        ["line 1 is malformed", "line 5 does not follow", "line 6 is a torn last line of 1 bytes"],
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_found_where_it_is(path: Path, forgery: str) -> None:
    edit, expected = FORGERIES[forgery]
    lines = filled(path)
    path.write_bytes(b"".join(edit(lines)))
    faults = verify(path).faults
    assert len(faults) == len(expected)
    for fault, start in zip(faults, expected, strict=True):
        assert fault.startswith(start)
    assert not verify(path).only_torn


def test_a_cut_end_is_not_seen_in_one_log_alone_but_its_hash_is_gone(path: Path) -> None:
    lines = filled(path)
    noted = verify(path).head
    path.write_bytes(b"".join(lines[:3]))
    assert verify(path).faults == ()
    assert noted not in [entry.hash for entry in verify(path).entries]


# ---- two sides ----------------------------------------------------------------------------------


def side(folder: Path, name: str, *entries: tuple[str, str, str]) -> list[AuditEntry]:
    """A log of (direction, peer, content)."""
    log = AuditLog(folder / f"{name}.jsonl")
    return [
        log.append(
            direction,  # type: ignore[arg-type]
            "train reply",
            peer=peer,
            sha256=hashlib.sha256(content.encode()).hexdigest() if content else "",
        )
        for direction, peer, content in entries
    ]


def test_two_logs_that_agree(tmp_path: Path) -> None:
    site = side(
        tmp_path,
        "A",
        ("received", "c:1", "weights 1"),
        ("sent", "c:1", "update 1"),
        ("received", "c:1", "weights 2"),
        ("refused", "c:1", "bundle"),
        ("refused", "c:1", "an answer that was not let out"),
        ("sent", "c:1", ""),
        ("note", "", ""),
    )
    centre = side(
        tmp_path,
        "centre",
        ("sent", "B", "weights 1"),
        ("sent", "A", "weights 1"),
        ("received", "B", "update of B"),
        ("refused", "A", "update 1"),
        ("sent", "A", "weights 2"),
        ("received", "A", ""),
        ("sent", "A", "bundle"),
    )
    comparison = compare(site, centre, site="A")
    assert comparison.agree
    assert comparison.matched == 5


def test_what_one_side_only_knows(tmp_path: Path) -> None:
    site = side(
        tmp_path,
        "A",
        ("sent", "c:1", "update 1"),
        ("sent", "c:1", "update 2"),
        ("sent", "c:1", "update 2"),
        ("received", "c:1", "weights of nobody"),
    )
    centre = side(
        tmp_path,
        "centre",
        ("received", "B", "update 1"),
        ("received", "A", "update 2"),
        ("received", "A", "never sent"),
        ("sent", "A", "weights 3"),
    )
    comparison = compare(site, centre, site="A")
    assert not comparison.agree
    assert comparison.matched == 1
    assert [entry.seq for entry in comparison.own_only] == [1, 3, 4]
    assert [entry.seq for entry in comparison.other_only] == [3, 4]


def test_a_cut_end_shows_against_the_other_side(tmp_path: Path) -> None:
    site = side(tmp_path, "A", ("sent", "c:1", "update 1"), ("sent", "c:1", "update 2"))
    centre = side(tmp_path, "centre", ("received", "A", "update 1"), ("received", "A", "update 2"))
    assert compare(site, centre, site="A").agree
    assert compare(site[:1], centre, site="A").other_only == (centre[1],)
    assert compare(site, centre[:1], site="A").own_only == (site[1],)
