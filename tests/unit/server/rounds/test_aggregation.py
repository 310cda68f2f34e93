"""Weighted averaging, by hand."""

import itertools

import pytest
import torch

from protocol.config.schedule import RoundPlan
from protocol.config.study import AggregationConfig
from protocol.wire.messages import Weights
from protocol.wire.reports import SiteFacts
from server.rounds.aggregation import (
    average,
    capped_shares,
    confidence_weights,
    segmenter_weights,
    with_momentum,
)

CONFIG = AggregationConfig(rule="mean")
FULL = RoundPlan(round=9, lr_factor=1, adversarial_ramp=1, region_ramp=0.5)
WARM_UP = RoundPlan(round=1, lr_factor=1, adversarial_ramp=1, region_ramp=0)


def declared(labelled: int, unlabelled: int = 0, **annotated: int) -> SiteFacts:
    return SiteFacts(
        labelled=labelled, unlabelled=unlabelled, validation=0, test=0, annotated=annotated
    )


def weights(*values: float) -> Weights:
    return {"w": torch.tensor(values), "b": torch.tensor([[sum(values)]])}


# ---- shares -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "cap", "expected"),
    [
        ({"A": 1, "B": 3}, 1.0, {"A": 0.25, "B": 0.75}),
        ({"A": 3, "B": 3, "C": 4}, 0.4, {"A": 0.3, "B": 0.3, "C": 0.4}),
        # C is cut from .7 to .4; the rest goes 1 : 2.
        ({"A": 1, "B": 2, "C": 7}, 0.4, {"A": 0.2, "B": 0.4, "C": 0.4}),
        # D is cut first; C then has .6 * 5 / 8 = .375 and stays.
        ({"A": 1, "B": 2, "C": 5, "D": 92}, 0.4, {"A": 0.075, "B": 0.15, "C": 0.375, "D": 0.4}),
        # D is cut first; what it gives up lifts C over the cap too.
        ({"A": 1, "B": 1, "C": 8, "D": 10}, 0.4, {"A": 0.1, "B": 0.1, "C": 0.4, "D": 0.4}),
        # Two sites cannot keep 40 %: the cap becomes one half.
        ({"A": 1, "B": 9}, 0.4, {"A": 0.5, "B": 0.5}),
        ({"A": 5}, 0.4, {"A": 1.0}),
        ({"A": 2, "B": 0, "C": 2}, 0.4, {"A": 0.5, "C": 0.5}),
        ({"A": 0, "B": 0}, 0.4, {}),
        ({}, 0.4, {}),
    ],
)
def test_capped_shares_by_hand(
    amounts: dict[str, float], cap: float, expected: dict[str, float]
) -> None:
    found = capped_shares(amounts, cap)
    assert found == pytest.approx(expected)
    assert list(found) == sorted(expected)


def test_an_unlabelled_case_weighs_omega_once_eq6_is_on() -> None:
    # 10, 8 + .3 * 5, 5 and .3 * 15: nobody is over 40 %.
    facts = {"A": declared(10), "B": declared(8, 5), "C": declared(5), "F": declared(0, 15)}
    found = segmenter_weights(facts, FULL, CONFIG)
    assert found == pytest.approx({"A": 10 / 29, "B": 9.5 / 29, "C": 5 / 29, "F": 4.5 / 29})


def test_a_labelled_case_weighs_by_the_organs_that_are_drawn_in_it() -> None:
    # 12 cases with one of three organs weigh 4; 6 with the prostate in all, the others in 3: 4.
    facts = {
        "A": declared(12, bladder=0, prostate=12, rectum=0),
        "B": declared(6, 5, bladder=3, prostate=6, rectum=3),
        "C": declared(8, bladder=8, prostate=8, rectum=8),
    }
    assert [f.drawn for f in facts.values()] == [4.0, 4.0, 8.0]
    config = AggregationConfig(rule="mean", max_site_share=1.0)
    assert segmenter_weights(facts, WARM_UP, config) == {"A": 0.25, "B": 0.25, "C": 0.5}
    found = segmenter_weights(facts, FULL, config)
    assert found == pytest.approx({"A": 4 / 17.5, "B": 5.5 / 17.5, "C": 8 / 17.5})
    assert confidence_weights(facts, config) == {"A": 0.25, "B": 0.25, "C": 0.5}


def test_sites_that_have_drawn_everything_weigh_as_ever() -> None:
    for labelled in range(1, 60):
        whole = declared(labelled, bladder=labelled, prostate=labelled, rectum=labelled)
        assert whole.drawn == declared(labelled).drawn == float(labelled)


def test_the_cap_of_the_study_holds() -> None:
    facts = {"A": declared(80), "B": declared(5), "C": declared(5)}
    found = segmenter_weights(facts, FULL, CONFIG)
    assert found == pytest.approx({"A": 0.4, "B": 0.3, "C": 0.3})


def test_unlabelled_cases_weigh_nothing_in_warm_up() -> None:
    facts = {"A": declared(3), "B": declared(3, 50), "C": declared(3), "F": declared(0, 15)}
    third = 1 / 3
    found = segmenter_weights(facts, WARM_UP, CONFIG)
    assert found == pytest.approx({"A": third, "B": third, "C": third})


def test_an_unlabelled_case_weighs_omega_once_it_has_pseudo_labels() -> None:
    facts = {"A": declared(10), "B": declared(8, 5), "C": declared(5), "F": declared(0, 15)}
    labelled_anew = WARM_UP.model_copy(update={"adversarial_ramp": 0, "pseudo_labels": 1})
    assert segmenter_weights(facts, labelled_anew, CONFIG) == segmenter_weights(facts, FULL, CONFIG)


def test_an_embedding_alone_gives_unlabelled_cases_no_weight() -> None:
    facts = {"A": declared(3), "B": declared(3, 50), "C": declared(3)}
    embedding = WARM_UP.model_copy(update={"adversarial_ramp": 0, "embedding_ramp": 1})
    found = segmenter_weights(facts, embedding, CONFIG)
    assert found == pytest.approx(dict.fromkeys("ABC", 1 / 3))


def test_d_is_shared_by_labelled_cases_alone_and_with_the_same_cap() -> None:
    facts = {"A": declared(9), "B": declared(2, 80), "C": declared(1), "F": declared(0, 15)}
    assert confidence_weights(facts, CONFIG) == pytest.approx({"A": 0.4, "B": 0.4, "C": 0.2})
    open_to_all = AggregationConfig(rule="mean", max_site_share=1.0)
    assert confidence_weights(facts, open_to_all) == pytest.approx(
        {"A": 3 / 4, "B": 1 / 6, "C": 1 / 12}
    )
    assert confidence_weights({"F": declared(0, 15)}, CONFIG) == {}


def test_a_million_declared_cases_are_worth_the_cap() -> None:
    facts = {name: declared(8) for name in "ABCD"} | {"E": declared(10**6), "F": declared(0, 10**6)}
    for shares in (segmenter_weights(facts, FULL, CONFIG), confidence_weights(facts, CONFIG)):
        assert max(shares.values()) == pytest.approx(0.4)


@pytest.mark.parametrize(("sites", "most"), [("AE", 0.5), ("ABE", 0.4), ("ABCDE", 0.3)])
def test_under_a_robust_rule_no_site_is_far_over_an_equal_share(sites: str, most: float) -> None:
    facts = dict.fromkeys(sites, declared(8)) | {"E": declared(10**6)}
    config = AggregationConfig(rule="geometric-median")
    assert segmenter_weights(facts, FULL, config)["E"] == pytest.approx(most)
    assert confidence_weights(facts, config)["E"] == pytest.approx(most)


def test_those_that_may_be_hostile_never_have_half() -> None:
    facts = {name: declared(8) for name in "ABC"} | {"D": declared(10**6), "E": declared(10**6)}
    config = AggregationConfig(rule="median", hostile=2)
    shares = segmenter_weights(facts, FULL, config)
    assert shares == pytest.approx(dict.fromkeys("ABCDE", 0.2))
    assert confidence_weights(facts, config) == shares


# ---- averages -----------------------------------------------------------------------------------


def test_average_by_hand() -> None:
    updates = {"A": weights(1.0, 2.0), "B": weights(5.0, -2.0)}
    found = average(updates, {"A": 0.25, "B": 0.75})
    assert found["w"].tolist() == [4.0, -1.0]
    assert found["b"].tolist() == [[3.0]]
    assert found["w"].dtype == torch.float32


def test_a_site_without_a_share_does_not_count() -> None:
    updates = {"A": weights(1.0), "B": weights(3.0), "F": weights(1e9)}
    assert average(updates, {"A": 0.5, "B": 0.5})["w"].tolist() == [2.0]


def test_small_weights_survive_beside_large_ones() -> None:
    # In float32, 1e8 + 1 is 1e8.
    updates = {"A": weights(1e8), "B": weights(1.0), "C": weights(-1e8)}
    found = average(updates, dict.fromkeys("ABC", 0.25))
    assert found["w"].tolist() == [0.25]


def test_the_order_of_sites_does_not_change_a_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    updates = {site: {"w": torch.randn(500, generator=generator)} for site in "ABCDE"}
    amounts = {"A": 15.0, "B": 12.0, "C": 10.0, "D": 9.5, "E": 5.0}
    expected = average(updates, capped_shares(amounts, 0.4))["w"]
    for order in itertools.permutations("ABCDE"):
        shares = capped_shares({site: amounts[site] for site in order}, 0.4)
        found = average({site: updates[site] for site in order}, shares)["w"]
        assert torch.equal(found, expected)


# ---- momentum -----------------------------------------------------------------------------------


def test_momentum_by_hand() -> None:
    before, current, combined = weights(1.0, 2.0), weights(2.0, 1.0), weights(2.5, 0.0)
    found = with_momentum(combined, current, before, 0.5)
    assert found["w"].tolist() == [3.0, -0.5]
    assert found["w"].dtype == torch.float32
    assert with_momentum(combined, current, before, 0.0) is combined
    assert with_momentum(combined, current, None, 0.5) is combined
