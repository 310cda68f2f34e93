"""How far a round may move a network, by hand."""

import math

import pytest
import torch

from protocol.agreement.bounds import clip, distance, rounding_norm, update_bound, within_bound
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol, WireConfig, merged
from protocol.wire.compression import as_sent
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.weights import Weights

PLAN = RoundPlan(round=1, lr_factor=0.5, adversarial_ramp=0, region_ramp=0)
STUDY = merged(
    StudyProtocol(),
    {
        "training": {"lr_segmenter": 0.01, "lr_confidence": 0.002, "local_steps": 10},
        "aggregation": {"max_update": 2.0},
    },
)
NINE: Weights = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}


def moved(weights: Weights, by: float) -> Weights:
    return {name: w + by for name, w in weights.items()}


def test_the_bound_by_hand() -> None:
    # 2 * .01 * .5 * 10 in each of nine weights; D's rate is a fifth.
    assert update_bound(STUDY, PLAN, SEGMENTER, NINE) == pytest.approx(0.1 * 3)
    assert update_bound(STUDY, PLAN, CONFIDENCE, NINE) == pytest.approx(0.02 * 3)


def test_there_are_two_networks() -> None:
    with pytest.raises(ValueError, match="must be segmenter or confidence, not 'discriminator'"):
        update_bound(STUDY, PLAN, "discriminator", NINE)


def test_an_update_within_the_limit_is_the_very_same() -> None:
    update = moved(NINE, 0.1)
    assert clip(update, NINE, 0.31) == (update, 1.0)


def test_an_update_beyond_the_limit_keeps_its_direction() -> None:
    start = moved(NINE, 1.0)
    update = {"w": start["w"] + 3.0, "b": start["b"] - 4.0}
    # sqrt(6 * 9 + 3 * 16)
    found, factor = clip(update, start, 1.0)
    assert factor == pytest.approx(1 / math.sqrt(102))
    assert found["w"][0, 0].item() == pytest.approx(1 + 3 * factor)
    assert found["b"][0].item() == pytest.approx(1 - 4 * factor)
    assert distance(found, start) == pytest.approx(1.0, rel=1e-6)
    assert found["w"].dtype == torch.float32


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_no_size_escapes(size: float) -> None:
    found, _ = clip({"w": torch.full((3, 3), size)}, {"w": torch.zeros(3, 3)}, 1e-6)
    assert distance(found, {"w": torch.zeros(3, 3)}) <= 1e-6 * (1 + 1e-6)


def test_two_rounds_of_global_weights_are_one_bound_apart() -> None:
    assert within_bound(STUDY, PLAN, SEGMENTER, NINE, moved(NINE, 0.1))
    assert not within_bound(STUDY, PLAN, SEGMENTER, NINE, moved(NINE, 0.101))
    assert not within_bound(STUDY, PLAN, CONFIDENCE, NINE, moved(NINE, 0.1))


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_weights_at_the_bound_pass_in_every_format(form: str) -> None:
    study = merged(STUDY, {"wire": {"format": form}})
    generator = torch.Generator().manual_seed(1)
    before = {"w": torch.randn(40, 3, 3, 3, 3, generator=generator), "b": torch.randn(40)}
    step = {name: torch.randn(w.shape, generator=generator) for name, w in before.items()}
    limit = update_bound(study, PLAN, SEGMENTER, before)
    far = {name: before[name] + 1e3 * step[name] for name in before}
    after, _ = clip(far, before, limit)
    seen = [as_sent(weights, study.wire) for weights in (before, after)]
    assert within_bound(study, PLAN, SEGMENTER, *seen)


@pytest.mark.parametrize("form", ["bf16", "int8"])
def test_rounding_is_never_more_than_allowed_for(form: str) -> None:
    wire = WireConfig.model_validate({"format": form})
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        exact = {"w": torch.randn(7, 5, 3, generator=generator) * 10.0**seed}
        assert distance(as_sent(exact, wire), exact) <= rounding_norm(exact, wire)


def test_nothing_is_rounded_of_nothing() -> None:
    wire = WireConfig(format="int8")
    assert rounding_norm({"w": torch.zeros(0, 3), "v": torch.zeros(2, 2)}, wire) == 0.0
