"""The audit report: what a log holds, in sums, and whether it is complete and agrees."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from asdnet_models.fields import Frozen
from protocol.audit.log import AuditEntry, AuditError, Direction
from protocol.audit.statement_checks import StatementFindings, check_statements
from protocol.audit.verification import Comparison, Verification, compare, verify


@dataclass(frozen=True, kw_only=True)
class View:
    """Whose log is reported, and how much of it."""

    log: Path
    owner: Literal["site", "centre"]
    site: str = ""  # at the centre: entries of this site alone; empty: of all
    since: str = ""  # first day, UTC, YYYY-MM-DD
    run: str = ""
    other_log: Path | None = None
    noted: str = ""  # a last hash that was kept elsewhere, or its beginning
    statements: tuple[Path, ...] = ()  # this side's files of what sites have signed
    other_statements: tuple[Path, ...] = ()  # files of other sides
    keys: Mapping[str, str] = field(default_factory=dict)  # known here, OpenSSH lines by site

    def shows(self, entry: AuditEntry) -> bool:
        """Whether the report is to show this entry."""
        ours = self.owner == "site" or not self.site or entry.peer in ("", self.site)
        return ours and self.covers(entry)

    def covers(self, entry: AuditEntry) -> bool:
        """Whether an entry of either side is of the days and the run asked for."""
        return entry.time >= self.since and self.run in ("", entry.run)


class Kind(Frozen):
    """Messages that are alike, added up."""

    direction: Direction
    what: str
    peer: str
    reason: str
    count: int
    bytes: int
    first: str
    last: str
    items: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an examination of a log has found."""

    view: View
    verification: Verification
    shown: tuple[AuditEntry, ...]
    kinds: tuple[Kind, ...]
    other: Verification | None
    comparison: Comparison | None
    noted: AuditEntry | None
    statements: StatementFindings

    @property
    def all_well(self) -> bool:
        """Nothing was changed, nothing that was noted is gone, and the other side agrees."""
        return (
            not self.verification.faults
            and (self.other is None or not self.other.faults)
            and (self.comparison is None or self.comparison.agree)
            and (not self.view.noted or self.noted is not None)
            and not self.statements.faults
        )


def examine(view: View) -> Findings:
    """Verify the log, compare it if asked to, and add up its entries.

    Raises:
        AuditError: If a log cannot be read, the other side's is not there, or the noted hash is
            none.
    """
    if view.noted and not re.fullmatch(r"[0-9a-f]{16,64}", view.noted):
        raise AuditError(
            f"--noted: must be 16 to 64 of the characters 0-9 and a-f, not {view.noted!r}"
        )
    verification = verify(view.log)
    other = comparison = None
    if view.other_log is not None:
        if not view.other_log.is_file():
            raise AuditError(f"{view.other_log}: there is no such log; check the path of --compare")
        other = verify(view.other_log)
        comparison = _compared(view, verification.entries, other.entries)
    shown = tuple(entry for entry in verification.entries if view.shows(entry))
    noted = [e for e in verification.entries if view.noted and e.hash.startswith(view.noted)]
    return Findings(
        view=view,
        verification=verification,
        shown=shown,
        kinds=add_up(shown),
        other=other,
        comparison=comparison,
        noted=noted[0] if noted else None,
        statements=check_statements(
            view.statements, view.other_statements, view.keys, _logs(view, verification, other)
        ),
    )


def _logs(
    view: View, own: Verification, other: Verification | None
) -> dict[str, Sequence[AuditEntry]]:
    """Logs of sites, which have signed entries of them; a centre signs none of its own."""
    if view.owner == "site":
        return {view.site: own.entries}
    return {} if other is None else {view.site: other.entries}


def add_up(entries: Iterable[AuditEntry]) -> tuple[Kind, ...]:
    """Entries by direction, peer, kind and reason, in the order in which these first occur."""
    kinds: dict[tuple[str, ...], Kind] = {}
    for entry in entries:
        key = (entry.direction, entry.peer, entry.what, entry.reason)
        before = kinds.get(key)
        items = dict(before.items) if before else {}
        for name, count in entry.items.items():
            items[name] = items.get(name, 0) + count
        kinds[key] = Kind(
            direction=entry.direction,
            what=entry.what,
            peer=entry.peer,
            reason=entry.reason,
            count=(before.count if before else 0) + 1,
            bytes=(before.bytes if before else 0) + entry.bytes,
            first=before.first if before else entry.time,
            last=entry.time,
            items=items,
        )
    return tuple(kinds.values())


def verdict(verification: Verification) -> str:
    """The state of a log in a sentence."""
    entries, faults = verification.entries, verification.faults
    if not entries and not faults:
        return "The log is empty or does not exist yet: nothing has been sent yet."
    if not faults:
        return (
            f"The log is complete and unchanged: {count_of(len(entries), 'entry', 'entries')} from "
            f"{moment(entries[0].time)} to {moment(entries[-1].time)}, "
            f"last hash {verification.head}"
        )
    if verification.only_torn:
        return (
            f"The log is unchanged except for its last line, which is incomplete: a process was "
            f"stopped while it wrote. {count_of(len(entries), 'entry', 'entries')} before it."
        )
    return (
        f"THE LOG WAS CHANGED OR DAMAGED: {count_of(len(faults), 'fault', 'faults')}, "
        f"{count_of(len(entries), 'entry', 'entries')}."
    )


def as_json(findings: Findings) -> str:
    """All that was found, and every entry of the view."""
    view, comparison = findings.view, findings.comparison
    content: dict[str, object] = {
        "log": str(view.log),
        "all_well": findings.all_well,
        "verdict": verdict(findings.verification),
        "last_hash": findings.verification.head if findings.verification.entries else None,
        "entries_in_log": len(findings.verification.entries),
        "faults": findings.verification.faults,
        "statements": {
            "count": findings.statements.count,
            "runs": findings.statements.runs,
            "sites": findings.statements.sites,
            "faults": findings.statements.faults,
        },
        "account": [kind.model_dump() for kind in findings.kinds],
        "entries": [entry.model_dump() for entry in findings.shown],
    }
    if view.noted:
        content["noted"] = findings.noted.model_dump() if findings.noted else None
    if comparison is not None and findings.other is not None:
        content["comparison"] = {
            "agree": comparison.agree,
            "in_both": comparison.matched,
            "only_at_site": [entry.model_dump() for entry in comparison.own_only],
            "only_at_centre": [entry.model_dump() for entry in comparison.other_only],
            "faults_of_other_log": findings.other.faults,
        }
    return json.dumps(content, indent=2)


def _compared(view: View, here: Sequence[AuditEntry], there: Sequence[AuditEntry]) -> Comparison:
    """Of the whole logs: a message can leave before midnight and arrive after it."""
    own, other = (here, there) if view.owner == "site" else (there, here)
    whole = compare(own, other, site=view.site)
    return Comparison(
        matched=whole.matched,
        own_only=tuple(entry for entry in whole.own_only if view.covers(entry)),
        other_only=tuple(entry for entry in whole.other_only if view.covers(entry)),
    )


def moment(time: str) -> str:
    """A time of the log, to the second."""
    return f"{time[:10]} {time[11:19]} UTC"


def count_of(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many}"
