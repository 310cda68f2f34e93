"""The page of `beside_nnunet`: means, paired differences with intervals, plans and steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.beside_nnunet_plan import DATA, OURS, BesideError, read_result
from benchmarks.common import ROOT
from protocol.files import write_text
from simulation.experiment.report.statistics import (
    PLACE,
    Difference,
    Summary,
    case_means,
    difference,
    summarise,
)

PAGE = ROOT / "docs" / "results" / "nnunet.md"
HIGHER_IS_BETTER = ("dsc", "nsd")
_NO_SCORE = ("case", "part", "organ", "failure")
_KEYS = ("data", "minutes", "system", "fold", "seed", "site")
_ALL = "all"
_HEAD = """# Beside nnU-Net

Made by `python -m benchmarks.beside_nnunet FOLDER --report`; the same command without `--report`
trains what is missing, and `--plan` lists it.

Ours is the pooled training of a planned study's segmentation network alone; nnU-Net is nnunetv2
with its own planner and preprocessing (`3d_fullres`), network, deep supervision, loss, views, SGD
and predictor. For both:

- the same cases to train on, to validate on (neither uses them to choose a model) and to test on:
  hippocampus, fold 1 of the first 50 (35, 5, 10) and the 20 withheld; cardiac, of five folds of 40,
  dealt by group, those named. Our settings were chosen on fold 1's training and validation cases;
- **one thread**, two jobs side by side on two cores;
- a minute is one of a core: the time in which a process had it, so that what else the machine did
  does not count. What a step takes is measured first, while the other core is busy with the other
  system, and is not counted; from it follow the steps that fill the time, the same for every seed.
  The minutes that they really took are in the last table but one. nnU-Net's polynomial decay falls
  with every step and ends at the last, without its validation, pictures and checkpoints: all of its
  time is training. Its views are made in the training process, because a worker on the same core
  would only compete with it. Ours does not validate before its last round;
- planning, preprocessing and the prediction of test cases are outside the time. nnU-Net predicts as
  it does by default, with Gaussian weights, half-overlapping windows and mirroring (eight passes);
  ours as its study file says, without mirroring;
- our metrics score the label maps of both on the scans' own grids; the surface Dice (nsd) at 2 mm.
  A failure is an organ that is missed, made up or misplaced.

nnU-Net is made for a GPU and a thousand epochs: what stands here is what either gives in minutes on
a CPU, not what nnU-Net can reach. "nnunet-2GB" is its plan for a memory target of 2 GB, not 8;
where that changes nothing, it has no row.

What is complete stands here; where a row has one seed, differences under .01 say nothing.

Means are over cases, each the mean of its seeds; intervals are 95 % percentile bootstraps, of
differences over pairs of the same case and seed. Off zero: the interval does not hold 0."""


def write_page(folder: Path, page: Path) -> None:
    """The page from what is complete in the folder.

    Raises:
        BesideError: If nothing is.
    """
    write_text(page, "\n".join([_HEAD, "", *tables(read_jobs(folder), _plans(folder))]) + "\n")


def read_jobs(folder: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Scores of every complete job, a row a case and organ, and what each job says of itself.

    Raises:
        BesideError: If there is none.
    """
    done, frames = [], []
    for path in sorted((folder / "jobs").glob("[!.]*")):
        result = read_result(path)
        if result is None:
            continue
        done.append(result)
        keys = {key: result[key] for key in ("data", "minutes", "system", "fold", "seed")}
        frames.append(pd.read_csv(path / "cases.csv").assign(**keys, site=""))
    if not done:
        raise BesideError(f"{folder}: holds no complete job; run it without --report first")
    return pd.concat(frames, ignore_index=True), done


def _plans(folder: Path) -> dict[str, Any]:
    """nnU-Net's plans by fold of a set, and name."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))["plans"]
        for path in sorted((folder / "prepared").glob("*/plans.json"))
    }


def tables(
    found: tuple[pd.DataFrame, list[dict[str, Any]]], plans: dict[str, Any]
) -> Iterator[str]:
    """Lines of Markdown."""
    rows, done = found
    names = [column for column in rows.columns if column not in (*_NO_SCORE, *_KEYS)]
    yield from ["## All organs", "", *_means(rows, names), ""]
    yield from ["## Ours less nnU-Net", "", *_differences(rows, names, [_ALL]), ""]
    yield from ["## By organ", "", *_means(rows, names, by_organ=True), ""]
    yield from ["", *_differences(rows, names, None), ""]
    yield from ["## Steps and minutes", "", *_costs(done), ""]
    yield from ["## nnU-Net's plans", "", *_plan_lines(plans), ""]
    versions = sorted({f"{n} {v}" for result in done for n, v in result["versions"].items()})
    yield f"{len(done)} trainings; {', '.join(versions)}."


def scores_of(rows: pd.DataFrame, name: str, organ: str) -> pd.Series:
    """A score by fold, seed, site and case: of an organ, or the mean over those that have one."""
    chosen = rows if organ == _ALL else rows[rows["organ"] == organ]
    return chosen.groupby(PLACE)[name].mean()


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    for name in DATA:
        of_data = rows[rows["data"] == name]
        for minutes in sorted(of_data["minutes"].unique()):
            yield name, int(minutes), of_data[of_data["minutes"] == minutes]


def _systems(group: pd.DataFrame) -> list[str]:
    """Ours first."""
    return sorted(group["system"].unique(), key=lambda name: (name != OURS, name))


def _organs(name: str, organs: Sequence[str] | None) -> Sequence[str]:
    return list(DATA[name].organs) if organs is None else organs


def _means(rows: pd.DataFrame, names: Sequence[str], *, by_organ: bool = False) -> Iterator[str]:
    yield f"| set | minutes | organ | system | cases, seeds | {' | '.join(names)} | failures |"
    yield "| --- " * (len(names) + 6) + "|"
    for data, minutes, group in _groups(rows):
        for organ in _organs(data, None if by_organ else [_ALL]):
            for system in _systems(group):
                own = group[group["system"] == system]
                own = own if organ == _ALL else own[own["organ"] == organ]
                cells = [
                    _stated(summarise(case_means(scores_of(own, n, _ALL))), ".3f") for n in names
                ]
                cases = own.groupby(["fold", "case"]).ngroups
                failures = int(own["failure"].notna().sum())
                yield (
                    f"| {data} | {minutes} | {organ} | {system} | {cases}, "
                    f"{own['seed'].nunique()} | {' | '.join(cells)} | {failures} |"
                )


def _stated(found: Summary | Difference, form: str) -> str:
    """Mean and interval, each number in this format."""
    if found.mean is None:
        return "none"
    if found.interval is None:
        return format(found.mean, form)
    low, high = format(found.interval.low, form), format(found.interval.high, form)
    return f"{found.mean:{form}} [{low}, {high}]"


def _differences(
    rows: pd.DataFrame, names: Sequence[str], organs: Sequence[str] | None
) -> Iterator[str]:
    yield "| set | minutes | organ | peer | score | pairs of cases | ours less peer | off zero |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for data, minutes, group in _groups(rows):
        for peer in _systems(group)[1:]:
            for organ in _organs(data, organs):
                for name in names:
                    gap = gap_of(group, peer, name, organ)
                    yield (
                        f"| {data} | {minutes} | {organ} | {peer} | {name} | {gap.n} | "
                        f"{_stated(gap, '+.3f')} | {verdict(gap, name)} |"
                    )


def gap_of(group: pd.DataFrame, peer: str, name: str, organ: str) -> Difference:
    """Ours less the peer's, on the folds, seeds and cases of both."""
    of = {s: scores_of(group[group["system"] == s], name, organ) for s in (OURS, peer)}
    return difference(of[OURS], of[peer])


def verdict(gap: Difference, name: str) -> str:
    """Whether the interval is off zero, and for whom."""
    if gap.verdict == "undecided":
        return "no"
    return "yes, ours" if (gap.verdict == "higher") == (name in HIGHER_IS_BETTER) else "yes, peer"


def _costs(done: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What each job really took; folds and seeds as a mean and a range."""
    yield "| set | minutes | system | jobs | steps | core minutes | predicted, min | weights |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    kinds: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for result in done:
        kinds.setdefault((result["data"], result["minutes"], result["system"]), []).append(result)
    for (data, minutes, system), jobs in sorted(kinds.items()):
        steps, weights = (sorted({job[key] for job in jobs}) for key in ("steps", "parameters"))
        yield (
            f"| {data} | {minutes} | {system} | {len(jobs)} | {_range(steps)} | "
            f"{_minutes([job['training_cpu_seconds'] for job in jobs])} | "
            f"{fmean(job['prediction_seconds'] for job in jobs) / 60:.1f} | {_range(weights)} |"
        )


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _minutes(seconds: Sequence[float]) -> str:
    low, high = min(seconds) / 60, max(seconds) / 60
    return f"{fmean(seconds) / 60:.1f} ({low:.1f} to {high:.1f})"


def _plan_lines(plans: dict[str, Any]) -> Iterator[str]:
    yield "| set, fold | plan | spacing, mm | patch | batch | features | strides |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, by_name in plans.items():
        for plan_name, plan in by_name.items():
            network = plan["architecture"]["arch_kwargs"]
            yield (
                f"| {name} | {plan_name} | {_triple(plan['spacing'])} | "
                f"{_triple(plan['patch_size'])} | {plan['batch_size']} | "
                f"{', '.join(map(str, network['features_per_stage']))} | "
                f"{', '.join(_triple(stride) for stride in network['strides'])} |"
            )


def _triple(values: Sequence[float]) -> str:
    """z x y x x, as nnU-Net has it."""
    return " x ".join(f"{value:g}" for value in values)
