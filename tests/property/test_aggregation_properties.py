"""What must hold for any sites and any amounts of cases."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.rounds.aggregation import StoredUpdates, average, capped_shares, combine

sites = st.text("ABCDEFGH", min_size=1, max_size=3)
amounts = st.dictionaries(sites, st.floats(0, 1e4, allow_subnormal=False), max_size=8)
caps = st.floats(0.05, 1.0)
quick = settings(max_examples=60)


@quick
@given(amounts, caps)
def test_shares_sum_to_1_and_keep_the_cap(cases: dict[str, float], cap: float) -> None:
    shares = capped_shares(cases, cap)
    assert set(shares) == {site for site, amount in cases.items() if amount > 0}
    if shares:
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares.values()) <= max(cap, 1 / len(shares)) * (1 + 1e-9)
        assert min(shares.values()) > 0


@quick
@given(amounts, caps)
def test_more_cases_never_have_the_smaller_share(cases: dict[str, float], cap: float) -> None:
    shares = capped_shares(cases, cap)
    ranked = sorted(shares, key=cases.__getitem__)
    for less, more in pairwise(ranked):
        assert shares[less] <= shares[more] * (1 + 1e-9)


@quick
@given(amounts, caps)
def test_sites_under_the_cap_keep_their_proportions(cases: dict[str, float], cap: float) -> None:
    shares = capped_shares(cases, cap)
    assume(shares)
    free = [s for s in shares if shares[s] < max(cap, 1 / len(shares)) * (1 - 1e-6)]
    for site in free[1:]:
        assert shares[site] * cases[free[0]] == pytest.approx(shares[free[0]] * cases[site])


@quick
@given(amounts, caps, st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_change_a_bit(
    cases: dict[str, float], cap: float, random: object
) -> None:
    shares = capped_shares(cases, cap)
    assume(shares)
    generator = torch.Generator().manual_seed(len(cases))
    updates = {site: {"w": torch.randn(9, generator=generator)} for site in sorted(cases)}
    order = list(cases)
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = capped_shares({site: cases[site] for site in order}, cap)
    assert shuffled == shares
    assert torch.equal(
        average({site: updates[site] for site in order}, shuffled)["w"],
        average(updates, shares)["w"],
    )


@quick
@given(amounts, caps, st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=5))
def test_identical_updates_average_to_themselves(
    cases: dict[str, float], cap: float, values: list[float]
) -> None:
    shares = capped_shares(cases, cap)
    assume(shares)
    update = {"w": torch.tensor(values)}
    found = average(dict.fromkeys(shares, update), shares)
    torch.testing.assert_close(found["w"], update["w"], rtol=1e-6, atol=0)


@quick
@given(st.dictionaries(sites, st.floats(-100, 100, width=32), min_size=1, max_size=8), caps)
def test_an_average_lies_between_its_updates(values: dict[str, float], cap: float) -> None:
    shares = capped_shares(dict.fromkeys(values, 1.0), cap)
    found = average({s: {"w": torch.tensor([v])} for s, v in values.items()}, shares)["w"].item()
    assert min(values.values()) - 1e-4 <= found <= max(values.values()) + 1e-4


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=40)
@given(
    st.integers(1, 40),
    st.lists(st.sampled_from([0, 1, 2, 3, 17, 65, 511, 513, 1025, 5000]), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
def test_updates_on_the_disk_average_to_the_same_bits(
    threads: int, count: int, sizes: list[int], seed: int, random: object
) -> None:
    """With terms that cancel out, where another order of adding would show in float32."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"{site:03d}" for site in range(count)]
    like = {f"t{i}": torch.zeros(size) for i, size in enumerate(sizes)}
    updates = {
        site: {
            name: torch.randn(w.shape, generator=generator)
            * 10.0 ** torch.randint(-8, 9, w.shape, generator=generator)
            for name, w in like.items()
        }
        for site in names
    }
    shares = capped_shares({site: 1.0 + i % 7 for i, site in enumerate(names)}, 0.4)
    random.shuffle(names)  # type: ignore[attr-defined]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            patch.setattr(
                "server.rounds.aggregation._NUMBERS_HELD", 600 * count
            )  # more than one strip
            files = {site: Path(folder) / site for site in names}
            for site in names:
                flat = torch.cat([updates[site][name].flatten() for name in like])
                flat.numpy().tofile(files[site])
            found = combine(StoredUpdates(files=files, current=like), shares)
        expected = average(updates, shares)
    finally:
        torch.set_num_threads(before)
    assert list(found) == list(like)
    assert all(torch.equal(found[name], expected[name]) for name in like)
