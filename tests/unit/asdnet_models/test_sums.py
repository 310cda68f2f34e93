"""Sums by hand."""

import math

import pytest
from made_scores import ABSENT, BESIDE, MADE_UP, MISSED, seen, sums_of

from asdnet_models.sums import FailureCount, OrganSums, ScoreSum, SumCount


def test_mean_and_sd_by_hand() -> None:
    # Deviations from 5 are -3, -1, -1, -1, 0, 0, 2, 4: squares sum to 32, over n - 1 = 7.
    found = ScoreSum.of([2, 4, 4, 4, 5, 5, 7, 9])
    assert found.mean == 5
    assert found.sd == pytest.approx(math.sqrt(32 / 7))
    assert (found.sum, found.sum_of_squares, found.count) == (40, 232, 8)


def test_undefined_values_are_not_counted() -> None:
    found = ScoreSum.of([None, 1.0, None, 3.0])
    assert (found.mean, found.count) == (2, 2)


def test_nothing_has_no_mean() -> None:
    assert ScoreSum.of([]).mean is None
    assert ScoreSum.of([None]) == ScoreSum()
    assert SumCount().mean is None


def test_one_value_has_no_sd() -> None:
    assert ScoreSum.of([0.5]).mean == 0.5
    assert ScoreSum.of([0.5]).sd is None


def test_equal_values_have_sd_0_despite_rounding() -> None:
    # .1 * .1 summed differs from the square of the sum in the last bits: never sqrt(-0.0...).
    for count in range(2, 40):
        assert ScoreSum.of([0.1] * count).sd == pytest.approx(0, abs=1e-7)


def test_adding_adds_every_part() -> None:
    total = ScoreSum.of([1.0, 2.0]) + ScoreSum.of([4.0])
    assert total == ScoreSum(sum=7, sum_of_squares=21, count=3)
    assert SumCount(sum=1, count=2) + SumCount(sum=5, count=1) == SumCount(sum=6, count=3)
    assert (SumCount(sum=1, count=2) + SumCount(sum=5, count=1)).mean == 2


def test_failures_are_counted_by_kind_and_said_in_words() -> None:
    one = sums_of(seen(0.8), MISSED, BESIDE, BESIDE, MADE_UP, ABSENT)
    assert one.failures == FailureCount(cases=6, missed=1, made_up=1, far_off=2)
    assert (one.failures.total, one.failures.one_empty) == (4, 2)
    assert str(one.failures) == "1 missed, 1 made up, 2 misplaced"
    assert str(FailureCount(cases=6)) == ""
    # What is far off has distances; what was missed has none.
    assert (one.dsc.count, one.nsd.count, one.asd_mm.count, one.hd95_mm.count) == (6, 6, 3, 3)


def test_sums_of_an_organ_add_every_score() -> None:
    cases = [seen(0.8), MISSED, BESIDE]
    assert sums_of(*cases[:1]) + sums_of(*cases[1:]) == sums_of(*cases)
    assert sums_of(*cases) + OrganSums() == sums_of(*cases)
