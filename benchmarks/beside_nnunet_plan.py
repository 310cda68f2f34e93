"""What `beside_nnunet` compares: data sets and their splits, jobs in their order, and steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from protocol.config.study_file import read_study
from simulation.folds import choose_fold
from simulation.layouts import StudyCase, read_cohort
from simulation.split import deal_to_sites

OURS, NNUNET = "ours", "nnunet"
CORES = (0, 1)
# Of the folds: seeds of the training change neither who is tested on nor who is dealt where.
_SPLIT_SEED = 1
# Until one has been measured: prediction and scoring, minutes.
_AFTER_MINUTES = 4.0
# What makes two plans of nnU-Net one.
_OF_A_PLAN = ("spacing", "patch_size", "batch_size", "architecture")


class BesideError(ValueError):
    """What was asked for cannot be compared; one line says why."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A set of scans.

    Attributes:
        labelled: How many cases of the folder, in name order, are dealt to the folds; None: all.
        withheld: How many more are tested on in every fold.
        grouped: Whether a name begins with the case's group, by which the folds are stratified.
        folds: Those that are compared on.
    """

    organs: Mapping[str, int]
    labelled: int | None = None
    withheld: int = 0
    grouped: bool = False
    folds: tuple[int, ...] = (1,)


DATA: Mapping[str, DataSet] = {
    "hippocampus": DataSet(organs={"anterior": 1, "posterior": 2}, labelled=50, withheld=20),
    "cardiac": DataSet(
        organs={"right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
        grouped=True,
        folds=(1, 2, 3, 4, 5),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Cases by name, with scan and label."""

    train: Mapping[str, tuple[Path, Path]]
    validation: Mapping[str, tuple[Path, Path]]
    test: Mapping[str, tuple[Path, Path]]
    withheld: Mapping[str, tuple[Path, Path]]

    @property
    def tested(self) -> dict[str, tuple[Path, Path]]:
        """All that is scored."""
        return {**self.test, **self.withheld}

    def as_json(self) -> dict[str, dict[str, tuple[str, str]]]:
        """Paths as text, for the job of another environment."""
        return {
            part: {name: (str(image), str(label)) for name, (image, label) in cases.items()}
            for part, cases in asdict(self).items()
        }


def split_of(name: str, folder: Path, fold: int) -> Split:
    """Our folds of a data set, by `simulation.folds.choose_fold`; both systems get the same.

    Raises:
        SplitError: If the folder has too few cases, or there is no such fold.
    """
    data = DATA[name]
    if data.grouped:
        cases = [
            replace(case, site=case.name.partition("_")[0])
            for case in read_cohort(folder, _count(folder), 0)
        ]
    else:
        cases = read_cohort(folder, data.labelled, data.withheld)
        cases = deal_to_sites(cases, None, _SPLIT_SEED)
    chosen = choose_fold(cases, fold, _SPLIT_SEED)
    return Split(
        train=_files(chosen, "labelled"),
        validation=_files(chosen, "validation"),
        test=_files(chosen, "test"),
        withheld=_files(chosen, "unlabelled"),
    )


def _count(folder: Path) -> int:
    return len(list((folder / "labelsTr").glob("[!.]*")))


def _files(cases: Sequence[StudyCase], part: str) -> dict[str, tuple[Path, Path]]:
    return {
        case.name: (case.image.resolve(), case.reference.resolve())
        for case in sorted(cases, key=lambda case: case.name)
        if case.part == part and case.reference is not None
    }


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: a system on a fold of a data set, for so many minutes, from a seed."""

    data: str
    fold: int
    seed: int
    minutes: int
    system: str

    @property
    def name(self) -> str:
        return f"{self.set_name}.{self.minutes}min.seed{self.seed}.{self.system}"

    @property
    def set_name(self) -> str:
        """Of what is prepared once for all jobs of a fold."""
        return f"{self.data}.fold{self.fold}"

    @property
    def speed_name(self) -> str:
        """Of the measured speed, which all seeds and times share."""
        return f"{self.set_name}.{self.system}"


def plan_jobs(
    data: Sequence[str],
    folds: Mapping[str, Sequence[int]],
    seeds: Sequence[int],
    minutes: Sequence[int],
    systems: Sequence[str],
) -> list[Job]:
    """All jobs, the systems in turn: both are always at work, whichever core is free."""
    return [
        Job(data=name, fold=fold, seed=seed, minutes=length, system=system)
        for seed in seeds
        for length in sorted(minutes)
        for name in data
        for fold in folds[name]
        for system in systems
    ]


def plans_name(system: str) -> str:
    """Of nnU-Net's plan: its own name for the default, else with the planned memory."""
    memory_gb = memory_of(system)
    return "nnUNetPlans" if memory_gb is None else f"nnUNetPlans_{memory_gb:g}GB"


def memory_of(system: str) -> float | None:
    """GB that nnU-Net plans for, as in nnunet-2GB; None: its default.

    Raises:
        BesideError: If it is no system.
    """
    kind, _, size = system.partition("-")
    try:
        if kind == NNUNET and size.endswith("GB") and float(size[:-2]) > 0:
            return float(size[:-2])
    except ValueError:
        pass
    if system not in (OURS, NNUNET):
        raise BesideError(
            f"--systems: {system!r} is none of ours, nnunet, nnunet-2GB (a planner's memory target)"
        )
    return None


def speed_pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    """Who is measured beside whom, one on each core: ours beside nnU-Net, as in the comparison."""
    peers = [system for system in systems if system != OURS]
    if OURS in systems and peers:
        return [(OURS, peer) for peer in peers]
    return [(system, system) for system in systems]


def steps_of_nnunet(minutes: float, speed: Mapping[str, float]) -> int:
    """Steps that fill the time."""
    return max(1, round(60 * minutes / speed["seconds_a_step"]))


def steps_of_ours(minutes: float, rounds: int, speed: Mapping[str, float]) -> int:
    """Local steps a round that fill the time, given what a round takes beside its steps.

    Raises:
        BesideError: If so many rounds leave no time for a step.
    """
    seconds = 60 * minutes / rounds - speed["seconds_a_round"]
    steps = int(seconds / speed["seconds_a_step"] + 0.5)
    if steps < 1:
        raise BesideError(
            f"{minutes:g} minutes: {rounds} rounds leave {seconds:.1f} s for the steps of a round, "
            f"and a step takes {speed['seconds_a_step']:.1f} s; plan fewer rounds"
        )
    return steps


def read_result(folder: Path) -> dict[str, Any] | None:
    """done.json of a complete job; None of any other."""
    path = folder / "done.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def minutes_of(job: Job, done: Sequence[Mapping[str, Any]]) -> float:
    """An estimate: its training, and what prediction took in complete jobs of its kind."""
    after = [
        done["prediction_seconds"] / 60
        for done in done
        if (done["data"], done["system"]) == (job.data, job.system)
    ]
    return job.minutes + (median(after) if after else _AFTER_MINUTES)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and where.

    Attributes:
        folder: Of results: jobs/, speed/, prepared/, logs/.
        data: Folder of the data sets, by their names.
        studies: Folder of our study files: NAME.40min.yaml for a time, else NAME.yaml.
        python: Of nnU-Net's environment; None: not named.
    """

    folder: Path
    data: Path
    studies: Path
    python: Path | None
    jobs: Sequence[Job]
    systems: Sequence[str]

    def study(self, job: Job) -> Path:
        """Our study file for the job."""
        own = self.studies / f"{job.data}.{job.minutes}min.yaml"
        return own if own.exists() else self.studies / f"{job.data}.yaml"

    def result(self, job: Job) -> Path:
        return self.folder / "jobs" / job.name

    def prepared(self, job: Job) -> Path:
        return self.folder / "prepared" / job.set_name

    def speed(self, job: Job) -> Path:
        """Ours is measured anew for another study file."""
        suffix = f".{digest_of(self.study(job))[:8]}" if job.system == OURS else ""
        return self.folder / "speed" / f"{job.speed_name}{suffix}.json"

    def plans(self, job: Job) -> dict[str, Any]:
        """nnU-Net's plans of a fold by name; none before they are made."""
        path = self.prepared(job) / "plans.json"
        return json.loads(path.read_text(encoding="utf-8"))["plans"] if path.exists() else {}

    def is_default(self, job: Job) -> bool:
        """Whether a memory target has changed nothing: the job would be nnunet's again."""
        plans = self.plans(job)
        own, default = (plans.get(plans_name(system)) for system in (job.system, "nnunet"))
        if memory_of(job.system) is None or own is None or default is None:
            return False
        return all(own[key] == default[key] for key in _OF_A_PLAN)

    def to_do(self) -> list[Job]:
        return [
            job
            for job in self.jobs
            if read_result(self.result(job)) is None and not self.is_default(job)
        ]


def digest_of(path: Path) -> str:
    """Of the whole study that a file makes: another one is another system."""
    return read_study(path).digest
