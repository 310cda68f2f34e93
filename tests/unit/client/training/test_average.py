"""A site's average of the global weights: the centre's, where the site was there."""

import os
from pathlib import Path

import torch

from client.training.average import AverageStore
from protocol.agreement.average import averaged
from protocol.wire.weights import Weights

RUN, DECAY, ROUNDS = "tiny-1", 0.8, 6


def after(number: int) -> Weights:
    generator = torch.Generator().manual_seed(number)
    return {"a.weight": torch.randn(2, 3, generator=generator), "a.bias": torch.ones(1) * number}


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def of_the_centre(*rounds: int) -> Weights:
    average = None
    for number in rounds:
        average = averaged(average, after(number), number, DECAY)
    assert average is not None
    return average.weights


def test_a_site_that_was_there_has_the_centres_average(tmp_path: Path) -> None:
    store = AverageStore(tmp_path, RUN, DECAY)
    for number in range(1, ROUNDS + 1):
        # Scored after the round; the next one begins with the same weights.
        expected = of_the_centre(*range(1, number + 1))
        assert equal(store.of(after(number), number).weights, expected)
        store.add(after(number), number)
        assert equal(store.of(after(number), number).weights, expected)
    assert sorted(os.listdir(tmp_path / "averages" / RUN)) == [
        "round-00005.safetensors",
        "round-00006.safetensors",
    ]


def test_a_score_leaves_nothing(tmp_path: Path) -> None:
    """The centre may die after it, and train that round again to other weights."""
    assert equal(AverageStore(tmp_path, RUN, DECAY).of(after(3), 3).weights, after(3))
    assert not (tmp_path / "averages").exists()


def test_a_round_that_is_trained_again_brings_the_same_file(tmp_path: Path) -> None:
    store = AverageStore(tmp_path, RUN, DECAY)
    for number in (1, 2, 3):
        store.add(after(number), number)
    path = tmp_path / "averages" / RUN / "round-00003.safetensors"
    before = path.read_bytes()
    store.add(after(3), 3)
    assert path.read_bytes() == before


def test_a_site_that_was_away_has_that_of_the_rounds_it_saw(tmp_path: Path) -> None:
    store = AverageStore(tmp_path, RUN, DECAY)
    for number in (1, 2, 5):
        store.add(after(number), number)
    assert equal(store.of(after(6), 6).weights, of_the_centre(1, 2, 5, 6))


def test_another_run_is_no_part_of_it(tmp_path: Path) -> None:
    AverageStore(tmp_path, "earlier", DECAY).add(after(1), 1)
    assert equal(AverageStore(tmp_path, RUN, DECAY).of(after(2), 2).weights, after(2))
