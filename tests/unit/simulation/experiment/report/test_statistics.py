"""Summaries, intervals and tests against values worked out by hand."""

import warnings

import pandas as pd
import pytest

from simulation.experiment.report.statistics import (
    PLACE,
    Difference,
    Interval,
    Scores,
    case_means,
    crossed_difference,
    difference,
    holm,
    interval,
    share,
    summarise,
)


def places(*values: float | None, seed: int = 1, fold: int = 0) -> Scores:
    index = [(fold, seed, "A", f"case{n}") for n in range(len(values))]
    return pd.Series(values, pd.MultiIndex.from_tuples(index, names=PLACE), dtype=float)


def crossed(*by_seed: tuple[float | None, ...]) -> Scores:
    return pd.concat([places(*values, seed=n) for n, values in enumerate(by_seed, 1)])


NOTHING = places(0.5).iloc[:0]


@pytest.fixture(autouse=True)
def no_warning() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_mean_and_sample_deviation() -> None:
    found = summarise([0.7, 0.8, 0.9])
    assert (found.n, found.mean, found.sd) == (3, pytest.approx(0.8), pytest.approx(0.1))
    assert found.interval is not None
    assert 0.699 < found.interval.low < 0.8 < found.interval.high < 0.901


def test_nothing_one_and_equal_values() -> None:
    assert summarise([]).model_dump() == {"n": 0, "mean": None, "sd": None, "interval": None}
    one = summarise([0.5])
    assert (one.n, one.mean, one.sd, one.interval) == (1, 0.5, None, None)
    assert interval([0.5, 0.5, 0.5]) == Interval(low=0.5, high=0.5)


def test_the_interval_is_the_same_every_time() -> None:
    values = [0.1, 0.5, 0.6, 0.95]
    assert interval(values) == interval(values)


def test_seeds_are_averaged_before_cases_and_undefined_is_in_no_mean() -> None:
    scores = pd.concat([places(0.6, 0.8, None), places(0.8, None, None, seed=2)])
    assert case_means(scores) == pytest.approx([0.7, 0.8])


def test_folds_are_averaged_only_where_asked() -> None:
    scores = pd.concat([places(0.6), places(0.8, fold=1)])
    assert case_means(scores) == pytest.approx([0.6, 0.8])
    assert case_means(scores, over_folds=True) == pytest.approx([0.7])


@pytest.mark.parametrize(
    ("second", "p"),
    [
        # All six positive: 2 of the 2^6 signs are as extreme.
        ((0.01, 0.02, 0.03, 0.04, 0.05, 0.06), 2 / 64),
        # The smallest negative, W = 1: rank sums 0 and 1, on both sides.
        ((-0.01, 0.02, 0.03, 0.04, 0.05, 0.06), 4 / 64),
        # Zeros are no difference at all: five are left.
        ((0.0, 0.02, 0.03, 0.04, 0.05, 0.06), 2 / 32),
        ((0.0, 0.0, 0.0), 1.0),
    ],
)
def test_wilcoxon_by_hand(second: tuple[float, ...], p: float) -> None:
    first = places(*[0.9] * len(second))
    found = difference(first, places(*(0.9 - gap for gap in second)))
    assert found.p == pytest.approx(p)
    assert found.mean == pytest.approx(sum(second) / len(second))


def test_pairs_are_what_both_scored() -> None:
    first = pd.concat([places(0.9, 0.8, None, 0.5), places(0.1, seed=2)])
    second = places(0.8, None, 0.7)
    found = difference(first, second)
    assert (found.n, found.mean, found.interval) == (1, pytest.approx(0.1), None)
    assert difference(first, NOTHING) == Difference(n=0, mean=None, interval=None, p=None)


def test_verdicts() -> None:
    low = places(0.5, 0.61, 0.7, 0.82)
    high = places(0.6, 0.7, 0.8, 0.9)
    assert difference(high, low).verdict == "higher"
    assert difference(low, high).verdict == "lower"
    assert difference(low, low).verdict == "undecided"
    assert difference(places(0.9), places(0.1)).verdict == "undecided"


def test_holm_of_three_by_hand() -> None:
    # 3 x .01; 2 x .03; 1 x .04, which may not be below the one before it.
    assert holm([0.01, None, 0.04, 0.03]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_a_share_of_the_means() -> None:
    found = share(places(0.6, 0.8, 0.4), places(0.8, 0.8, None))
    assert found is not None
    ratio, ends = found
    assert ratio == pytest.approx(1.4 / 1.6)
    assert ends is not None and ends.low <= ratio <= ends.high
    assert share(places(0.5), NOTHING) is None
    assert share(places(0.5, 0.5), places(0.0, 0.0)) is None
    assert share(places(0.5), places(1.0)) == (0.5, None)
    assert share(places(0.5, 0.5), places(1.0, 1.0)) == (0.5, Interval(low=0.5, high=0.5))


def test_a_difference_over_scans_and_seeds_by_hand() -> None:
    # Gains .04, .08 in seed 1 and .06, .10 in seed 2: MS of scans .0016, of seeds .0004, rest 0.
    found = crossed_difference(crossed((0.74, 0.78), (0.66, 0.90)), crossed((0.7, 0.7), (0.6, 0.8)))
    assert (found.n, found.mean) == (2, pytest.approx(0.07))
    assert found.by_seed == pytest.approx((0.06, 0.08))
    # Var (.0004 + .0016) / 4, and .002^2 / .0004^2 = 25 degrees of freedom: t = 2.0595.
    half = 2.0595 * 0.0005**0.5
    assert found.interval is not None
    assert found.interval.low == pytest.approx(0.07 - half, abs=1e-6)
    assert found.interval.high == pytest.approx(0.07 + half, abs=1e-6)
    assert found.p == pytest.approx(0.0044, abs=1e-4)


def test_seeds_that_disagree_widen_the_interval_that_scans_alone_would_have() -> None:
    nothing = crossed((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5))
    better = crossed((0.61, 0.60, 0.62, 0.61), (0.51, 0.50, 0.52, 0.51))
    over_scans, over_both = difference(better, nothing), crossed_difference(better, nothing)
    assert over_both.mean == over_scans.mean == pytest.approx(0.06)
    assert over_scans.verdict == "higher"
    # Two seeds, one degree of freedom: half a tenth on either side says nothing.
    assert over_both.verdict == "undecided"


def test_one_seed_says_what_scans_say_and_missing_scans_count_nowhere() -> None:
    one, other = places(0.6, 0.7, 0.9), places(0.5, 0.65, 0.8)
    alone = crossed_difference(one, other)
    assert alone.model_dump(exclude={"by_seed"}) == difference(one, other).model_dump()
    assert alone.by_seed == pytest.approx((0.25 / 3,))
    # The second seed lacks the third scan.
    two = crossed_difference(
        crossed((0.6, 0.7, 0.9), (0.6, 0.7, None)), crossed((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    )
    assert (two.n, two.mean) == (2, pytest.approx(0.15))
    same = crossed_difference(crossed((0.5, 0.7), (0.5, 0.7)), crossed((0.4, 0.6), (0.4, 0.6)))
    assert same.interval == Interval(low=0.1, high=0.1)
    assert crossed_difference(NOTHING, places(0.6)).by_seed == ()


def test_seeds_that_share_no_scan_say_nothing() -> None:
    """An interval over scans alone would pass for one over seeds."""
    better = crossed((0.6, 0.7, None, None), (None, None, 0.6, 0.7))
    found = crossed_difference(better, crossed((0.5,) * 4, (0.5,) * 4))
    assert (found.n, found.mean, found.interval, found.by_seed) == (0, None, None, ())
