"""`make bench`: every measurement, printed and written to docs/results/benchmarks.md."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import ROOT, Report, Row

PAGE = ROOT / "docs" / "results" / "benchmarks.md"
# Modules of this folder, each with `measure() -> Report`.
MODULES: tuple[str, ...] = (
    "step",
    "data",
    "inference",
    "scores",
    "preprocessing",
    "wire",
    "centre",
    "rounds",
)
HEAD = """# Benchmarks

Made by `make bench`; the sections with a date were measured on that day, each in one run, on one
machine. Medians, smallest and largest run in brackets; ratios are over ours. Synthetic data
throughout: what is measured is time, memory and bytes."""
_SHOWN = ("torch", "monai", "flwr", "SimpleITK", "numpy", "surface-distance", "nvflare")


def run(
    only: Annotated[
        str, typer.Option(help=f"some of {', '.join(MODULES)}, separated by commas; default: all")
    ] = "",
    write: Annotated[
        bool, typer.Option(help="put what is measured into docs/results/benchmarks.md")
    ] = True,
) -> None:
    """Measure speed, memory and bytes against peers; every section of the page is of one run."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(MODULES)
    unknown = [name for name in chosen if name not in MODULES]
    if unknown:
        sys.stderr.write(f"error: --only {unknown[0]}: must be of {', '.join(MODULES)}\n")
        raise typer.Exit(2)
    for name in chosen:
        console.print(f"measuring: {name}")
        lines = lines_of(importlib.import_module(f"benchmarks.{name}").measure())
        console.print("\n".join(lines))
        if write:
            # At once: what was measured is kept if the next module fails.
            old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
            PAGE.write_text(with_section(old, lines), encoding="utf-8")
            console.print(f"written: {PAGE.relative_to(ROOT)}")


def with_section(page: str, lines: Sequence[str]) -> str:
    """The Markdown page, with one section added, or replaced where its heading exists."""
    _, *parts = f"\n{page}".split("\n## ")
    sections = {part.partition("\n")[0]: part.strip() for part in parts}
    heading = lines[0].removeprefix("## ")
    sections[heading] = "\n".join(lines).removeprefix("## ").strip()
    return "\n\n## ".join([HEAD, *sections.values()]) + "\n"


def lines_of(report: Report) -> list[str]:
    """One section: what was to be reached, the notes on it, and all rows."""
    lines = [f"## {report.heading}", "", f"{date.today()}; {machine()}.", ""]
    if report.targets:
        lines += ["| what | target | reached | met |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {target.topic} | {target.target} | {target.reached} |"
            f" {'yes' if target.met else f'no: {target.why}'} |"
            for target in report.targets
        ]
        lines.append("")
    if report.text:
        lines += [report.text, ""]
    lines += [
        "| what | who | median | ratio | runs | note |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return lines + [_line(row) for row in report.rows]


def _line(row: Row) -> str:
    spread = f" ({row.spread[0]:.3g} to {row.spread[1]:.3g})" if row.spread else ""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    value = f"{row.value:.3g} {row.unit}{spread}"
    return f"| {row.topic} | {row.who} | {value} | {ratio} | {row.runs} | {row.note} |"


def machine() -> str:
    """Processor, cores, and the versions that matter."""
    versions = []
    for name in _SHOWN:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cores = os.cpu_count()
    return f"{platform.machine()}, {cores} cores, no GPU used; {', '.join(versions)}"


def entry() -> None:
    """The command."""
    typer.run(run)


if __name__ == "__main__":
    entry()
