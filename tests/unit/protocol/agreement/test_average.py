"""The average of S over rounds, by hand."""

import pytest
import torch

from protocol.agreement.average import Average, averaged
from protocol.wire.weights import Weights


def one(value: float) -> Weights:
    return {"w": torch.tensor([value, -value])}


def over(rounds: dict[int, float], decay: float) -> Average:
    average = None
    for number, value in rounds.items():
        average = averaged(average, one(value), number, decay)
    assert average is not None
    return average


def test_the_first_round_is_its_own_mean() -> None:
    assert over({1: 3.0}, 0.9).weights["w"].tolist() == [3.0, -3.0]


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_weighted_mean_by_hand(decay: float) -> None:
    found = over({1: 1.0, 2: 5.0, 3: 2.0}, decay)
    by_hand = (decay**2 + 5 * decay + 2) / (decay**2 + decay + 1)
    assert found.weights["w"].tolist() == pytest.approx([by_hand, -by_hand])
    assert (found.round, found.mass) == (3, pytest.approx(decay**2 + decay + 1))


def test_rounds_that_were_not_seen_have_passed_all_the_same() -> None:
    found = over({1: 1.0, 4: 5.0}, 0.5)
    assert found.weights["w"][0].item() == pytest.approx((0.125 * 1 + 5) / 1.125)


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_that_is_in_it_changes_nothing(number: int) -> None:
    average = over({1: 1.0, 2: 5.0}, 0.5)
    assert averaged(average, one(9.0), number, 0.5) is average


def test_weights_that_stay_are_their_mean_and_float32() -> None:
    found = over(dict.fromkeys(range(1, 50), 1 / 3), 0.9)
    assert torch.equal(found.weights["w"], one(1 / 3)["w"])
    assert found.weights["w"].dtype == torch.float32
