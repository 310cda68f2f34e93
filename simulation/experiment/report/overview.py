"""What was run, and what of it is there."""

from typing import Any

from reporting.blocks import Block, Facts, Group, Section, Table, Text
from simulation.experiment.report.results import Book
from simulation.experiment.store import Way

_PROTOCOL = ("name", "spacing_mm", "patch_voxels", "network", "confidence", "method")
_LATER = ("training", "aggregation", "evaluation")


def overview_section(book: Book) -> Section:
    """Command, cohort, protocol, versions, and complete runs by row and way."""
    info = book.info
    seconds = sum(run.info.seconds for run in book.runs)
    facts = [
        ("command", info.command),
        ("started", info.started),
        ("cohort", cohort_words(book)),
        ("organs", ", ".join(info.organs)),
        ("methods", ", ".join(info.rows)),
        *((f"row {name}", _plain(changes)) for name, changes in info.own_rows.items()),
        ("ways", ", ".join(info.ways)),
        ("folds", ", ".join(map(str, info.folds))),
        ("seeds", ", ".join(map(str, info.seeds))),
        ("complete runs", str(len(book.runs))),
        ("time of these runs", f"{seconds:,.0f} s, summed"),
        *(
            (f"protocol: {name}", _plain(info.protocol[name]))
            for name in (*_PROTOCOL, *_LATER)
            if name in info.protocol
        ),
        ("versions", ", ".join(f"{k} {v}" for k, v in info.versions.items())),
    ]
    blocks: list[Block] = [Facts(items=tuple(facts)), _complete(book)]
    blocks += [
        Text(text=sentence, tone="caution" if sentence.startswith("Not complete") else "")
        for sentence in missing_sentences(book)
    ]
    blocks += [Text(text=note) for note in info.notes]
    return Section(title="What was run", blocks=tuple(blocks))


def cohort_words(book: Book) -> str:
    """The cohort in a line; SYNTHETIC where it is made."""
    content = {k: v for k, v in book.info.cohort.items() if k != "kind"}
    kind = str(book.info.cohort.get("kind", "not named"))
    kind = "SYNTHETIC phantoms" if book.is_synthetic() else kind
    return "; ".join([kind, *(f"{_name(k)} {_plain(v)}" for k, v in content.items())])


def missing_sentences(book: Book) -> list[str]:
    """What was begun and is not complete, and what has no run at all."""
    info = book.info
    of = len(info.folds) * len(info.seeds)
    partly, none = [], []
    for row in info.rows:
        counts: dict[Way, int] = {way: len(book.runs_of(row, way)) for way in info.ways}
        partly += [f"{row} {way} {n} of {of}" for way, n in counts.items() if 0 < n < of]
        empty = [way for way, n in counts.items() if not n]
        none += [f"{row} ({', '.join(empty)})"] if empty else []
    sentences = []
    if partly:
        sentences.append(
            f"Not complete: {', '.join(partly)} runs. What follows is of the complete ones; rows "
            "are compared on the cases that both scored."
        )
    if none:
        sentences.append(f"No complete run, or none was asked for: {', '.join(none)}.")
    return sentences


def _complete(book: Book) -> Table:
    info = book.info
    of = len(info.folds) * len(info.seeds)
    rows = dict.fromkeys([*info.rows, *book.rows])
    counts = {(row, way): len(book.runs_of(row, way)) for row in rows for way in info.ways}
    return Table(
        name="complete_runs",
        caption=f"Complete runs of {of} (folds x seeds)",
        header=("method", *info.ways),
        groups=(
            Group(
                title="",
                rows=tuple((row, *(str(counts[row, way]) for way in info.ways)) for row in rows),
            ),
        ),
        records=tuple(
            {"row": row, "way": way, "complete": n, "of": of} for (row, way), n in counts.items()
        ),
    )


def _name(key: str) -> str:
    return {"sha256": "SHA-256"}.get(key, key)


def _plain(value: Any) -> str:
    """A value of a protocol without braces; a list of its own is one of edges."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_within(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " x ".join(_plain(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _within(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_plain(value)})"
    if isinstance(value, list | tuple):
        return "/".join(_plain(item) for item in value)
    return _plain(value)
