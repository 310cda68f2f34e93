"""Ours, pooled, beside nnU-Net v2 at the same core time, each on one thread.

    python -m benchmarks.beside_nnunet FOLDER --studies FOLDER --plan

Both train on the same cases and are scored on the same test cases with our metrics.  What is
complete in FOLDER is never done again, and what was killed begins anew: the same command goes on.
nnU-Net lives in an environment of its own, named by ASDNET_NNUNET_PYTHON:

    python3.11 -m venv NNUNET && NNUNET/bin/pip install torch==2.13.0 torchvision==0.28.0
    NNUNET/bin/pip install nnunetv2==2.8.1
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.beside_nnunet_plan import (
    CORES,
    DATA,
    NNUNET,
    OURS,
    BesideError,
    Comparison,
    digest_of,
    memory_of,
    minutes_of,
    plan_jobs,
    read_result,
)
from benchmarks.beside_nnunet_report import PAGE, write_page
from benchmarks.beside_nnunet_run import run
from benchmarks.processes import MeasurementError, nothing_left_running
from protocol.config.study import ProtocolError
from protocol.config.study_file import read_study
from protocol.files import LockedError, locked
from simulation.errors import SplitError

VARIABLE = "ASDNET_NNUNET_PYTHON"
DATA_VARIABLE = "ASDNET_REAL_DATA"


def main(
    folder: Annotated[Path, typer.Argument(help="results; what is complete there stays")],
    studies: Annotated[
        Path, typer.Option(help="folder of our study files: NAME.yaml, or NAME.40min.yaml")
    ],
    data: Annotated[str, typer.Option(help=f"of {', '.join(DATA)}")] = ",".join(DATA),
    folds: Annotated[str, typer.Option(help="of cardiac, as 1,2; else all five")] = "",
    seeds: Annotated[str, typer.Option(help="as 1,2,3")] = "1,2,3",
    minutes: Annotated[str, typer.Option(help="of training")] = "10,40",
    systems: Annotated[
        str, typer.Option(help="ours, nnunet, or nnunet-2GB for that memory target of its planner")
    ] = f"{OURS},{NNUNET}",
    speed_seconds: Annotated[
        float, typer.Option(min=1, help="how long a system's speed is measured, once a fold")
    ] = 60.0,
    plan: Annotated[bool, typer.Option("--plan", help="list the jobs, run nothing")] = False,
    report: Annotated[
        bool, typer.Option("--report", help=f"write {PAGE.name} from what is complete")
    ] = False,
) -> None:
    """Train what is missing, two jobs side by side; stop and resume at any time."""
    try:
        comparison = compared(
            folder, studies, _named(data), systems, folds=folds, seeds=seeds, minutes=minutes
        )
        if report:
            write_page(folder, PAGE)
            typer.echo(f"written: {PAGE}")
        elif plan:
            typer.echo("\n".join(listed(comparison)))
        else:
            check(comparison)
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock", timeout_s=0), nothing_left_running():
                failed = run(comparison, speed_seconds)
            if failed:
                raise BesideError(f"failed: {', '.join(failed)}; see {folder / 'logs'}")
    except (BesideError, ProtocolError, SplitError, MeasurementError, LockedError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _named(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in DATA:
            raise BesideError(f"--data: {name!r} is none of {', '.join(DATA)}")
    return names


def compared(
    folder: Path,
    studies: Path,
    data: Sequence[str],
    systems: str,
    *,
    folds: str,
    seeds: str,
    minutes: str,
) -> Comparison:
    chosen = [name.strip() for name in systems.split(",") if name.strip()]
    for name in chosen:
        memory_of(name)
    some = _numbers(folds, "--folds")
    of_data = {n: [f for f in DATA[n].folds if not some or f in some] for n in data}
    jobs = plan_jobs(
        data, of_data, _numbers(seeds, "--seeds"), _numbers(minutes, "--minutes"), chosen
    )
    named = os.environ.get(VARIABLE)
    return Comparison(
        folder=folder.resolve(),
        data=Path(os.environ.get(DATA_VARIABLE, "data")).resolve(),
        studies=studies.resolve(),
        python=Path(named) if named else None,
        jobs=jobs,
        systems=chosen,
    )


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise BesideError(f"{option}: must be whole numbers and commas, not {text!r}") from None


def listed(comparison: Comparison) -> list[str]:
    """Every job, whether it is done, and its minutes."""
    done = [r for job in comparison.jobs if (r := read_result(comparison.result(job)))]
    left, lines, total = comparison.to_do(), [], 0.0
    for job in comparison.jobs:
        minutes = minutes_of(job, done)
        total += minutes if job in left else 0
        state = "to do" if job in left else "same " if comparison.is_default(job) else "done "
        note = " (planned as nnunet)" if state == "same " else ""
        lines.append(f"{state}  {minutes:5.1f} min  {job.name}{note}")
    hours = total / 60 / len(CORES)
    return [*lines, f"{len(comparison.jobs)} jobs, {len(done)} done; about {hours:.1f} h to go"]


def check(comparison: Comparison) -> None:
    """Before anything is trained: the environment, the study files, and what is there already.

    Raises:
        BesideError: With every mistake.
    """
    mistakes = []
    if any(system != OURS for system in comparison.systems):
        mistakes += _python_mistakes(comparison.python)
    for job in {job.data: job for job in comparison.jobs}.values():
        if not (comparison.data / job.data / "imagesTr").is_dir():
            mistakes.append(
                f"{comparison.data / job.data}: no such data set; name its folder's parent in "
                f"{DATA_VARIABLE}"
            )
    studies = {comparison.study(job): job for job in comparison.jobs if job.system == OURS}
    for path, job in studies.items():
        organs = sorted(read_study(path).organs.values())
        if organs != sorted(DATA[job.data].organs.values()):
            mistakes.append(f"{path}: organs: must have the values of {DATA[job.data].organs}")
    for job in comparison.jobs:
        result = read_result(comparison.result(job))
        if result and job.system == OURS and result["study"] != digest_of(comparison.study(job)):
            mistakes.append(
                f"{comparison.result(job)}: was trained with another study file; take another "
                "folder, or remove this one"
            )
    if mistakes:
        raise BesideError("\n".join(dict.fromkeys(mistakes)))


def _python_mistakes(python: Path | None) -> list[str]:
    if python is None:
        return [f"nnU-Net: name the Python of its environment in {VARIABLE}"]
    code = "from importlib.metadata import version; print(version('nnunetv2'))"
    try:
        subprocess.run([python, "-c", code], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return [f"{VARIABLE}={python}: no nnunetv2 there ({type(error).__name__})"]
    return []


if __name__ == "__main__":
    typer.run(main)
