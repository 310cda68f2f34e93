"""What all benchmarks share: the same job by several implementations, in turn, in one run.

Ratios are what counts: on another machine, or under other load, every figure of a run
moves together, and their ratio less.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of one implementation.

    Attributes:
        topic: What was measured, such as "training step, preset quick".
        who: Ours, or the peer's name and version.
        value: Median over `runs`.
        unit: Of the value, such as "s" or "MiB".
        ratio: Value over ours; None for ours itself, and where it has no meaning.
        spread: Smallest and largest of the runs.
        runs: How many.
        note: What a reader must know.
    """

    topic: str
    who: str
    value: float
    unit: str
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    runs: int = RUNS
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was to be reached, and whether it was.

    Attributes:
        topic: As of the rows.
        target: In words.
        reached: The figure.
        met: Whether it meets the target.
        why: Where it does not: what is left, and why.
    """

    topic: str
    target: str
    reached: str
    met: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one module of `benchmarks` has found; its name is the section's heading."""

    heading: str
    rows: Sequence[Row]
    targets: Sequence[Target] = ()
    text: str = ""


def status_mib(key: str) -> float:
    """A figure of this process as the kernel keeps it, such as VmHWM, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """`owner.name` is `value` meanwhile: a part is left out of what is measured, or watched."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def in_child(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """The last line that a Python with these arguments prints; a process has its own memory."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    return done.stdout.splitlines()[-1]


def in_turn(
    topic: str,
    jobs: Mapping[str, Callable[[], object]],
    *,
    ours: str,
    runs: int = RUNS,
    per_second: float | None = None,
) -> list[Row]:
    """Time every job `runs` times, one after the other in each round, after one warm-up each.

    Args:
        topic: What is measured.
        jobs: By who does it.
        ours: Which of them the ratios are over.
        runs: Rounds.
        per_second: Give rates instead: so many units (patches, scans) in one call of a job.
    """
    seconds: dict[str, list[float]] = {who: [] for who in jobs}
    for job in jobs.values():
        job()
    for _ in range(runs):
        for who, job in jobs.items():
            gc.collect()
            started = time.perf_counter()
            job()
            seconds[who].append(time.perf_counter() - started)
    values = {
        who: [per_second / s for s in taken] if per_second else taken
        for who, taken in seconds.items()
    }
    middle = {who: median(measured) for who, measured in values.items()}
    return [
        Row(
            topic=topic,
            who=who,
            value=middle[who],
            unit="a second" if per_second else "s",
            ratio=None if who == ours else middle[who] / middle[ours],
            spread=(min(values[who]), max(values[who])),
            runs=runs,
        )
        for who in jobs
    ]
