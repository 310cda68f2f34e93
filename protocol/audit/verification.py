"""Checks whether an audit log is complete and unchanged, and whether the two sides' logs agree."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.audit.log import ORIGIN, AuditEntry, AuditError, parse_line
from protocol.files import locked


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a log holds, and everything that is wrong with it."""

    entries: tuple[AuditEntry, ...] = ()
    faults: tuple[str, ...] = ()
    torn_bytes: int = 0

    @property
    def head(self) -> str:
        """Hash of the last entry, which stands for the whole log; zeros for an empty one."""
        return self.entries[-1].hash if self.entries else ORIGIN

    @property
    def only_torn(self) -> bool:
        """The one fault is a half last line, which the next entry mends by itself."""
        return self.torn_bytes > 0 and len(self.faults) == 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Messages between one site and the centre: in both logs, or in one only."""

    matched: int
    own_only: tuple[AuditEntry, ...]
    other_only: tuple[AuditEntry, ...]

    @property
    def agree(self) -> bool:
        """Whether each log knows all that the other knows."""
        return not self.own_only and not self.other_only


def verify(path: Path) -> Verification:
    """Check every entry and every link of a log; an absent log is an empty one.

    Finds changed, removed, inserted, repeated, moved and malformed lines, and a torn last line.
    It cannot find that the last lines were removed, nor that the end of the log was written anew
    with new hashes: see this module's docstring.

    Raises:
        AuditError: If the file cannot be read.
    """
    lines, torn = _read_lines(path)
    entries: list[AuditEntry] = []
    faults: list[str] = []
    before: AuditEntry | None = None
    for number, line in enumerate(lines, 1):
        entry, flaw = parse_line(line)
        flaws = [flaw] if flaw else []
        # The link to a line that is no entry cannot be checked; that line is a fault already.
        if entry is not None and (number == 1 or before is not None):
            flaws += _link_flaws(before, entry)
        if entry is not None:
            entries.append(entry)
        faults += [f"line {number} {flaw}" for flaw in flaws]
        before = entry
    if torn:
        faults.append(
            f"line {len(lines) + 1} is a torn last line of {torn:,} bytes: a process was stopped "
            "while it wrote; the next entry removes it and notes that"
        )
    return Verification(entries=tuple(entries), faults=tuple(faults), torn_bytes=torn)


def compare(own: Sequence[AuditEntry], other: Sequence[AuditEntry], *, site: str) -> Comparison:
    """Messages between a site and the centre that only one of their two logs knows.

    What one side sent, the other must have received or refused: by digest (by kind where there
    is none) and as often.  A refusal alone is no difference: a site also logs what it did not let
    out.

    Args:
        own: The site's log.
        other: The centre's log; its entries about other sites are ignored.
        site: The site's name.
    """
    other = [entry for entry in other if entry.peer == site]
    out, sent_here, received_there = _unmatched(own, other)
    back, sent_there, received_here = _unmatched(other, own)
    return Comparison(
        matched=out + back,
        own_only=tuple(sorted(sent_here + received_here, key=lambda entry: entry.seq)),
        other_only=tuple(sorted(sent_there + received_there, key=lambda entry: entry.seq)),
    )


def _unmatched(
    senders: Sequence[AuditEntry], receivers: Sequence[AuditEntry]
) -> tuple[int, list[AuditEntry], list[AuditEntry]]:
    """How many were sent and arrived; what was sent only; what was received only."""
    sent = [entry for entry in senders if entry.direction == "sent"]
    received = [entry for entry in receivers if entry.direction == "received"]
    refused = [entry for entry in receivers if entry.direction == "refused"]
    sent_only = _surplus(sent, [*received, *refused])
    received_only = _surplus(received, sent)
    return len(sent) - len(sent_only), sent_only, received_only


def _surplus(entries: Iterable[AuditEntry], partners: Iterable[AuditEntry]) -> list[AuditEntry]:
    """Entries that find no partner of the same content; each partner serves once."""
    free = Counter(entry.sha256 or entry.what for entry in partners)
    alone = []
    for entry in entries:
        content = entry.sha256 or entry.what
        if free[content]:
            free[content] -= 1
        else:
            alone.append(entry)
    return alone


def _link_flaws(before: AuditEntry | None, entry: AuditEntry) -> list[str]:
    """What is wrong between two neighbours; at most one flaw, the most telling."""
    due = before.seq + 1 if before else 1
    if entry.seq > due:
        missing = entry.seq - due
        return [f"is entry {entry.seq} where {due} is due: {missing} removed before it, or moved"]
    if before and entry.seq == before.seq:
        return [f"is entry {entry.seq} a second time: it was repeated or inserted"]
    if entry.seq < due:
        return [f"is entry {entry.seq} where {due} is due: it was moved or inserted"]
    if entry.previous != (before.hash if before else ORIGIN):
        what = "the entry before it" if before else "the beginning of a log"
        return [f"does not follow from {what}: one of them was changed, removed or inserted"]
    return []


def _read_lines(path: Path) -> tuple[list[bytes], int]:
    """Complete lines with their ends, and the number of torn bytes behind the last."""
    try:
        # Shared lock: an entry that is just being written is not a torn one.
        with locked(path, os.O_RDONLY, shared=True):
            content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise AuditError(f"{path}: the audit log cannot be read ({error.strerror})") from error
    *lines, torn = content.split(b"\n")
    return [line + b"\n" for line in lines], len(torn)
