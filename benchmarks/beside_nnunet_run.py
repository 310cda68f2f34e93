"""The stages of `beside_nnunet`: preparation, speed, then jobs side by side, one on each core."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import typer

from benchmarks.beside_nnunet_plan import (
    CORES,
    DATA,
    OURS,
    Comparison,
    Job,
    digest_of,
    memory_of,
    plans_name,
    read_result,
    speed_pairs,
    split_of,
    steps_of_nnunet,
    steps_of_ours,
)
from benchmarks.common import ROOT
from benchmarks.processes import MeasurementError, Processes
from protocol.config.study_file import read_study
from protocol.files import write_json

_PEER = Path(__file__).parent / "peers" / "nnunet" / "job.py"
_LOOK_EVERY_S = 0.2
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def run(comparison: Comparison, speed_seconds: float) -> list[str]:
    """All that is missing; the names of what has failed.

    Args:
        comparison: What is compared.
        speed_seconds: How long a system's speed is measured.

    Raises:
        MeasurementError: If planning, or the measurement of a speed, fails.
        BesideError: If a study's rounds do not fit into the time.
    """
    with Processes(comparison.folder / "logs", _ONE_THREAD) as processes:
        for job in {job.set_name: job for job in comparison.to_do()}.values():
            _drain([_prepare(comparison, job, processes)])
        for path, job in {comparison.speed(job): job for job in comparison.to_do()}.items():
            if not path.exists():
                measure(comparison, job, processes, speed_seconds)
        waiting = deque(comparison.to_do())
        typer.echo(f"{len(waiting)} jobs to do")
        return side_by_side(comparison, waiting, processes)


def _drain(works: Sequence[Iterator[None]]) -> None:
    """Work on all at once, to the end."""
    left = list(works)
    while left:
        for work in list(left):
            try:
                next(work)
            except StopIteration:
                left.remove(work)
        time.sleep(_LOOK_EVERY_S)


def side_by_side(comparison: Comparison, waiting: deque[Job], processes: Processes) -> list[str]:
    """A job on each core until none waits; a failed one is told, and the others go on."""
    running: dict[int, tuple[Job, Iterator[None]]] = {}
    failed = []
    while waiting or running:
        for core in CORES:
            if core not in running and waiting:
                job = waiting.popleft()
                typer.echo(f"{_now()} begins: {job.name} on core {core}")
                running[core] = (job, _do(comparison, job, core, processes))
        for core, (job, work) in list(running.items()):
            try:
                next(work)
            except StopIteration:
                del running[core]
                typer.echo(f"{_now()} done: {summary(comparison.result(job))}")
            except MeasurementError as error:
                del running[core]
                failed.append(job.name)
                typer.echo(f"{_now()} failed: {job.name}\n{error}", err=True)
        time.sleep(_LOOK_EVERY_S)
    return failed


def _process(
    comparison: Comparison, job: Job, processes: Processes, name: str, spec: Mapping[str, Any],
    *, core: int | None = None, system: str | None = None,
) -> Iterator[None]:  # fmt: skip
    """Run one stage in a process of its own; its result is in the file that `spec` names.

    Raises:
        MeasurementError: If it fails.
    """
    path = Path(spec["result"]).with_suffix(".spec.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, spec)
    pinned = () if core is None else ("taskset", "-c", core)
    nnunet = comparison.prepared(job) / "nnunet"
    if (system or job.system) == OURS:
        command: tuple[object, ...] = (sys.executable, "-m", "benchmarks.beside_nnunet_job", path)
        environment = {"PYTHONPATH": str(ROOT)}
    else:
        command = (comparison.python, _PEER, path)
        environment = {
            "PYTHONPATH": "",
            "nnUNet_raw": str(nnunet / "raw"),
            "nnUNet_preprocessed": str(nnunet / "preprocessed"),
            # Jobs side by side log into folders of their own.
            "nnUNet_results": str(path.parent / "nnunet" / name),
            # A worker on the same core would take its time from the training.
            "nnUNet_n_proc_DA": "1" if core is None else "0",
            "nnUNet_def_n_proc": "1",
        }
    process = processes.start(name, *pinned, *command, **environment)
    while process.poll() is None:
        yield
    if process.returncode:
        tail = processes.log(name).splitlines()[-15:]
        raise MeasurementError("\n".join([f"{name} ended with {process.returncode}", *tail]))


def _prepare(comparison: Comparison, job: Job, processes: Processes) -> Iterator[None]:
    """nnU-Net's plans and preprocessed scans of one fold; test cases are not among them."""
    wanted = {plans_name(s): memory_of(s) for s in comparison.systems if s != OURS}
    if not set(wanted) - set(comparison.plans(job)):
        return
    typer.echo(f"{_now()} nnU-Net plans: {job.set_name}")
    split = split_of(job.data, comparison.data / job.data, job.fold).as_json()
    spec = {
        "stage": "prepare",
        "data": job.data,
        "organs": DATA[job.data].organs,
        "train": split["train"],
        "validation": split["validation"],
        "plans": wanted,
        "processes": len(CORES),
        "result": str(comparison.prepared(job) / "plans.json"),
    }
    for folder in ("raw", "preprocessed"):
        (comparison.prepared(job) / "nnunet" / folder).mkdir(parents=True, exist_ok=True)
    name = f"prepare.{job.set_name}"
    yield from _process(comparison, job, processes, name, spec, system="nnunet")


def measure(comparison: Comparison, job: Job, processes: Processes, seconds: float) -> None:
    """The speed of a system, while the other core is as busy as in the comparison."""
    pair = next(p for p in speed_pairs(comparison.systems) if job.system in p)
    typer.echo(f"{_now()} speed of {job.speed_name} beside {pair}")
    works, files = [], []
    for core, system in zip(CORES, pair, strict=True):
        # Anew each time: a folder of another set's scans would be trained on, too.
        folder = comparison.folder / "speed" / f".core{core}"
        shutil.rmtree(folder, ignore_errors=True)
        files.append(folder / "measured.json")
        spec = _spec(comparison, job, system, folder) | {
            "stage": "speed",
            "seconds": seconds,
            "result": str(files[-1]),
        }
        name = f"speed.core{core}"
        works.append(_process(comparison, job, processes, name, spec, core=core, system=system))
    _drain(works)
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for system in set(pair):
        path = comparison.speed(replace(job, system=system))
        own = [f for f, other in zip(found, pair, strict=True) if other == system]
        if path.exists():
            continue
        speed = {key: fmean(f[key] for f in own) for key in own[0].keys() - {"versions"}}
        write_json(path, speed)


def _spec(comparison: Comparison, job: Job, system: str, folder: Path) -> dict[str, Any]:
    """What both stages of a system need."""
    common: dict[str, Any] = {"seed": job.seed, "folder": str(folder)}
    if system != OURS:
        return common | {"plans_name": plans_name(system)}
    return common | {
        "study": str(comparison.study(job)),
        "cache": str(comparison.folder / "cache"),
        "split": split_of(job.data, comparison.data / job.data, job.fold).as_json(),
    }


def steps_of(comparison: Comparison, job: Job) -> int:
    """Steps of nnU-Net, or local steps a round of ours, that fill the job's minutes."""
    speed = json.loads(comparison.speed(job).read_text(encoding="utf-8"))
    if job.system != OURS:
        return steps_of_nnunet(job.minutes, speed)
    rounds = read_study(comparison.study(job)).training.rounds
    return steps_of_ours(job.minutes, rounds, speed)


def _do(comparison: Comparison, job: Job, core: int, processes: Processes) -> Iterator[None]:
    """Train, predict, score; the job's folder appears when it is complete."""
    draft = comparison.folder / "jobs" / f".{job.name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    split = split_of(job.data, comparison.data / job.data, job.fold)
    spec = _spec(comparison, job, job.system, draft) | {
        "stage": "train",
        "steps": steps_of(comparison, job),
        "test": {name: str(image) for name, (image, _) in split.tested.items()},
        "predictions": str(draft / "predictions"),
        "result": str(draft / "trained.json"),
    }
    yield from _process(comparison, job, processes, job.name, spec, core=core)
    scoring = {
        "stage": "score",
        "split": split.as_json(),
        "organs": DATA[job.data].organs,
        "predictions": spec["predictions"],
        "scores": str(draft / "cases.csv"),
        "result": str(draft / "scored.json"),
    }
    name = f"{job.name}.scores"
    yield from _process(comparison, job, processes, name, scoring, core=core, system=OURS)
    trained = json.loads((draft / "trained.json").read_text(encoding="utf-8"))
    own = {"study": digest_of(comparison.study(job))} if job.system == OURS else {}
    plan = {} if job.system == OURS else {"plan": comparison.plans(job)[plans_name(job.system)]}
    facts = {"core": core, "processor": platform.processor() or platform.machine()}
    finished = {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(draft / "done.json", asdict(job) | trained | own | plan | facts | finished)
    for leftover in ("sites", "nnunet"):
        shutil.rmtree(draft / leftover, ignore_errors=True)
    os.replace(draft, comparison.result(job))


def summary(folder: Path) -> str:
    """One line of a complete job."""
    done = read_result(folder) or {}
    return (
        f"{folder.name}: {done['steps']} steps in {done['training_cpu_seconds'] / 60:.2f} min "
        "of its core, "
        f"prediction {done['prediction_seconds'] / 60:.1f} min"
    )


def _now() -> str:
    return f"{datetime.now():%H:%M:%S}"
