"""Ramps and learning rates of single rounds, by hand."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from asdnet_models.config import MethodConfig
from asdnet_models.schedule import ramp
from protocol.config.schedule import (
    RoundPlan,
    evaluation_is_due,
    evaluation_rounds,
    plan_round,
)
from protocol.config.study import StudyProtocol, merged
from protocol.config.training import TrainingConfig

PAPER = StudyProtocol()  # 60 rounds: L_ADV from round 4, L_semi from round 16, each over 9 rounds
E5 = math.exp(-5)


@pytest.mark.parametrize(
    ("progress", "value"),
    [
        (0.0, 0.0),
        (0.249, 0.0),
        (0.25, E5),
        (0.5, math.exp(-1.25)),
        (0.75, 1.0),
        (1.0, 1.0),
    ],
)
def test_ramp_by_hand(progress: float, value: float) -> None:
    assert ramp(progress, start=0.25, length=0.5) == pytest.approx(value)


def test_a_ramp_without_length_is_a_step() -> None:
    assert [ramp(p, 0.5, 0.0) for p in (0.49, 0.5, 0.51)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("number", "adversarial", "region", "lr"),
    [
        (1, 0, 0, 1),
        (3, 0, 0, 1),
        (4, E5, 0, 1),
        (7, math.exp(-5 * (2 / 3) ** 2), 0, 1),
        (13, 1, 0, 1),
        (15, 1, 0, 1),
        (16, 1, E5, 1),
        (20, 1, math.exp(-5 * (5 / 9) ** 2), 1),
        (21, 1, math.exp(-5 * (4 / 9) ** 2), 0.1),
        (25, 1, 1, 0.1),
        (40, 1, 1, 0.1),
        (41, 1, 1, 0.01),
        (60, 1, 1, 0.01),
    ],
)
def test_rounds_of_the_paper(number: int, adversarial: float, region: float, lr: float) -> None:
    plan = plan_round(PAPER, number)
    assert plan.round == number
    assert plan.adversarial_ramp == pytest.approx(adversarial)
    assert plan.region_ramp == pytest.approx(region)
    assert plan.lr_factor == pytest.approx(lr)
    assert plan.uses_unlabelled is (number >= 4)


@pytest.mark.parametrize("rounds", [3, 6, 9, 30, 57, 300])
def test_rates_fall_at_one_and_two_thirds_of_any_budget(rounds: int) -> None:
    protocol = StudyProtocol(training=TrainingConfig(rounds=rounds))
    factors = [plan_round(protocol, number).lr_factor for number in range(1, rounds + 1)]
    third = rounds // 3
    assert factors == pytest.approx([1.0] * third + [0.1] * third + [0.01] * third)


def test_polynomial_rates_by_hand() -> None:
    training = TrainingConfig(rounds=4, lr_schedule="polynomial", lr_power=2.0, lr_decay=0.5)
    factors = [
        plan_round(StudyProtocol(training=training), number).lr_factor for number in range(1, 5)
    ]
    assert factors == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16])


@pytest.mark.parametrize(("rounds", "power"), [(1, 0.9), (20, 0.9), (100_000, 5.0)])
def test_the_last_polynomial_rate_is_never_zero(rounds: int, power: float) -> None:
    training = TrainingConfig(rounds=rounds, lr_schedule="polynomial", lr_power=power)
    last = plan_round(StudyProtocol(training=training), rounds).lr_factor
    assert last == pytest.approx(rounds**-power)
    assert last > 0


def test_a_term_without_weight_has_no_ramp() -> None:
    semi = StudyProtocol(method=MethodConfig(lambda_adversarial=0))
    assert plan_round(semi, 60).adversarial_ramp == 0
    assert plan_round(semi, 60).region_ramp == 1
    supervised = StudyProtocol(method=MethodConfig(lambda_adversarial=0, lambda_region=0))
    assert not plan_round(supervised, 60).uses_unlabelled


def test_what_the_server_learned_travels_in_the_plan() -> None:
    box = (0.1, 0.2, 0.3, 0.7, 0.8, 0.9)
    plan = plan_round(PAPER, 5, attention_scale=0.25, organ_box=box)
    assert (plan.attention_scale, plan.organ_box) == (0.25, box)
    assert RoundPlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"round": 0},
        {"lr_factor": 0},
        {"lr_factor": 1.1},
        {"region_ramp": 1.1},
        {"attention_scale": 0},
    ],
)
def test_an_invalid_plan_is_refused(change: dict[str, float]) -> None:
    valid = plan_round(PAPER, 1).model_dump()
    with pytest.raises(ValidationError, match=next(iter(change))):
        RoundPlan.model_validate(valid | change)


# ---- the other methods --------------------------------------------------------------------------


def of_method(name: str, **settings: Any) -> StudyProtocol:
    return StudyProtocol(method=MethodConfig(name=name, **settings))


def test_labellings_are_announced_at_a_quarter_a_half_and_three_quarters() -> None:
    plans = [plan_round(of_method("semi-fcn"), number) for number in range(1, 61)]
    assert [p.pseudo_labels for p in plans] == [0] * 15 + [1] * 15 + [2] * 15 + [3] * 15
    assert [p.learns_from_unlabelled for p in plans] == [False] * 15 + [True] * 45
    assert [p.uses_unlabelled for p in plans] == [False] * 15 + [True] * 45
    assert all(p.adversarial_ramp == p.region_ramp == p.embedding_ramp == 0 for p in plans)


def test_labellings_follow_the_protocol() -> None:
    often = of_method("semi-fcn", pseudo_labels_at=(0.0, 0.5))
    assert [plan_round(often, number).pseudo_labels for number in (1, 30, 31, 60)] == [1, 1, 2, 2]
    unweighted = of_method("semi-fcn", lambda_region=0.0)
    assert plan_round(unweighted, 60).pseudo_labels == 0


@pytest.mark.parametrize(("number", "ramp"), [(1, 0), (15, 0), (16, E5), (25, 1), (60, 1)])
def test_the_embedding_rises_as_eq6_does(number: int, ramp: float) -> None:
    plan = plan_round(of_method("semi-embed"), number)
    assert plan.embedding_ramp == pytest.approx(ramp)
    assert plan.embedding_ramp == plan_round(PAPER, number).region_ramp
    assert plan.adversarial_ramp == plan.region_ramp == plan.pseudo_labels == 0
    assert plan.uses_unlabelled is (number >= 16)
    # Its unlabelled scans have no target of their own.
    assert not plan.learns_from_unlabelled
    assert plan_round(of_method("semi-embed", lambda_embedding=0), 60).embedding_ramp == 0


def test_asdnet_announces_nothing_of_the_others() -> None:
    plans = [plan_round(PAPER, number) for number in range(1, 61)]
    assert all(p.pseudo_labels == p.embedding_ramp == 0 for p in plans)
    assert all(p.learns_from_unlabelled is (p.region_ramp > 0) for p in plans)


@pytest.mark.parametrize(
    ("rounds", "every", "due"),
    [(10, 5, (5, 10)), (7, 3, (3, 6, 7)), (1, 5, (1,)), (4, 1, (1, 2, 3, 4)), (5, 5, (5,))],
)
def test_sites_score_every_so_many_rounds_and_after_the_last(
    rounds: int, every: int, due: tuple[int, ...]
) -> None:
    changes = {"training": {"rounds": rounds}, "evaluation": {"every_rounds": every}}
    study = merged(PAPER, changes)
    assert evaluation_rounds(study) == due
    assert tuple(n for n in range(1, rounds + 1) if evaluation_is_due(study, n)) == due
