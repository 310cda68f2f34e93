"""The overview section: what was run, and what is complete."""

from itertools import product
from typing import Any

from reporting.blocks import Block, Facts, Group, Section, Table, Text
from simulation.experiment.report.results import Results

_PROTOCOL = ("name", "spacing_mm", "patch_voxels", "network", "confidence", "method")
_LATER = ("training", "aggregation", "evaluation")


def overview_section(results: Results) -> Section:
    """Command, cohort, protocol, versions, and complete runs by method and setting."""
    info = results.info
    seconds = sum(run.info.seconds for run in results.runs)
    facts = [
        ("command", info.command),
        ("started", info.started),
        ("cohort", cohort_words(results)),
        ("organs", ", ".join(info.organs)),
        ("methods", ", ".join(info.methods)),
        *((f"row {name}", _plain(changes)) for name, changes in info.own_methods.items()),
        ("ways", ", ".join(info.settings)),
        ("folds", ", ".join(map(str, info.folds))),
        ("seeds", ", ".join(map(str, info.seeds))),
        ("complete runs", str(len(results.runs))),
        ("time of these runs", f"{seconds:,.0f} s, summed"),
        *(
            (f"protocol: {name}", _plain(info.protocol[name]))
            for name in (*_PROTOCOL, *_LATER)
            if name in info.protocol
        ),
        ("versions", ", ".join(f"{k} {v}" for k, v in info.versions.items())),
    ]
    blocks: list[Block] = [Facts(items=tuple(facts)), _complete(results)]
    blocks += [
        Text(text=sentence, tone="caution" if sentence.startswith("Not complete") else "")
        for sentence in missing_sentences(results)
    ]
    blocks += [Text(text=note) for note in info.notes]
    return Section(title="What was run", blocks=tuple(blocks))


def cohort_words(results: Results) -> str:
    """The cohort in a line; SYNTHETIC where it is made."""
    content = {k: v for k, v in results.info.cohort.items() if k != "kind"}
    kind = str(results.info.cohort.get("kind", "not named"))
    kind = "SYNTHETIC phantoms" if results.is_synthetic() else kind
    return "; ".join([kind, *(f"{_name(k)} {_plain(v)}" for k, v in content.items())])


def missing_sentences(results: Results) -> list[str]:
    """What was begun and is not complete, and what has no run at all."""
    info = results.info
    of = len(info.folds) * len(info.seeds)
    partly, none = [], []
    for method in info.methods:
        counts = {setting: len(results.runs_of(method, setting)) for setting in info.settings}
        partly += [f"{method} {s} {n} of {of}" for s, n in counts.items() if 0 < n < of]
        empty = [setting for setting, n in counts.items() if not n]
        none += [f"{method} ({', '.join(empty)})"] if empty else []
    sentences = []
    if partly:
        sentences.append(
            f"Not complete: {', '.join(partly)} runs. What follows is of the complete ones; rows "
            "are compared on the cases that both scored."
        )
    if none:
        sentences.append(f"No complete run, or none was asked for: {', '.join(none)}.")
    return sentences


def _complete(results: Results) -> Table:
    info = results.info
    of = len(info.folds) * len(info.seeds)
    methods = dict.fromkeys([*info.methods, *results.methods])
    counts = {(m, s): len(results.runs_of(m, s)) for m, s in product(methods, info.settings)}
    return Table(
        name="complete_runs",
        caption=f"Complete runs of {of} (folds x seeds)",
        header=("method", *info.settings),
        groups=(
            Group(
                title="",
                rows=tuple((m, *(str(counts[m, s]) for s in info.settings)) for m in methods),
            ),
        ),
        records=tuple(
            {"row": method, "way": setting, "complete": n, "of": of}
            for (method, setting), n in counts.items()
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
