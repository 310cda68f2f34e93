"""What leaves of a quantity: means of equal parts, never a case's own value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.planning.fingerprint import (
    Fingerprint,
    OrganFingerprint,
    Share,
    Spread,
    pooled,
    share_of,
    spread_of,
)

ORGANS = ("ball", "rod")


def test_each_mean_stands_on_its_own_cases() -> None:
    values = [8.0, 1.0, 2.0, 9.0, 3.0, 4.0, 5.0, 6.0, 7.0, 30.0]
    assert spread_of(values, 2) == Spread(cases=10, means=(1.5, 3.5, 5.5, 7.5, 19.5))
    # Too few for five parts of three, enough for three.
    assert spread_of(values, 3).means == (2.5, 6.0, pytest.approx(47 / 3))
    assert spread_of(values, 4).means == (7.5,)
    assert spread_of(values, 11) == Spread()
    assert spread_of([], 1) == Spread()


@given(
    st.lists(st.floats(0, 1e3), max_size=60),
    st.integers(2, 6),
)
def test_no_number_of_too_few_cases_leaves(values: list[float], fewest: int) -> None:
    spread = spread_of(values, fewest)
    assert not spread.means or spread.smallest_part >= fewest
    assert spread.cases in (0, len(values))
    total = sum(values)
    if len(spread.means) == 1:
        assert spread.means[0] == pytest.approx(total / len(values))


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 6))
def test_a_share_tells_of_no_small_group(holds: list[bool], fewest: int) -> None:
    share = share_of(holds, fewest)
    assert not 0 < share.holding < fewest
    assert not 0 < share.cases - share.holding < fewest
    # All and none are told as they are.
    if len(holds) >= fewest and (all(holds) or not any(holds)):
        assert share == Share(cases=len(holds), holding=sum(holds))


def test_sites_are_pooled_by_their_cases() -> None:
    small, large = Spread(cases=5, means=(1.0,)), Spread(cases=15, means=(2.0, 2.0, 2.0))
    assert pooled([small, large], 0.5) == 2.0
    assert pooled([small, large], 0.0) == 1.0
    assert pooled([small, Spread(cases=5, means=(3.0,))], 0.5) == 2.0
    assert pooled([Spread()], 0.5) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"cases": 4, "means": (1.0, 2.0, 3.0, 4.0, 5.0)},
        {"cases": 9, "means": (2.0, 1.0, 3.0)},
        {"cases": 9, "means": (1.0, 2.0)},
        {"cases": 9},
    ],
)
def test_a_spread_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Spread.model_validate(wrong)


def test_every_number_has_a_name() -> None:
    found = Fingerprint(organs=dict.fromkeys(ORGANS, OrganFingerprint()))
    names = [name for name, _, _ in found.spreads()] + [name for name, _ in found.shares()]
    assert len(names) == len(set(names)) == 3 * 3 + 3 + 1 + len(ORGANS) * (1 + 3 + 1)
