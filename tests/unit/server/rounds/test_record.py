"""Which of two models is the better one, where not the same sites scored them."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import sums_of

from asdnet_models.sums import OrganSums
from protocol.wire.reports import EvaluationReport
from server.rounds.record import better_than, macro_validation_dsc, worst_site


def scored(*dsc: float, test: float = 0.5) -> EvaluationReport:
    """One organ; validation cases with these DSCs."""
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": len(dsc), "test": 1},
        scores={"validation": {"ball": sums_of(*dsc)}, "test": {"ball": sums_of(test)}},
    )


def by_organ(**dsc: float | None) -> EvaluationReport:
    """One validation case; None: an organ that the site has not drawn."""
    sums = {o: OrganSums() if value is None else sums_of(value) for o, value in dsc.items()}
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 1, "test": 0},
        scores={"validation": sums, "test": {}},
    )


def test_an_organ_that_a_site_has_not_drawn_is_in_no_mean() -> None:
    evaluation = {"A": by_organ(ball=0.5, rod=0.25), "B": by_organ(ball=0.75, rod=None)}
    assert macro_validation_dsc(evaluation) == pytest.approx((0.5 + 0.25 + 0.75) / 3)


def test_models_are_compared_by_the_organs_that_both_rounds_scored() -> None:
    best = {"A": by_organ(ball=0.8, rod=0.2)}
    # The rod, the hard one, is missing: the mean is up, the model is worse.
    assert not better_than({"A": by_organ(ball=0.7, rod=None)}, best)
    assert better_than({"A": by_organ(ball=0.9, rod=None)}, best)
    # It is new: the mean is down, the model is better.
    assert better_than({"A": by_organ(ball=0.9, rod=0.1)}, {"A": by_organ(ball=0.8, rod=None)})


def of(**dsc: float) -> dict[str, EvaluationReport]:
    return {site: scored(value) for site, value in dsc.items()}


@pytest.mark.parametrize(
    ("new", "best", "expected"),
    [
        (of(A=0.1), {}, True),  # the first that is evaluated
        ({}, {}, True),
        (of(A=0.6, B=0.6), of(A=0.5, B=0.6), True),
        (of(A=0.5, B=0.6), of(A=0.5, B=0.6), True),  # of equals, the one trained longer
        (of(A=0.4, B=0.6), of(A=0.5, B=0.6), False),
        ({}, of(A=0.5), False),
        # C, the hard one, is away: the mean is up, the model is worse.
        (of(A=0.7, B=0.7), of(A=0.8, B=0.8, C=0.2), False),
        (of(A=0.9, B=0.8), of(A=0.8, B=0.8, C=0.2), True),
        # C, the hard one, is new: the mean is down, the model is better.
        (of(A=0.9, B=0.9, C=0.1), of(A=0.8, B=0.8), True),
        # Fewer than half of the best's sites, exactly half of them, none of them.
        (of(A=1.0), of(A=0.1, B=0.1, C=0.1), False),
        (of(A=1.0), of(A=0.1, B=0.1), True),
        (of(C=1.0, D=1.0), of(A=0.1, B=0.1), False),
        # Sites without validation cases say nothing on either side.
        (of(A=0.6) | {"F": scored()}, of(A=0.5) | {"F": scored(), "G": scored()}, True),
        (of(A=0.1), {"F": scored()}, True),
        ({"F": scored(test=1.0)}, of(A=0.5), False),
    ],
)
def test_by_hand(
    new: Mapping[str, EvaluationReport], best: Mapping[str, EvaluationReport], expected: bool
) -> None:
    assert better_than(new, best) is expected


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (of(A=0.9, B=0.5), False),  # the mean is up, B is worse
        (of(A=0.65, B=0.65), True),  # the mean is down, B is better
        (of(A=0.6, B=0.9), True),
        (of(A=0.7), False),  # of half of the sites, and A is worse than it was
        (of(A=0.9), True),
        (of(C=1.0), False),
        # A new site that is worse than all says nothing of the best.
        (of(A=0.9, B=0.7, C=0.1), True),
    ],
)
def test_by_the_worst_site(new: Mapping[str, EvaluationReport], expected: bool) -> None:
    assert better_than(new, of(A=0.8, B=0.6), "worst-site") is expected


def test_a_sites_organs_are_one_number_where_the_worst_site_counts() -> None:
    best = {"A": by_organ(ball=0.9, rod=0.3), "B": by_organ(ball=0.7, rod=0.7)}
    # A's rod is better, its mean not.
    assert not better_than(best | {"A": by_organ(ball=0.7, rod=0.4)}, best, "worst-site")
    assert worst_site(best) == ("A", pytest.approx(0.6))
    assert worst_site(of(A=0.5) | {"F": scored()}) is None
    assert worst_site(of(B=0.5, A=0.5)) == ("A", 0.5)


dsc = st.integers(0, 8).map(lambda eighths: eighths / 8)
evaluations = st.dictionaries(
    st.sampled_from("ABCDEF"), st.lists(dsc, max_size=3).map(lambda v: scored(*v))
)
quick = settings(max_examples=200)


def validated(evaluation: Mapping[str, EvaluationReport]) -> set[str]:
    return {s for s, r in evaluation.items() if r.cases["validation"]}


@quick
@given(evaluations)
def test_a_model_is_as_good_as_itself(evaluation: dict[str, EvaluationReport]) -> None:
    assert better_than(evaluation, evaluation)


@quick
@given(evaluations, evaluations)
def test_a_model_replaces_another_only_by_the_sites_that_scored_both(
    new: dict[str, EvaluationReport], best: dict[str, EvaluationReport]
) -> None:
    both = validated(new) & validated(best)
    if not validated(best):
        assert better_than(new, best)
    elif 2 * len(both) < len(validated(best)):
        assert not better_than(new, best)
    else:
        mine, its = (macro_validation_dsc({s: e[s] for s in both}) for e in (new, best))
        assert mine is not None and its is not None
        assert better_than(new, best) is (mine >= its)


@quick
@given(evaluations, evaluations, st.lists(dsc, min_size=1, max_size=3))
def test_what_a_site_says_that_did_not_score_the_best_changes_nothing(
    new: dict[str, EvaluationReport], best: dict[str, EvaluationReport], more: list[float]
) -> None:
    if validated(best):
        assert better_than(new | {"Z": scored(*more)}, best) is better_than(new, best)


@quick
@given(evaluations, evaluations)
def test_of_two_at_least_one_is_as_good_where_all_sites_scored_both(
    one: dict[str, EvaluationReport], other: dict[str, EvaluationReport]
) -> None:
    both = validated(one) & validated(other)
    one, other = {s: one[s] for s in both}, {s: other[s] for s in both}
    assert better_than(one, other) or better_than(other, one)


def test_the_mean_is_over_sites_and_organs_not_over_cases() -> None:
    # A has three cases, B one: 0.2 and 0.8 weigh alike.
    assert macro_validation_dsc({"A": scored(0.1, 0.2, 0.3), "B": scored(0.8)}) == pytest.approx(
        0.5
    )
    assert macro_validation_dsc({"A": scored()}) is None
    assert macro_validation_dsc({}) is None
