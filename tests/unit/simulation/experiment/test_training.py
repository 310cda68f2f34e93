"""A hospital's own model, trained without a server."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_scores import sums_of
from memory_grid import Site, study

import simulation.experiment.training
from asdnet_models.sums import OrganSums
from client.data.dataset import prepare_site
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport
from simulation.experiment.training import (
    round_rows,
    steps_of_all,
    train_alone,
    train_in_place,
)

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]


def test_the_same_seed_gives_the_same_scores(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol()
    first, again = (train_alone(config, protocol) for _ in range(2))
    assert first.cases == {"validation": 1, "test": 1}
    assert first.scores == again.scores
    # Beside the federation's optimiser states, not over them.
    assert [path.name for path in (config.state / "optimisers").iterdir()] == ["alone"]


def test_the_best_round_is_reported(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, protocol = make_site(), make_protocol(training={"rounds": 3, "local_steps": 1})
    values, evaluated = iter([0.2, 0.9, 0.4]), []
    evaluate = simulation.experiment.training.evaluate_site

    def scored(*arguments: Any) -> EvaluationReport:
        evaluated.append(arguments[3])
        report: EvaluationReport = evaluate(*arguments)
        found = {"ball": sums_of(next(values)), "rod": OrganSums()}
        return replace(report, scores={**report.scores, "validation": found})

    monkeypatch.setattr(simulation.experiment.training, "evaluate_site", scored)
    record = train_in_place(config, protocol, "here")
    assert [item.validation_dsc for item in record.rounds] == [0.2, 0.9, 0.4]
    assert (record.best_round, record.best_dsc) == (2, 0.9)
    assert record.best_segmenter is evaluated[1]


def test_the_average_over_rounds_is_scored_and_kept(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, scored = [], []
    train = simulation.experiment.training.train_round
    evaluate = simulation.experiment.training.evaluate_site

    def kept(*arguments: Any, **named: Any) -> Any:
        trained.append(train(*arguments, **named))
        return trained[-1]

    monkeypatch.setattr(simulation.experiment.training, "train_round", kept)
    monkeypatch.setattr(
        simulation.experiment.training,
        "evaluate_site",
        lambda *a: scored.append(a[3]) or evaluate(*a),
    )
    protocol = make_protocol(
        training={"rounds": 2, "local_steps": 1, "average_decay": 0.5},
        evaluation={"every_rounds": 1},
    )
    record = train_in_place(make_site(), protocol, "here")
    one, two = (result.segmenter for result in trained)
    for name, weights in scored[1].items():
        assert torch.equal(scored[0][name], one[name])
        torch.testing.assert_close(weights, (one[name] + 2 * two[name]) / 3)
    assert record.segmenter is two
    assert record.best_segmenter is scored[record.best_round - 1]  # type: ignore[operator]


def test_without_validation_cases_the_last_model_counts(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site(labelled=1, test=1)
    calls = []
    evaluate = simulation.experiment.training.evaluate_site
    monkeypatch.setattr(
        simulation.experiment.training, "evaluate_site", lambda *a: calls.append(1) or evaluate(*a)
    )
    report = train_alone(config, make_protocol(training={"local_steps": 1}))
    assert report.cases == {"validation": 0, "test": 1}
    assert len(calls) == 1


def test_the_box_is_the_sites_own(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config, protocol = make_site(labelled=2), make_protocol(training={"rounds": 1})
    boxes = [case.organ_box for case in prepare_site(config, protocol).labelled]
    means = [sum(edge) / 2 for edge in zip(*[box for box in boxes if box], strict=True)]
    record = train_in_place(config, protocol, "here")
    assert record.rounds[0].plan.organ_box == pytest.approx(tuple(means))


def test_gamma_is_calibrated_on_the_places_own_validation_cases(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = make_protocol(
        method={"gamma_rule": "calibrated", "gamma": 0.4},
        training={"rounds": 3, "local_steps": 1},
        evaluation={"every_rounds": 1},
    )
    gammas = []
    train = simulation.experiment.training.train_round

    def noted(config: object, protocol: object, plan: RoundPlan, *rest: object, run: str) -> object:
        gammas.append(plan.gamma)
        return train(config, protocol, plan, *rest, run=run)  # type: ignore[arg-type]

    monkeypatch.setattr(simulation.experiment.training, "train_round", noted)
    report = train_alone(make_site(), protocol)
    assert sum(report.reliability["confidence"].right) > 0
    # None until the first scores: the protocol's own holds.
    assert gammas[0] is None
    assert all(gamma is not None and 0 <= gamma < 1 for gamma in gammas[1:])


def test_steps_are_as_many_as_asked_for_and_ramps_stay_by_round(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    training = {"rounds": 2, "local_steps": 1, "lr_decay_at": (0.5,)}
    config, protocol = make_site(), make_protocol(training=training)
    usual = train_in_place(config, protocol, "usual")
    longer = train_in_place(config, protocol, "longer", (2, 3))
    assert longer.protocol == protocol
    assert [item.plan.lr_factor for item in longer.rounds] == [1.0, 0.1]
    assert [item.plan.region_ramp for item in longer.rounds] == [
        item.plan.region_ramp for item in usual.rounds
    ]
    assert [row.steps for row in round_rows(usual)] == [1, 1]
    assert [row.steps for row in round_rows(longer)] == [2, 3]
    # Adam's own count, in the states that it goes on from.
    counts = {}
    for run in ("usual", "longer"):
        last = max((config.state / "optimisers" / run).glob("*.pt"))
        states = torch.load(last, weights_only=True)
        counts[run] = {
            network: {int(moments["step"]) for moments in states[network]["state"].values()}
            for network in ("segmenter", "confidence")
        }
    assert counts == {
        "usual": {"segmenter": {2}, "confidence": {2}},
        "longer": {"segmenter": {5}, "confidence": {5}},
    }


@pytest.mark.usefixtures("flower_task")
def test_steps_of_all_are_those_of_the_sites_that_a_federation_calls(
    make_protocol: MakeProtocol,
) -> None:
    # What each site takes in a round in memory_grid.
    protocol = make_protocol(
        training={
            "rounds": 4,
            "local_steps": 2,
            "ramp": {"adversarial_start": 0.0, "region_start": 0.5, "length": 0.1},
        }
    )
    sites = [Site("A", protocol), Site("B", protocol, unlabelled=3)]
    sites.append(Site("F", protocol, labelled=0, unlabelled=3, validation=0))
    record = study(sites, protocol)
    taken = [sum(report.steps for report in item.reports.values()) for item in record.rounds]
    assert taken == [4, 4, 6, 6]
    assert steps_of_all(protocol, list(record.facts.values())) == tuple(taken)
    supervised = make_protocol(training={"rounds": 2}, method={"lambda_region": 0.0})
    assert steps_of_all(supervised, list(record.facts.values())) == (4, 4)
