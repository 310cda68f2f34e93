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
_SHOWN = ("torch", "monai", "flwr", "SimpleITK", "numpy", "surface-distance", "nvflare")


def run(
    only: Annotated[
        str, typer.Option(help=f"some of {', '.join(MODULES)}, separated by commas; prints alone")
    ] = "",
) -> None:
    """Measure; without --only, write the page too."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(MODULES)
    unknown = [name for name in chosen if name not in MODULES]
    if unknown:
        sys.stderr.write(f"error: --only {unknown[0]}: must be of {', '.join(MODULES)}\n")
        raise typer.Exit(2)
    reports = []
    for name in chosen:
        console.print(f"measuring: {name}")
        reports.append(importlib.import_module(f"benchmarks.{name}").measure())
        console.print("\n".join(lines_of(reports[-1])))
    if not only:
        PAGE.write_text(page(reports), encoding="utf-8")
        console.print(f"written: {PAGE.relative_to(ROOT)}")


def page(reports: Sequence[Report]) -> str:
    """The whole page, Markdown."""
    head = [
        "# Benchmarks",
        "",
        f"Made by `make bench` on {date.today()}: {machine()}. Medians of one run; ratios are over",
        "ours, smallest and largest run in brackets. Synthetic data throughout.",
        "",
        "## Targets",
        "",
        "| what | target | reached | met |",
        "| --- | --- | --- | --- |",
    ]
    for report in reports:
        for target in report.targets:
            met = "yes" if target.met else f"no: {target.why}"
            head.append(f"| {target.topic} | {target.said} | {target.reached} | {met} |")
    body = [line for report in reports for line in ["", *lines_of(report)]]
    return "\n".join([*head, *body, ""])


def lines_of(report: Report) -> list[str]:
    """One section."""
    lines = [f"## {report.heading}", ""]
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
