"""Membership: whether who holds a scan and its label can tell that a model was trained on it.

The attack of Yeom et al. (2018): a case on which the model is better is taken for a member.  It is
made against the global model and against the last update of a single site, which is what a
curious centre holds.  `python -m benchmarks.membership --help`; a run that is done is kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.federation import finish_round
from client.data.cache import CachedCase
from client.data.dataset import SiteData, prepare_site
from client.training.evaluation import load_segmenter, predict_on_grid
from client.training.round import train_round
from protocol.config.presets import preset
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.config.training import Views
from protocol.files import append_line
from protocol.wire.weights import Weights
from server.rounds.loop import new_record
from server.rounds.record import StudyRecord
from server.rounds.round import aggregate
from server.rounds.schedule import next_plan
from server.rounds.updates import RoundUpdates

# Of a set: its organs, the grid, and the training patch.
SETS = {
    "hippocampus": ({"anterior": 1, "posterior": 2}, (1.5, 1.5, 1.5), (24, 32, 24)),
    "atrium": ({"atrium": 1}, (4.0, 4.0, 4.0), (40, 32, 24)),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One federation: of which set, how many sites of how many labelled cases, and its seed."""

    data: str
    sites: int
    cases: int
    views: Views
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """AUC of telling members from others, by voxel loss and by DSC; and the DSC of both groups.

    `update_*` are of one site's members by its own last update, as means over the sites.
    """

    global_loss: float
    global_dsc: float
    update_loss: float
    update_dsc: float
    dsc_members: float
    dsc_others: float


def study(setting: Setting, rounds: int) -> StudyProtocol:
    """The preset `quick` on this set; labelled scans alone."""
    organs, spacing, patch = SETS[setting.data]
    changes = {
        "name": "membership",
        "seed": setting.seed,
        "organs": organs,
        "spacing_mm": spacing,
        "patch_voxels": patch,
        "training": {"rounds": rounds, "views": setting.views},
        "aggregation": {"rule": "mean"},
    }
    return merged(preset("quick").model_copy(update={"organs": organs}), changes)


def attack(setting: Setting, source: Path, cache: Path, rounds: int) -> Outcome:
    """Train the federation, then try to tell its cases from those that it has not seen."""
    protocol = study(setting, rounds)
    names = sorted(path.name for path in (source / "imagesTr").iterdir())
    np.random.default_rng(setting.seed).shuffle(names)
    count = setting.sites * setting.cases
    groups = {
        f"S{i}": names[i * setting.cases : (i + 1) * setting.cases] for i in range(setting.sites)
    }
    with TemporaryDirectory() as folder:
        homes = {
            site: _site(Path(folder) / site, source, group, cache) for site, group in groups.items()
        }
        others = _site(Path(folder) / "others", source, names[count:], cache)
        data = {site: prepare_site(config, protocol) for site, config in homes.items()}
        unseen = prepare_site(others, protocol)
        record, updates = _federate(protocol, homes, data)
        scores = _Scores(others, protocol)
        members = [case for site in data.values() for case in site.labelled]
        inside = scores.of(record.segmenter, members)
        outside = scores.of(record.segmenter, unseen.labelled)
        by_site = [
            (
                scores.of(updates[site], data[site].labelled),
                scores.of(updates[site], unseen.labelled),
            )
            for site in homes
        ]
    return Outcome(
        global_loss=auc([-loss for loss, _ in inside], [-loss for loss, _ in outside]),
        global_dsc=auc([dsc for _, dsc in inside], [dsc for _, dsc in outside]),
        update_loss=mean(auc([-a for a, _ in own], [-a for a, _ in rest]) for own, rest in by_site),
        update_dsc=mean(auc([b for _, b in own], [b for _, b in rest]) for own, rest in by_site),
        dsc_members=mean(dsc for _, dsc in inside),
        dsc_others=mean(dsc for _, dsc in outside),
    )


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Area under the ROC curve of "a member has the higher score"."""
    truth = [1] * len(members) + [0] * len(others)
    return float(roc_auc_score(truth, [*members, *others]))


def _site(home: Path, source: Path, names: Sequence[str], cache: Path) -> SiteConfig:
    for folder in ("imagesTr", "labelsTr"):
        (home / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(source / folder / name, home / folder / name)
    return SiteConfig(
        site=home.name, data=home, cache=cache, state=home / "state", device="cpu", threads=1
    )


def _federate(
    protocol: StudyProtocol, homes: Mapping[str, SiteConfig], data: Mapping[str, SiteData]
) -> tuple[StudyRecord, dict[str, Weights]]:
    """All rounds of federated averaging, and every site's last update."""
    record = new_record(protocol, "membership")
    record.facts = {
        site: of.declared(homes[site], protocol.organ_names) for site, of in data.items()
    }
    last: dict[str, Weights] = {}
    with closing(RoundUpdates(None)) as updates:
        while len(record.rounds) < protocol.training.rounds:
            plan, current = next_plan(record), record.networks
            updates.clear()
            for site, config in homes.items():
                result = train_round(
                    config,
                    protocol,
                    plan,
                    data[site],
                    record.segmenter,
                    record.confidence,
                    run=record.run,
                )
                updates.add(site, result.report, 0, result.networks, current)
                last[site] = result.segmenter
            aggregate(record, updates, plan)
            finish_round(record, plan, updates)
    return record, last


class _Scores:
    """How well a model does on a case: its voxels' mean cross-entropy, its organs' mean DSC."""

    def __init__(self, config: SiteConfig, protocol: StudyProtocol) -> None:
        self._config, self._protocol = config, protocol

    def of(self, weights: Weights, cases: Sequence[CachedCase]) -> list[tuple[float, float]]:
        segmenter = load_segmenter(self._config, self._protocol, weights)
        return [self._one(segmenter, case) for case in cases]

    def _one(self, segmenter: nn.Module, case: CachedCase) -> tuple[float, float]:
        probabilities = predict_on_grid(segmenter, self._protocol, case)[0]
        truth = torch.from_numpy(np.array(case.label)).long()
        loss = nn.functional.nll_loss(probabilities.clamp_min(1e-7).log()[None], truth[None])
        predicted = probabilities.argmax(0)
        dsc = [
            2
            * float(((predicted == n) & (truth == n)).sum())
            / max(1.0, float((predicted == n).sum() + (truth == n).sum()))
            for n in range(1, self._protocol.classes)
        ]
        return float(loss), mean(dsc)


def measure(
    data: Annotated[Path, typer.Option(help="Folder with hippocampus/ and atrium/.")],
    out: Annotated[Path, typer.Option(help="Results, a JSON line a run; those there are kept.")],
    seeds: Annotated[int, typer.Option(help="How many seeds of every setting.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of a study.")] = 20,
) -> None:
    """Membership by the number of cases a site, on real scans."""
    cohorts: list[tuple[str, int, int, Views]] = [
        ("hippocampus", 5, 4, "none"),
        ("hippocampus", 5, 11, "none"),
        ("hippocampus", 2, 25, "none"),
        ("hippocampus", 5, 11, "weak"),
        ("hippocampus", 5, 2, "none"),
        ("atrium", 2, 40, "none"),
        ("atrium", 5, 4, "none"),
    ]
    settings = [
        Setting(data=name, sites=sites, cases=cases, views=views, seed=seed)
        for seed in range(1, seeds + 1)
        for name, sites, cases, views in cohorts
    ]
    done = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    known = [json.loads(line)["setting"] for line in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        if asdict(setting) in known:
            continue
        outcome = attack(setting, data / setting.data, out.parent / "cache", rounds)
        line = {"setting": asdict(setting), "rounds": rounds, "outcome": asdict(outcome)}
        append_line(out, json.dumps(line))
        typer.echo(json.dumps(line))


if __name__ == "__main__":
    typer.run(measure)
