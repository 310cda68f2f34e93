"""What one hostile site of five does to the others' model, by aggregation rule.

    python -m benchmarks.hostile_sites DATA FOLDER --seed 1

Trains a federation for every attack and rule, in this process and without Flower: a site's round
and the centre's aggregation are called as the study calls them.  Each result is a file in FOLDER;
what is there is not trained again.  DATA: the Medical Segmentation Decathlon's hippocampus.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.common import ROOT
from benchmarks.federation import finish_round
from benchmarks.hostile_attacks import ATTACKS, Attack, generator_of, lying, poisoned
from client.data.dataset import SiteData, prepare_site
from client.training.clipping import clip_update
from client.training.evaluation import evaluate_site
from client.training.round import RoundResult, train_round
from protocol.agreement.bounds import distance, update_bound
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.config.study_file import read_study
from protocol.files import write_json
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.reports import EvaluationReport, SiteFacts
from protocol.wire.weights import Weights
from server.rounds.aggregation import capped_shares, segmenter_weights
from server.rounds.loop import new_record
from server.rounds.record import StudyRecord
from server.rounds.round import aggregate
from server.rounds.schedule import next_plan
from server.rounds.updates import RoundUpdates
from simulation.layouts import StudyCase, read_cohort
from simulation.split import write_sites

STUDY = ROOT / "docs/results/hostile-sites.yaml"
LABELLED, UNLABELLED, LABELLED_SITES, LABEL_FREE = 60, 10, "ABCDE", "F"
PARTLY = "ABC"
# Of a site's twelve cases.
PARTS = ("labelled",) * 7 + ("validation",) * 2 + ("test",) * 3
BEFORE = "mean, left out over 3 x"
RULES: Mapping[str, Mapping[str, object]] = {
    BEFORE: {},
    "mean": {"rule": "mean"},
    "median": {"rule": "median"},
    "trimmed-mean": {"rule": "trimmed-mean"},
    "geometric-median": {"rule": "geometric-median"},
    "krum": {"rule": "krum"},
    "multi-krum": {"rule": "multi-krum"},
}


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """A site with its cases and what it declares."""

    config: SiteConfig
    data: SiteData
    facts: SiteFacts


def main(
    data: Annotated[Path, typer.Argument(help="folder with imagesTr/ and labelsTr/")],
    folder: Annotated[Path, typer.Argument(help="one file a federation; what is there stays")],
    seed: Annotated[int, typer.Option(help="of weights, patches and the division of cases")] = 1,
    rules: Annotated[str, typer.Option(help="separated by semicolons")] = ";".join(RULES),
    attacks: Annotated[str, typer.Option(help="separated by semicolons")] = ";".join(ATTACKS),
    partly: Annotated[
        bool, typer.Option(help=f"sites {PARTLY} have drawn one organ alone")
    ] = False,
) -> None:
    """Train what is missing."""
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    study = merged(read_study(STUDY), {"seed": seed})
    with tempfile.TemporaryDirectory() as place:
        hospitals = hospitals_of(divided(data, seed), study, Path(place), partly=partly)
        for attack in attacks.split(";"):
            for rule in rules.split(";"):
                kind = "partly " if partly else ""
                done = folder / f"{seed} {kind}{attack} {rule}.json".replace(" ", "_")
                # One federation without the hostile site is compared with.
                if done.exists() or (not ATTACKS[attack].takes_part and rule != BEFORE):
                    continue
                started = time.monotonic()
                result = federation(
                    study, hospitals, ATTACKS[attack], rule, Path(place) / done.stem
                )
                result |= {"seed": seed, "attack": attack, "rule": rule, "partly": partly}
                write_json(done, result | {"seconds": time.monotonic() - started})
                typer.echo(f"{time.monotonic() - started:4.0f} s  {summary(result)}")
    typer.echo("\n".join(table(folder, "test")))


def divided(data: Path, seed: int) -> list[StudyCase]:
    """Sixty labelled cases dealt to five sites; the sixth has ten without labels."""
    cases = read_cohort(data, LABELLED, UNLABELLED)
    order = np.random.default_rng([seed, 23]).permutation(LABELLED)
    dealt = [
        replace(
            cases[index], site=LABELLED_SITES[place // len(PARTS)], part=PARTS[place % len(PARTS)]
        )
        for place, index in enumerate(order)
    ]
    return dealt + [replace(case, site=LABEL_FREE) for case in cases[LABELLED:]]


def hospitals_of(
    cases: Sequence[StudyCase], study: StudyProtocol, place: Path, *, partly: bool = False
) -> dict[str, Hospital]:
    """The sites, their caches made."""
    configs = write_sites(
        cases,
        place / "sites",
        place / "cache",
        device="cpu",
        threads=1,
        hidden=dict.fromkeys(PARTLY, frozenset({"posterior"})) if partly else None,
        organs=study.organs,
    )
    found = {}
    for site, config in configs.items():
        data = prepare_site(config, study)
        facts = data.declared(config, study.organ_names)
        found[site] = Hospital(config=config, data=data, facts=facts)
    return found


def federation(
    study: StudyProtocol,
    hospitals: Mapping[str, Hospital],
    attack: Attack,
    rule: str,
    place: Path,
) -> dict[str, object]:
    """All rounds under one attack; the final model's scores by honest site."""
    record = new_record(merged(study, {"aggregation": RULES[rule]}), "hostile")
    there = {s: h for s, h in hospitals.items() if attack.takes_part or s not in attack.sites}
    record.facts = {
        s: lying(h.facts) if attack.lies and s in attack.sites else h.facts
        for s, h in there.items()
    }
    with closing(RoundUpdates(place / "updates")) as updates:
        while len(record.rounds) < study.training.rounds:
            _round(record, there, attack, rule, updates, place)
    honest = [s for s in there if s not in attack.sites and s in LABELLED_SITES]
    reports = {
        s: evaluate_site(there[s].config, study, there[s].data, record.segmenter) for s in honest
    }
    return {
        "dsc": {
            part: {s: _scores(report, part) for s, report in reports.items()}
            for part in ("validation", "test")
        },
        "norms": [dict(done.norms) for done in record.rounds],
        "clipped": [dict(done.clipped) for done in record.rounds],
        "left_out": [dict(done.left_out) for done in record.rounds],
        "bounds": [_bounds(record, done.plan) for done in record.rounds],
    }


def _round(
    record: StudyRecord,
    hospitals: Mapping[str, Hospital],
    attack: Attack,
    rule: str,
    updates: RoundUpdates,
    place: Path,
) -> None:
    plan = next_plan(record)
    trained, reports, current = {}, {}, record.networks
    for site, hospital in hospitals.items():
        if not hospital.data.labelled and not plan.works_without_labels:
            continue
        turned = site in attack.sites and attack.flips_labels
        data = poisoned(hospital.data) if turned else hospital.data
        config = hospital.config.model_copy(update={"state": place / site})
        result = train_round(
            config, record.protocol, plan, data, record.segmenter, record.confidence, run=record.run
        )
        trained[site], reports[site] = _clipped(record, plan, result), result.report
    updates.clear()
    for site, sent in trained.items():
        if site in attack.sites:
            chance = generator_of(record.protocol.seed, site, plan.round)
            honest = [
                w for s, w in trained.items() if s in LABELLED_SITES and s not in attack.sites
            ]
            sent = {
                n: attack.forge(w, current[n], _usual_norm(honest, n, current[n]), chance)
                for n, w in sent.items()
            }
        updates.add(site, reports[site], 0, sent, {n: current[n] for n in sent})
    left_out: dict[str, str] = {}
    if rule == BEFORE:
        left_out = _as_before(record, updates, plan)
    else:
        aggregate(record, updates, plan)
    finish_round(record, plan, updates, left_out)


def _clipped(record: StudyRecord, plan: RoundPlan, result: RoundResult) -> dict[str, Weights]:
    """A site's networks as it would send them."""
    current, bounds = record.networks, _bounds(record, plan)
    return {n: clip_update(w, current[n], None, bounds[n])[0] for n, w in result.networks.items()}


def _usual_norm(honest: Sequence[Mapping[str, Weights]], network: str, current: Weights) -> float:
    return median(distance(networks[network], current) for networks in honest)


def _as_before(record: StudyRecord, updates: RoundUpdates, plan: RoundPlan) -> dict[str, str]:
    """The mean as it was: updates over three times the round's median norm are left out, D's shares
    have no cap, and nothing is shortened."""
    left_out: dict[str, str] = {}
    for labelled in (True, False):
        alike = {s: u for s, u in updates.accepted.items() if bool(u.report.labelled) is labelled}
        for network in (SEGMENTER, CONFIDENCE):
            norms = {s: u.norms[network] for s, u in alike.items() if network in u.norms}
            middle = median(norms.values()) if len(norms) > 2 else 0.0
            left_out |= {s: network for s, n in norms.items() if middle and n > 3.0 * middle}
    kept = {s: record.facts[s] for s in updates.accepted if s not in left_out}
    shares = segmenter_weights(kept, plan, record.protocol.aggregation)
    record.segmenter = updates.combine(SEGMENTER, shares, record.segmenter, "mean", 0)
    if record.confidence is not None:
        with_labels = {s: f.drawn for s, f in kept.items() if s in updates.with_network(CONFIDENCE)}
        shares = capped_shares(with_labels, 1.0)
        record.confidence = updates.combine(CONFIDENCE, shares, record.confidence, "mean", 0)
    return left_out


def _bounds(record: StudyRecord, plan: RoundPlan) -> dict[str, float]:
    return {n: update_bound(record.protocol, plan, n, w) for n, w in record.networks.items()}


def _scores(report: EvaluationReport, part: str) -> dict[str, list[float]]:
    """Sum and count of DSC by organ."""
    return {o: [sums.dsc.sum, sums.dsc.count] for o, sums in report.scores[part].items()}


def mean_dsc(result: Mapping[str, object], part: str, sites: str | None = None) -> float:
    """Mean over organs and cases of the honest sites, or of those of them that are named."""
    scores: Mapping[str, Mapping[str, Sequence[float]]] = result["dsc"][part]  # type: ignore[index]
    organs = [
        o for s, by_organ in scores.items() if not sites or s in sites for o in by_organ.values()
    ]
    return sum(total for total, _ in organs) / sum(count for _, count in organs)


def table(folder: Path, part: str) -> list[str]:
    """Markdown: mean DSC of the honest sites by attack and rule, over the seeds that are there."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        key = (("partly drawn, " if result["partly"] else "") + result["attack"], result["rule"])
        found.setdefault(key, []).append(mean_dsc(result, part))
    attacks = dict.fromkeys(attack for attack, _ in found)
    lines = [f"| {part} | {' | '.join(RULES)} |", "| --- |" + " --- |" * len(RULES)]
    for attack in sorted(attacks, key=lambda name: [*ATTACKS, name].index(name)):
        cells = [found.get((attack, rule), []) for rule in RULES]
        shown = [f"{fmean(values):.3f}" if values else "" for values in cells]
        lines.append(f"| {attack} | {' | '.join(shown)} |")
    return lines


def summary(result: Mapping[str, object]) -> str:
    validation, test = (mean_dsc(result, part) for part in ("validation", "test"))
    return (
        f"seed {result['seed']}  {result['attack']:30} {result['rule']:24} "
        f"validation {validation:.3f}  test {test:.3f}"
    )


if __name__ == "__main__":
    typer.run(main)
