"""Prints the audit report for a person who is responsible for the data and no programmer."""

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from protocol.audit.log import Direction
from protocol.audit.report import Findings, Kind, count_of, moment, verdict
from protocol.audit.statement_checks import StatementFindings
from protocol.audit.verification import Comparison, Verification
from protocol.escaping import printable

_WIDEST = 100  # columns of a table
_MOST_FAULTS = 20  # printed in full; the rest are counted
_NUMBERS = "numbers"
# What the messages' records hold, in a reader's words.
_WORDS = {
    "numbers": _NUMBERS,
    "metrics values": _NUMBERS,
    "site values": "name of the site",
    "signed values": "signed statement",
    "study values": "texts of the study's agreement",
}
_HEADINGS: dict[Direction, str] = {
    "sent": "What left",
    "received": "What came in",
    "refused": "What was refused",
    "note": "Notes of the log about itself",
}
_CONTENTS = (
    "Weights are what the two networks have learned: large tables of numbers, which training "
    "consists of exchanging. Numbers are counts of cases and of training steps, seconds, and sums "
    "of losses and scores. The study's agreement is the text that says how to train. An error "
    "reply is one word. A signed statement says which weights came and where this log ends, in "
    "hashes. Images, label maps, file names and patient identifiers are not among "
    "these contents. Weights are computed from scans, though, and can carry traces of them; "
    "docs/privacy.md has more."
)
_KEEPING = (
    "Write the last hash down with today's date (its first 16 characters do), or send it to the "
    "other side, regularly. Whoever can write the log's file could cut off its end or write it "
    "anew, and the log alone does not show that. A hash that is kept elsewhere does: --noted HASH "
    "shows whether it is still in the log. So does the other side's log: --compare FILE. "
    "In each round a site signs where its log ends, and the others keep that: --statements FILE."
)
_DAMAGED = (
    "What to do: keep the file as it is, and a copy of it. Ask who has had access to this "
    "machine, and compare with the other side's log: --compare FILE."
)
_UNFIT = (
    "What to do: keep all files as they are. Where sites had different weights, ask the centre, "
    "and compare with those sites by telephone. Where a log was cut, ask who has had access to "
    "that machine; a log that was put back from a backup looks the same."
)
_DIFFERENT = (
    "A message that was sent but did not arrive may have been lost or have come too late: such a "
    "line alone is ordinary. A message that arrived but that its sender has not logged as sent "
    "is not: ask both sides."
)


def print_findings(findings: Findings, console: Console) -> None:
    """The verdict, what was compared, the sums, and what to do with it."""
    view, verification = findings.view, findings.verification
    console.print(Text(printable(f"Audit log: {view.log}")), soft_wrap=True)
    _print(console, verdict(verification), "bold" if findings.all_well else "bold red")
    _print_faults(verification.faults, console)
    if verification.faults and not verification.only_torn:
        _print(console, _DAMAGED)
    if view.noted:
        _print(console, _noted(findings), "" if findings.noted else "bold red")
    if findings.comparison is not None and findings.other is not None:
        _print_comparison(findings.comparison, findings.other, console)
    _print_statements(findings.statements, console)
    if not verification.entries:
        return
    extent = [f"since {view.since} (UTC)"] if view.since else []
    extent += [f"run {printable(view.run)}"] if view.run else []
    extent += [f"site {view.site}"] if view.site and view.owner == "centre" else []
    if extent:
        whole = count_of(len(verification.entries), "entry", "entries")
        _print(console, f"Below: {len(findings.shown):,} of {whole}; {', '.join(extent)}.")
    for direction, heading in _HEADINGS.items():
        _print_kinds([k for k in findings.kinds if k.direction == direction], heading, console)
    _print(console, "What these contents are", "bold")
    console.print(Text(_CONTENTS + _unexplained(findings.kinds)))
    _print(console, "How to notice that the log's end was cut off", "bold")
    console.print(Text(_KEEPING))


def _print_statements(found: StatementFindings, console: Console) -> None:
    if found.faults:
        count = count_of(len(found.faults), "fault", "faults")
        heading = f"WHAT SITES HAVE SIGNED DOES NOT FIT: {count}"
        _print(console, heading, "bold red")
        _print_faults(found.faults, console)
        _print(console, _UNFIT)
    elif found.count:
        _print(
            console,
            f"{count_of(found.count, 'signed statement', 'signed statements')} of"
            f" {count_of(len(found.sites), 'site', 'sites')} fit: in each round all sites had the"
            " same weights, and what was signed of a log is in it.",
        )


def _print_faults(faults: Sequence[str], console: Console) -> None:
    for fault in faults[:_MOST_FAULTS]:
        console.print(Padding(Text(f"- {printable(fault)}"), (0, 0, 0, 2)))
    if len(faults) > _MOST_FAULTS:
        _print(console, f"  and {len(faults) - _MOST_FAULTS:,} more; --json lists all")


def _noted(findings: Findings) -> str:
    entry = findings.noted
    if entry is None:
        return (
            "The noted hash is NOT IN THE LOG: its end was cut off, or it was written anew, or "
            "the hash is of another log."
        )
    where = f"The noted hash is that of entry {entry.seq:,}, of {moment(entry.time)}"
    if findings.verification.faults:
        return f"{where}; but the log has faults."
    return f"{where}: all that was in the log by then is still there, unchanged."


def _print_comparison(comparison: Comparison, other: Verification, console: Console) -> None:
    if other.faults:
        _print(console, "The other side's log has faults of its own:", "bold red")
        _print_faults(other.faults, console)
    both = f"{count_of(comparison.matched, 'message is', 'messages are')} in both logs"
    if comparison.agree:
        _print(console, f"The logs of the two sides agree: {both}.")
        return
    alone = len(comparison.own_only) + len(comparison.other_only)
    _print(console, f"THE LOGS OF THE TWO SIDES DIFFER: {both}, {alone:,} in one only:", "bold red")
    table = _table(console)
    table.add_column("only at")
    table.add_column("entry", justify="right")
    table.add_column("message", ratio=1)
    table.add_column("bytes", justify="right")
    table.add_column("content")
    for side, entries in (("site", comparison.own_only), ("centre", comparison.other_only)):
        for entry in entries:
            labels = [f"run {entry.run}"] if entry.run else []
            labels += [f"round {entry.round}"] if entry.round else []
            message = _cell(f"{entry.direction} {entry.what}", moment(entry.time), *labels)
            digest = entry.sha256[:12] or "no digest"
            table.add_row(side, f"{entry.seq:,}", message, f"{entry.bytes:,}", digest)
    console.print(table)
    _print(console, _DIFFERENT)


def _print_kinds(kinds: Sequence[Kind], heading: str, console: Console) -> None:
    if not kinds:
        _print(console, f"{heading}: nothing", "bold")
        return
    number, size = sum(kind.count for kind in kinds), sum(kind.bytes for kind in kinds)
    total = count_of(number, "message", "messages") + f", {size:,} bytes in all"
    if kinds[0].direction == "note":
        total = count_of(number, "note", "notes")
    _print(console, f"{heading}: {total}", "bold")
    table = _table(console)
    table.add_column("kind and contents", ratio=1)
    table.add_column("times", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("first and last (UTC)", no_wrap=True)
    preposition = {"sent": "to", "received": "from", "refused": "with", "note": "about"}
    for peer in dict.fromkeys(kind.peer for kind in kinds):
        if peer:
            table.add_row(Text(printable(f"{preposition[kinds[0].direction]} {peer}"), "bold"))
        for kind in (kind for kind in kinds if kind.peer == peer):
            table.add_row(
                _cell(kind.what, *_contents(kind)),
                f"{kind.count:,}",
                f"{kind.bytes:,}",
                f"{moment(kind.first)}\n{moment(kind.last)}".replace(" UTC", ""),
            )
    console.print(table)


def _contents(kind: Kind) -> Iterator[str]:
    """What messages consisted of, a line each: weights, numbers, whatever else is named."""
    networks = [name for name in kind.items if name.endswith(" tensors")]
    sizes = [f"{name.removesuffix(' tensors')} bytes" for name in networks]
    if networks:
        tensors = sum(kind.items[name] for name in networks)
        size = sum(kind.items.get(name, 0) for name in sizes)
        yield f"weights of the networks: {tensors:,} tensors, {size:,} bytes"
    for name, count in kind.items.items():
        if name not in networks and name not in sizes:
            yield f"{_WORDS.get(name, name)}: {count:,}"
    if kind.reason:
        yield f"reason: {kind.reason}"


def _unexplained(kinds: Iterable[Kind]) -> str:
    """A warning about contents that left and that the explanation does not speak of."""
    known = (*_WORDS, *_WORDS.values())
    names = {
        name
        for kind in kinds
        if kind.direction == "sent"
        for name in kind.items
        if name not in known and not name.endswith((" tensors", " bytes"))
    }
    if not names:
        return ""
    return (
        f" BUT the log also names contents that are none of these: "
        f"{printable(', '.join(sorted(names)))}."
        " Ask what they are before relying on this paragraph."
    )


def _table(console: Console) -> Table:
    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, width=min(console.width, _WIDEST)
    )


def _cell(title: str, *lines: str) -> Group:
    """A title and indented lines, which keep their indent where they wrap."""
    indented = (Padding(Text(printable(line)), (0, 0, 0, 2)) for line in lines)
    return Group(Text(printable(title)), *indented)


def _print(console: Console, text: str, style: str = "") -> None:
    console.print()
    console.print(Text(text, style))
