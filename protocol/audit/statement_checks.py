"""Compares signed statements with each other and with audit logs.

A log whose end was cut, or that was deleted, still verifies by itself.  What its site has signed of
it lies with the others, and does not fit any more.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.agreement.statement_store import KeptStatement, kept_statements
from protocol.agreement.statements import Statement, StatementError
from protocol.audit.log import AuditEntry, AuditError


@dataclass(frozen=True, kw_only=True)
class StatementFindings:
    """What statements say, and everything that does not fit.

    Attributes:
        count: Statements, each counted once.
        runs: Names of the runs that they are about.
        sites: Who made them.
        faults: A line for each.
    """

    count: int
    runs: tuple[str, ...]
    sites: tuple[str, ...]
    faults: tuple[str, ...]


def check_statements(
    own: Iterable[Path],
    others: Iterable[Path],
    keys: Mapping[str, str],
    logs: Mapping[str, Sequence[AuditEntry]],
) -> StatementFindings:
    """Signatures, agreement between sites, and every signed entry against the log of its site.

    Args:
        own: This side's files.
        others: Files of other sides; signatures in them count by the keys that this side knows.
        keys: OpenSSH public key lines that this side knows by itself, by site.
        logs: Entries of audit logs, by site.

    Raises:
        AuditError: If a file cannot be read.
    """
    faults: list[str] = []
    kept = _read(own, faults)
    known: dict[str, set[str]] = defaultdict(set)
    for site, key in keys.items():
        known[site].add(key)
    for each in kept:
        with_site = _said(each)
        if with_site is not None:
            known[with_site.site].add(each.key)
    statements = _verified([*kept, *_read(others, faults)], known, faults)
    faults += _different_weights(statements)
    faults += _shrunken_logs(statements)
    for site, entries in logs.items():
        faults += _missing(site, [s for s in statements if s.site == site], entries)
    return StatementFindings(
        count=len(statements),
        runs=tuple(sorted({statement.run for statement in statements})),
        sites=tuple(sorted({statement.site for statement in statements})),
        faults=tuple(faults),
    )


def _read(paths: Iterable[Path], faults: list[str]) -> list[KeptStatement]:
    kept: list[KeptStatement] = []
    for path in paths:
        try:
            there, torn = kept_statements(path)
        except StatementError as error:
            raise AuditError(str(error)) from None
        kept += there
        # A crash can tear the line that is being written, which is then written again.
        if torn > 1:
            faults.append(f"{path.name}: {torn} lines are no statements: the file was changed")
    return kept


def _said(kept: KeptStatement) -> Statement | None:
    try:
        return kept.read()
    except StatementError:
        return None


def _verified(
    kept: Iterable[KeptStatement], known: Mapping[str, set[str]], faults: list[str]
) -> list[Statement]:
    statements: dict[Statement, None] = {}
    for each in {(k.statement, k.signature): k for k in kept}.values():
        try:
            said = each.read()
            keys = known.get(said.site)
            if not keys:
                faults.append(
                    f"a statement of site {said.site}, round {said.round} of run {said.run}, cannot"
                    " be verified: no key of that site is known here"
                )
                continue
            statements[_by_any(each, said.site, keys)] = None
        except StatementError as error:
            faults.append(str(error))
    return sorted(statements, key=lambda s: (s.run, s.round, s.site, s.audit_seq))


def _by_any(signed: KeptStatement, site: str, keys: set[str]) -> Statement:
    """By one of the keys that the site has had."""
    *first, last = sorted(keys)
    for key in first:
        try:
            return signed.verified({site: key})
        except StatementError:
            continue
    return signed.verified({site: last})


def _different_weights(statements: Sequence[Statement]) -> list[str]:
    rounds: dict[tuple[str, int], dict[tuple[str, str], set[str]]] = defaultdict(dict)
    for said in statements:
        received = (said.segmenter, said.confidence)
        rounds[said.run, said.round].setdefault(received, set()).add(said.site)
    return [
        f"run {run}, round {number}: the centre sent different sites different weights: "
        + "; ".join(f"{', '.join(sorted(sites))} received {d[:16]}" for (d, _), sites in by.items())
        for (run, number), by in rounds.items()
        if len(by) > 1
    ]


def _shrunken_logs(statements: Sequence[Statement]) -> list[str]:
    faults = []
    last: dict[tuple[str, str], Statement] = {}
    for said in statements:
        before = last.get((said.run, said.site))
        if before is not None and said.audit_seq < before.audit_seq:
            faults.append(
                f"site {said.site}'s audit log was cut: it had {before.audit_seq} entries in round"
                f" {before.round} of run {said.run}, and {said.audit_seq} in round {said.round}"
            )
        last[said.run, said.site] = said
    return faults


def _missing(
    site: str, statements: Sequence[Statement], entries: Sequence[AuditEntry]
) -> list[str]:
    there = {entry.seq: entry.hash for entry in entries}
    gone = [said for said in statements if there.get(said.audit_seq) != said.audit_head]
    if not gone:
        return []
    first, last = gone[0], max(said.audit_seq for said in statements)
    if not entries:
        return [
            f"the audit log of site {site} is missing, which has signed that it had {last} entries:"
            " it was deleted"
        ]
    return [
        f"the audit log of site {site} was cut or written anew: {len(gone)} of {len(statements)}"
        f" signed entries are not in it, first entry {first.audit_seq} ({first.audit_head[:16]}),"
        f" signed in round {first.round} of run {first.run}"
    ]
