"""Whether scans that are labelled by `asdnet-site next-to-label` teach more than others.

    python -m benchmarks.next_to_label DATA FOLDER

For every seed a model learns from a few labelled scans, then anew from these and some more, which
are chosen by the list, by other rules, or at random; every training takes as many steps.  The last
model's DSC on test scans, which are the same for all, is compared.  Each training is a file in
FOLDER; what is there is not trained again.  DATA: the Medical Segmentation Decathlon's hippocampus.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy import stats

from benchmarks.beside_nnunet_job import SUPERVISED
from benchmarks.common import ROOT
from client.data.cache import CachedCase, cached_case
from client.data.case import Case
from client.segmenting.next_to_label import (
    SegmentedScan,
    distances,
    segmented_scan,
    standardised,
    suggest,
)
from client.training.evaluation import (
    dsc_on_grid,
    load_confidence,
    load_segmenter,
    predict_on_grid,
    trust_maps,
)
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.config.study_file import read_study
from protocol.files import write_json
from server.rounds.record import StudyRecord
from simulation.experiment.training import train_in_place
from simulation.layouts import StudyCase, read_cohort
from simulation.split import write_sites

STUDY = ROOT / "docs/results/next-to-label.yaml"
START, LIST, RANDOM = "start", "list", "random"
_SITE = "P"


def by_list(new: Sequence[SegmentedScan], old: Sequence[SegmentedScan]) -> list[str]:
    """The product's order."""
    return [suggestion.scan.name for suggestion in suggest(new, old)]


def by_error(new: Sequence[SegmentedScan], old: Sequence[SegmentedScan]) -> list[str]:
    """The largest expected error first."""
    return [scan.name for scan in sorted(new, key=lambda scan: (-scan.expected_error, scan.name))]


def by_coverage(new: Sequence[SegmentedScan], old: Sequence[SegmentedScan]) -> list[str]:
    """Next takes most from the sum over scans of expected error x distance to the nearest listed.

    It represents the doubted scans (Yang et al., MICCAI 2017), as facility location (Wei et al.,
    ICML 2015); one odd scan comes after one that stands for many.
    """
    z = standardised([*new, *old])
    between = distances(z[: len(new)], z[: len(new)])
    nearest = distances(z[: len(new)], z[len(new) :]).min(1)
    errors = np.array([scan.expected_error for scan in new])
    left, listed = list(range(len(new))), []
    while left:
        gains = errors @ np.maximum(nearest[:, None] - between[:, left], 0)
        one = left.pop(int(np.argmax(gains)))
        listed.append(new[one].name)
        nearest = np.minimum(nearest, between[:, one])
    return listed


RULES: Mapping[str, Callable[[Sequence[SegmentedScan], Sequence[SegmentedScan]], list[str]]] = {
    LIST: by_list,
    "error": by_error,
    "coverage": by_coverage,
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one seed compares.

    Attributes:
        seed: Of the first labelled scans, the random draws, the weights and the patches.
        study: With this seed.
        pool: Scans that may be labelled, by name.
        tested: Scans that no model learns from.
        labelled: Names of the first labelled ones.
        cache: Of preprocessed scans.
    """

    seed: int
    study: StudyProtocol
    pool: Mapping[str, StudyCase]
    tested: Sequence[StudyCase]
    labelled: Sequence[str]
    cache: Path

    def drawn(self, number: int, count: int) -> list[str]:
        """So many of the others at random; another number draws others."""
        others = sorted(set(self.pool) - set(self.labelled))
        order = np.random.default_rng([self.seed, 41, number]).permutation(len(others))
        return [others[i] for i in order[:count]]


def main(
    data: Annotated[Path, typer.Argument(help="folder with imagesTr/ and labelsTr/")],
    folder: Annotated[Path, typer.Argument(help="one file a training; what is there stays")],
    seeds: Annotated[str, typer.Option(help="as 1,2,3")] = "1,2,3,4,5,6,7,8,9,10",
    start: Annotated[int, typer.Option(min=1, help="labelled scans of the first model")] = 4,
    add: Annotated[int, typer.Option(min=1, help="scans that are labelled then")] = 4,
    draws: Annotated[int, typer.Option(min=1, help="random choices a seed")] = 2,
    rules: Annotated[str, typer.Option(help="beside random")] = ",".join(RULES),
    test: Annotated[int, typer.Option(min=1, help="test scans, the last by name")] = 20,
    study: Annotated[Path, typer.Option(help="study file")] = STUDY,
    report: Annotated[bool, typer.Option("--report", help="print what is there")] = False,
) -> None:
    """Train what is missing, and print the comparison."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    cases = {case.name: case for case in read_cohort(data, None, 0)}
    names = sorted(cases)
    for seed in [] if report else map(int, seeds.split(",")):
        pool = {name: cases[name] for name in names[:-test]}
        order = np.random.default_rng([seed, 31]).permutation(len(pool))
        trial = Trial(
            seed=seed,
            study=merged(read_study(study), {"seed": seed}),
            pool=pool,
            tested=[cases[name] for name in names[-test:]],
            labelled=[names[i] for i in order[:start]],
            cache=folder / "cache",
        )
        first = _done(folder / f"{seed}-{START}.json", partial(first_model, trial))
        chosen = {rule: first["order"][rule][:add] for rule in rules.split(",")}
        chosen |= {f"{RANDOM}{n}": trial.drawn(n, add) for n in range(1, draws + 1)}
        for arm, more in chosen.items():
            _done(folder / f"{seed}-{arm}.json", partial(later_model, trial, more))
    typer.echo("\n".join(table(folder)))


def _done(path: Path, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the file holds, made first where it is not there."""
    if not path.exists():
        wall, cpu = time.monotonic(), time.process_time()
        result = job()
        took = {"seconds": time.monotonic() - wall, "core_seconds": time.process_time() - cpu}
        write_json(path, result | took)
        typer.echo(f"{path.stem}: DSC {fmean(result['dsc'].values()):.4f}, {took}")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def first_model(trial: Trial) -> dict[str, Any]:
    """S and D on the first labelled scans, and in which order every rule would label the others."""
    with tempfile.TemporaryDirectory() as place:
        config, record = _trained(trial, trial.study, trial.labelled, Path(place))
        scans, truth = _segmented(trial, config, record)
        new = [scans[name] for name in sorted(set(trial.pool) - set(trial.labelled))]
        old = [scans[name] for name in sorted(trial.labelled)]
        return {
            "dsc": _tested(trial, config, record),
            "labelled": list(trial.labelled),
            "order": {rule: choose(new, old) for rule, choose in RULES.items()},
            "expected": {scan.name: 1 - scan.expected_error for scan in new},
            "true": {scan.name: truth[scan.name] for scan in new},
        }


def later_model(trial: Trial, more: Sequence[str]) -> dict[str, Any]:
    """S alone on the first labelled scans and these."""
    study = merged(trial.study, {"method": SUPERVISED})
    with tempfile.TemporaryDirectory() as place:
        config, record = _trained(trial, study, [*trial.labelled, *more], Path(place))
        return {"dsc": _tested(trial, config, record), "more": list(more)}


def _trained(
    trial: Trial, study: StudyProtocol, names: Sequence[str], place: Path
) -> tuple[SiteConfig, StudyRecord]:
    cases = [replace(trial.pool[name], site=_SITE, part="labelled") for name in names]
    config = write_sites(cases, place, trial.cache, device="cpu", threads=1)[_SITE]
    return config, train_in_place(config, study, "next-to-label")


def _tested(trial: Trial, config: SiteConfig, record: StudyRecord) -> dict[str, float]:
    """Mean DSC over organs by test scan, of the last model, on the study's grid."""
    segmenter = load_segmenter(config, record.protocol, record.judged)
    cases = ((case.name, _cached(trial, case)) for case in trial.tested)
    return {
        name: dsc_on_grid(predict_on_grid(segmenter, record.protocol, case), record.protocol, case)
        for name, case in cases
    }


def _segmented(
    trial: Trial, config: SiteConfig, record: StudyRecord
) -> tuple[dict[str, SegmentedScan], dict[str, float]]:
    """Every scan of the pool as a site sees it, and its true mean DSC on the study's grid."""
    study = record.protocol
    segmenter = load_segmenter(config, study, record.judged)
    confidence = load_confidence(config, study, record.confidence or {})
    scans, truth = {}, {}
    for name, of_pool in trial.pool.items():
        case = _cached(trial, of_pool)
        probabilities = predict_on_grid(segmenter, study, case)
        scans[name] = segmented_scan(
            name,
            case.image,
            probabilities,
            trust_maps(confidence, probabilities, study, case)["confidence"],
            study.spacing_mm,
            study.organ_names,
            drawn=study.organ_names,
        )
        truth[name] = dsc_on_grid(probabilities, study, case)
    return scans, truth


def _cached(trial: Trial, case: StudyCase) -> CachedCase:
    files = Case(name=case.name, part="labelled", image=case.image, label=case.reference)
    return cached_case(files, trial.cache, trial.study)


def table(folder: Path) -> list[str]:
    """DSC by rule, and the list against the others, paired by seed, with t intervals over seeds."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*-*.json")}
    dsc: dict[str, dict[str, list[float]]] = {}
    for stem, result in found.items():
        seed, _, arm = stem.partition("-")
        arm = RANDOM if arm.startswith(RANDOM) else arm
        dsc.setdefault(arm, {}).setdefault(seed, []).append(fmean(result["dsc"].values()))
    means = {arm: {seed: fmean(of) for seed, of in by.items()} for arm, by in dsc.items()}
    lines = ["| labelled | seeds | mean DSC | minus random [95 %] |", "| --- | --- | --- | --- |"]
    for arm in (START, RANDOM, *RULES):
        of = means.get(arm, {})
        if of:
            gap = _difference(of, means.get(RANDOM, {})) if arm not in (START, RANDOM) else ""
            lines.append(f"| {arm} | {len(of)} | {fmean(of.values()):.4f} | {gap} |")
    for rule in (name for name in RULES if name != LIST):
        lines.append(f"list minus {rule}: {_difference(means.get(LIST, {}), means.get(rule, {}))}")
    spread = [np.std(of, ddof=1) for of in dsc.get(RANDOM, {}).values() if len(of) > 1]
    if spread:
        lines.append(f"SD of random draws within a seed: {np.sqrt(np.mean(np.square(spread))):.4f}")
    for seed in sorted(means.get(START, {}), key=int):
        first = found[f"{seed}-{START}"]
        expected, true = (
            [first[of][name] for name in first["true"]] for of in ("expected", "true")
        )
        rho, off = stats.spearmanr(expected, true)[0], fmean(expected) - fmean(true)
        lines.append(
            f"seed {seed}: expected DSC and true: rank correlation {rho:.2f}, mean off {off:+.3f}"
        )
    return lines


def _difference(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    gaps = [first[seed] - second[seed] for seed in first if seed in second]
    if len(gaps) < 2:
        return "one seed" if gaps else "none"
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval()
    return f"{fmean(gaps):+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    typer.run(main)
