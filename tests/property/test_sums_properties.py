"""Sums of scores equal NumPy's, however cases are shared out over sites."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asdnet_models.sums import ScoreSum, SumCount

values = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=10)
quick = settings(max_examples=60)


def close(a: ScoreSum, b: ScoreSum) -> bool:
    return a.count == b.count and (a.sum, a.sum_of_squares) == pytest.approx(
        (b.sum, b.sum_of_squares)
    )


@quick
@given(values, values, values)
def test_adding_is_associative_and_commutative(
    a: list[float | None], b: list[float | None], c: list[float | None]
) -> None:
    x, y, z = (ScoreSum.of(part) for part in (a, b, c))
    assert close((x + y) + z, x + (y + z))
    assert x + y == y + x
    assert x + ScoreSum() == x


@quick
@given(values, values)
def test_two_sites_equal_numpy_over_all_cases(a: list[float | None], b: list[float | None]) -> None:
    total = ScoreSum.of(a) + ScoreSum.of(b)
    defined = [value for value in a + b if value is not None]
    assert total.count == len(defined)
    if defined:
        assert total.mean == pytest.approx(np.mean(defined))
    if len(defined) > 1:
        assert total.sd == pytest.approx(np.std(defined, ddof=1), abs=1e-7)


@quick
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 50)), min_size=1, max_size=8))
def test_a_mean_over_sites_weighs_by_count(pairs: list[tuple[float, int]]) -> None:
    sites = (SumCount(sum=mean * count, count=count) for mean, count in pairs)
    total = sum(sites, SumCount())
    means, counts = zip(*pairs, strict=True)
    assert total.mean == pytest.approx(np.average(means, weights=counts), abs=1e-6)
