"""How large an update may be: by the bound, by its like, and by what was usual before."""

from collections.abc import Mapping

import pytest
import torch

from protocol.agreement.bounds import update_bound
from protocol.config.schedule import RoundPlan, plan_round
from protocol.config.study import StudyProtocol, merged
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.reports import TrainReport
from server.rounds.clipping import HISTORY, clip_factors, shortened
from server.rounds.record import RoundRecord, StudyRecord

# The bound of S is then 1 in the first rounds: a hundred weights, ten steps.
STUDY = merged(
    StudyProtocol(),
    {"training": {"lr_segmenter": 0.01, "lr_confidence": 0.001, "local_steps": 10}},
)
LABELLED = {name: True for name in "ABCDE"} | {name: False for name in "FGH"}


def record_of(rounds: list[RoundRecord]) -> StudyRecord:
    weights = {"w": torch.zeros(10, 10)}
    return StudyRecord(
        run="r", protocol=STUDY, facts={}, segmenter=weights, confidence=weights, rounds=rounds
    )


def finished(
    number: int,
    norms: Mapping[str, float],
    clipped: Mapping[str, float] | None = None,
    network: str = SEGMENTER,
) -> RoundRecord:
    reports = {
        site: TrainReport(labelled=3 * LABELLED[site], unlabelled=1, steps=10, seconds=1.0)
        for site in norms
    }
    return RoundRecord(
        plan=plan_round(STUDY, number),
        seconds=1.0,
        bytes_down={},
        bytes_up={},
        reports=reports,
        left_out={},
        norms={site: {network: norm} for site, norm in norms.items()},
        clipped={site: {network: factor} for site, factor in (clipped or {}).items()},
    )


def factors(
    norms: Mapping[str, float],
    *rounds: RoundRecord,
    network: str = SEGMENTER,
    plan: RoundPlan | None = None,
) -> dict[str, float]:
    """By site, of one network in the round after these."""
    record = record_of(list(rounds))
    by_site = {site: {network: norm} for site, norm in norms.items()}
    found = clip_factors(record, plan or plan_round(STUDY, len(rounds) + 1), by_site, LABELLED)
    return {site: of_site[network] for site, of_site in found.items()}


def test_the_bound_of_this_study() -> None:
    weights = record_of([]).segmenter
    assert update_bound(STUDY, plan_round(STUDY, 1), SEGMENTER, weights) == pytest.approx(1.0)


def test_without_history_one_or_two_are_held_to_the_bound() -> None:
    assert factors({"A": 0.9}) == {}
    assert factors({"A": 1e6, "B": 0.1}) == pytest.approx({"A": 1e-6})
    assert factors({"F": 2.0}) == pytest.approx({"F": 0.5})


def test_three_or_more_are_held_to_their_median_from_the_first_round() -> None:
    assert factors({"A": 0.1, "B": 0.1, "C": 0.9}) == pytest.approx({"C": 1 / 3})
    assert factors({"A": 0.1, "B": 0.2, "C": 0.55}) == {}


def test_a_lone_site_is_held_to_earlier_rounds() -> None:
    before = [finished(n, {"A": 0.1, "B": 0.1, "C": 0.1}) for n in (1, 2)]
    assert factors({"A": 0.9}, *before) == pytest.approx({"A": 1 / 3})
    # Of two, neither hides behind the other.
    assert factors({"A": 0.9, "B": 0.9}, *before) == pytest.approx({"A": 1 / 3, "B": 1 / 3})


def test_label_free_sites_are_held_to_their_own_like() -> None:
    before = finished(1, {"A": 0.3, "B": 0.3, "C": 0.3, "F": 0.01, "G": 0.03})
    found = factors({"A": 0.3, "F": 0.6}, before)
    assert found == pytest.approx({"F": 3 * 0.02 / 0.6})


def test_a_lone_label_free_site_without_history_is_held_to_the_bound_alone() -> None:
    before = finished(1, {"A": 0.3, "B": 0.3, "C": 0.3})
    assert factors({"A": 0.3, "F": 0.9}, before) == {}
    assert factors({"A": 0.3, "F": 1e6}, before) == pytest.approx({"F": 1e-6})


def test_a_round_in_which_all_move_more_is_no_offence() -> None:
    before = finished(1, dict.fromkeys("ABC", 0.01))
    assert factors(dict.fromkeys("ABC", 0.2), before) == {}
    # One or two of them may lie.
    assert factors(dict.fromkeys("AB", 0.2), before) == pytest.approx(dict.fromkeys("AB", 0.15))


def test_what_was_shortened_counts_as_short() -> None:
    # A site that shouts every round does not raise what it is held to by shouting.
    before = [finished(n, {"F": 100.0}, {"F": 0.001}) for n in (1, 2, 3)]
    assert factors({"F": 100.0}, *before) == pytest.approx({"F": 3 * 0.1 / 100})


def test_rates_that_fall_are_allowed_for() -> None:
    before = finished(1, dict.fromkeys("ABC", 0.1))
    tenth = plan_round(STUDY, 1).model_copy(update={"lr_factor": 0.1})
    assert factors({"A": 0.02}, before, plan=tenth) == {}
    assert factors({"A": 0.06}, before, plan=tenth) == pytest.approx({"A": 0.5})


def test_the_confidence_network_has_a_measure_of_its_own() -> None:
    assert factors({"A": 0.2}, network=CONFIDENCE) == pytest.approx({"A": 0.5})
    before = finished(1, dict.fromkeys("ABC", 0.01), network=CONFIDENCE)
    assert factors({"A": 0.06}, before, network=CONFIDENCE) == pytest.approx({"A": 0.5})
    assert factors({"A": 0.6}, before, network=SEGMENTER) == {}


def test_rounds_long_ago_are_forgotten() -> None:
    old = [finished(n, {"A": 0.001}) for n in range(1, 6)]
    new = [finished(n, {"A": 0.1}) for n in range(6, 6 + HISTORY)]
    assert factors({"A": 0.3}, *old, *new) == {}


def test_sites_that_stand_still_are_no_measure() -> None:
    assert factors({"A": 0.0, "B": 0.0, "C": 0.5}) == {}


def test_what_was_shortened_in_words() -> None:
    found = shortened({"E": {SEGMENTER: 0.25, CONFIDENCE: 1e-6}})
    assert found == {"E": "segmenter 4 times too large, confidence 1e+06 times too large"}
