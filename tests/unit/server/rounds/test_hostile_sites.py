"""What hostile sites can do to a study: the attacks, run through the round loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from memory_grid import RUN, MemoryGrid, Site, Witness

from protocol.agreement.bounds import distance, update_bound, within_bound
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.metrics import MAX_CASES
from protocol.wire.weights import Weights
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]
ROBUST = ["median", "trimmed-mean", "geometric-median", "krum", "multi-krum"]
STEP = 5e-4  # in each weight; the bound is 2e-3, of D a tenth of it

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")


class Honest(Site):
    """Moves every weight up by about as much, D's by a tenth."""

    def update(self, number: int, network: str, weights: Weights) -> Weights:
        chance = torch.Generator().manual_seed(100 * number + ord(self.name[0]))
        step = self.step * (1.0 if network == SEGMENTER else 0.1)
        return {
            name: w + step * (1 + 0.3 * torch.randn(w.shape, generator=chance))
            for name, w in sorted(weights.items())
        }


class Hostile(Honest):
    """Moves them the other way, so many times as far."""

    factor = -2.9

    def update(self, number: int, network: str, weights: Weights) -> Weights:
        honest = super().update(number, network, weights)
        return {name: w + self.factor * (honest[name] - w) for name, w in weights.items()}


def bounded(make_protocol: MakeProtocol, rule: str, **changes: Any) -> StudyProtocol:
    return make_protocol(
        training={"rounds": 3, "lr_segmenter": 1e-3, "lr_confidence": 1e-4, "lr_decay": 1.0},
        aggregation={"max_update": 1.0, "rule": rule, **changes},
        evaluation={"every_rounds": 3},
    )


def run(protocol: StudyProtocol, sites: list[Site]) -> StudyRecord:
    record = new_record(protocol, RUN)
    return run_study(MemoryGrid(sites), record, Witness(), expected_sites=len(sites))


def progress(record: StudyRecord, network: str = SEGMENTER) -> float:
    """How far the weights went the honest way, of the way that honest sites go in three rounds."""
    first = new_record(record.protocol, RUN)
    steps = {SEGMENTER: STEP, CONFIDENCE: 0.1 * STEP}
    before, after = getattr(first, network), getattr(record, network)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    return float(moved.mean()) / (3 * steps[network])


@pytest.mark.parametrize("network", [SEGMENTER, CONFIDENCE])
@pytest.mark.parametrize("rule", ROBUST)
def test_one_of_five_flips_its_update_and_declares_as_many_cases_as_can_be(
    make_protocol: MakeProtocol, rule: str, network: str
) -> None:
    protocol = bounded(make_protocol, rule)
    sites: list[Site] = [Honest(name, protocol, labelled=8, step=STEP) for name in "ABCD"]
    hostile = Hostile("E", protocol, labelled=MAX_CASES, step=STEP)
    record = run(protocol, [*sites, hostile])
    assert hostile.rounds == [1, 2, 3]
    assert progress(record, network) > 0.7


def test_the_mean_is_stopped_by_it(make_protocol: MakeProtocol) -> None:
    protocol = bounded(make_protocol, "mean")
    sites: list[Site] = [Honest(name, protocol, labelled=8, step=STEP) for name in "ABCD"]
    record = run(protocol, [*sites, Hostile("E", protocol, labelled=MAX_CASES, step=STEP)])
    # .6 - .4 * 2.9: the way back.
    assert progress(record) < 0


@pytest.mark.parametrize("rule", ["mean", *ROBUST])
@pytest.mark.parametrize("others", [0, 1])
def test_a_lone_label_free_site_or_one_of_two_cannot_move_weights_beyond_the_bound(
    make_protocol: MakeProtocol, rule: str, others: int, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = bounded(make_protocol, rule)
    free: dict[str, Any] = {"labelled": 0, "unlabelled": MAX_CASES, "step": STEP}
    shouting = Hostile("F", protocol, **free)
    shouting.factor = 1e6
    sites: list[Site] = [Honest(name, protocol, labelled=8, step=STEP) for name in "AB"]
    sites += [Honest(name, protocol, **free) for name in "G"[:others]]
    record = run(protocol, [*sites, shouting])
    first = new_record(protocol, RUN)
    moved = distance(record.segmenter, first.segmenter)
    bounds = [update_bound(protocol, r.plan, SEGMENTER, record.segmenter) for r in record.rounds]
    assert moved <= sum(bounds) * (1 + 1e-6)
    # Every round; what it is shortened to does not grow by its shouting.
    kept = [r.norms["F"][SEGMENTER] * r.clipped["F"][SEGMENTER] for r in record.rounds]
    assert all(k <= b * (1 + 1e-6) for k, b in zip(kept, bounds, strict=True))
    assert "round 1: shortened: F (segmenter 2" in caplog.text
    assert record.rounds[0].left_out == {}


@pytest.mark.parametrize("rule", ["mean", *ROBUST])
def test_every_round_of_global_weights_passes_the_sites_check(
    make_protocol: MakeProtocol, rule: str
) -> None:
    """Five shouting sites of five: nobody is robust against all, the bound holds."""
    protocol = bounded(make_protocol, rule)
    sites: list[Site] = [Hostile(name, protocol, labelled=8, step=STEP) for name in "ABCDE"]
    for number, site in enumerate(sites):
        assert isinstance(site, Hostile)
        site.factor = (-1) ** number * 10.0 ** (2 * number + 1)
    seen: list[Weights] = []

    class Watching(Witness):
        def round_finished(self, record: StudyRecord) -> None:
            seen.append(record.segmenter)
            super().round_finished(record)

    record = new_record(protocol, RUN)
    start = record.segmenter
    run_study(MemoryGrid(sites), record, Watching(), expected_sites=5)
    for before, after, done in zip([start, *seen], seen, record.rounds, strict=False):
        assert within_bound(protocol, done.plan, SEGMENTER, before, after)


def test_a_study_resumed_judges_by_the_same_history(
    make_protocol: MakeProtocol, tmp_path: Any
) -> None:
    from server.rounds.checkpoint import load_checkpoint, save_checkpoint
    from server.rounds.clipping import clip_factors
    from server.rounds.schedule import next_plan

    protocol = bounded(make_protocol, "mean")
    record = run(protocol, [Honest(name, protocol, labelled=8, step=STEP) for name in "ABC"])
    record.rounds.pop()
    save_checkpoint(tmp_path, record)
    resumed = load_checkpoint(tmp_path)
    assert resumed is not None
    norms = {"A": {SEGMENTER: 1e3, CONFIDENCE: 1e3}}
    found = clip_factors(resumed, next_plan(resumed), norms, {"A": True})
    assert found == clip_factors(record, next_plan(record), norms, {"A": True})
    usual = sorted(record.rounds[0].norms[name][SEGMENTER] for name in "ABC")[1]
    assert found["A"][SEGMENTER] == pytest.approx(3 * usual / 1e3, rel=0.1)
