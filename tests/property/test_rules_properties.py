"""What must hold of every rule for any updates: order, equality, and what hostile sites can do."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.agreement.bounds import distance
from protocol.config.study import Rule
from protocol.wire.weights import Weights
from server.rounds.aggregation import StoredUpdates, combine
from server.rounds.rules import BY_COORDINATE, least_sites

RULES: tuple[Rule, ...] = get_args(Rule)
ROBUST: tuple[Rule, ...] = tuple(rule for rule in RULES if rule != "mean")
SHAPES = {"w": (3, 4), "b": (5,), "none": (0,)}
quick = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, size: float = 1.0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {n: size * torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}


def named(count: int) -> list[str]:
    return [f"{number:02d}" for number in range(count)]


def even(count: int) -> dict[str, float]:
    return dict.fromkeys(named(count), 1 / count)


@contextmanager
def stored(updates: Mapping[str, Weights], current: Weights) -> Iterator[StoredUpdates]:
    """The updates in files, written in the order given."""
    with tempfile.TemporaryDirectory() as folder:
        files = {site: Path(folder) / site for site in updates}
        for site, file in files.items():
            torch.cat([updates[site][name].flatten() for name in current]).numpy().tofile(file)
        yield StoredUpdates(files=files, current=current)


def one_of(
    updates: Mapping[str, Weights], rule: Rule, hostile: int = 0, **given_shares: float
) -> Weights:
    current = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    with stored(updates, current) as on_disk:
        return combine(on_disk, given_shares or even(len(updates)), rule, hostile)


def flat(weights: Weights) -> torch.Tensor:
    return torch.cat([w.flatten() for w in weights.values()]).double()


@pytest.mark.parametrize("rule", RULES)
@quick
@given(seeds, st.integers(1, 9), st.integers(0, 3))
def test_equal_updates_stay_as_they_are(rule: Rule, seed: int, count: int, hostile: int) -> None:
    update = drawn(seed)
    found = one_of(dict.fromkeys(named(count), update), rule, hostile)
    assert {name: w.shape for name, w in found.items()} == {n: w.shape for n, w in update.items()}
    torch.testing.assert_close(flat(found), flat(update), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
@quick
@given(seeds, st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(
    rule: Rule, seed: int, count: int, random: object
) -> None:
    updates = {site: drawn(seed + n) for n, site in enumerate(named(count))}
    shares = {site: (1 + n % 3) for n, site in enumerate(named(count))}
    shares = {site: amount / sum(shares.values()) for site, amount in shares.items()}
    order = named(count)
    random.shuffle(order)  # type: ignore[attr-defined]
    found = one_of({s: updates[s] for s in order}, rule, **{s: shares[s] for s in order})
    assert torch.equal(flat(found), flat(one_of(updates, rule, **shares)))


@pytest.mark.parametrize("rule", RULES)
@quick
@given(seeds, st.integers(1, 2))
def test_one_or_two_updates_are_averaged(rule: Rule, seed: int, count: int) -> None:
    updates = {site: drawn(seed + n) for n, site in enumerate(named(count))}
    assert torch.equal(flat(one_of(updates, rule)), flat(one_of(updates, "mean")))


@pytest.mark.parametrize("rule", RULES)
@quick
@given(seeds, st.integers(3, 9))
def test_strips_of_any_length_give_the_same(rule: Rule, seed: int, count: int) -> None:
    """Bits, but for rules by distance, whose sums round with the strips."""
    updates = {site: drawn(seed + n) for n, site in enumerate(named(count))}
    whole = flat(one_of(updates, rule))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.rounds.aggregation._NUMBERS_HELD", count)
        patch.setattr("server.rounds.aggregation._BLOCK", 4)
        parts = flat(one_of(updates, rule))
    if rule in BY_COORDINATE:
        assert torch.equal(parts, whole)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-9)


def with_hostile(seed: int, rule: Rule, hostile: int, more: int, size: float) -> dict[str, Weights]:
    """As many sites as the rule needs and some more; the hostile ones collude far away."""
    count = least_sites(rule, hostile) + more
    honest = {site: drawn(seed + n) for n, site in enumerate(named(count - hostile))}
    shout = drawn(seed + 99, size)
    return honest | {f"z{n}": shout for n in range(hostile)}


# Larger ones cannot come: updates are shortened before.
attacks = (seeds, st.integers(1, 3), st.integers(0, 3), st.sampled_from([3.0, 1e2, 1e4, 1e6]))


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
@quick
@given(*attacks)
def test_rules_by_coordinate_stay_in_the_box_of_the_honest(
    rule: Rule, seed: int, hostile: int, more: int, size: float
) -> None:
    updates = with_hostile(seed, rule, hostile, more, size)
    honest = torch.stack([flat(u) for site, u in updates.items() if site[0] != "z"])
    found = flat(one_of(updates, rule, hostile, **dict.fromkeys(updates, 1 / len(updates))))
    assert (found >= honest.amin(0) - 1e-6).all()
    assert (found <= honest.amax(0) + 1e-6).all()


@pytest.mark.parametrize("rule", ["geometric-median", "krum", "multi-krum"])
@quick
@given(*attacks)
def test_rules_by_distance_stay_near_the_honest(
    rule: Rule, seed: int, hostile: int, more: int, size: float
) -> None:
    """The geometric median moves by 2 (1 - a) / (1 - 2 a) of the honest ones' largest distance to
    their mean at most, a being the hostile ones' share (Pillutla et al. 2022, from Lopuhaa and
    Rousseeuw, Annals of Statistics 1991); an update that Krum keeps is as near to honest ones as
    they are to each other."""
    updates = with_hostile(seed, rule, hostile, more, size)
    honest = torch.stack([flat(u) for site, u in updates.items() if site[0] != "z"])
    found = flat(one_of(updates, rule, hostile, **dict.fromkeys(updates, 1 / len(updates))))
    radius = float((honest - honest.mean(0)).norm(dim=1).max())
    share = hostile / len(updates)
    reach = 2 * (1 - share) / (1 - 2 * share) * radius
    if rule != "geometric-median":
        reach = len(updates) * float(torch.cdist(honest, honest).max())
    assert float((found - honest.mean(0)).norm()) <= reach + 1e-6


@pytest.mark.parametrize("rule", ROBUST)
@quick
@given(seeds)
def test_the_mean_would_have_moved(rule: Rule, seed: int) -> None:
    updates = with_hostile(seed, rule, 1, 0, 1e6)
    shares = dict.fromkeys(updates, 1 / len(updates))
    moved = {r: float(flat(one_of(updates, r, 1, **shares)).norm()) for r in ("mean", rule)}
    assert moved["mean"] > 1e4
    assert moved[rule] < 20


@quick
@given(seeds, st.floats(1e-3, 1.0))
def test_a_change_is_multiplied_before_any_rule_sees_it(seed: int, factor: float) -> None:
    current, update = drawn(seed), drawn(seed + 1, 1e3)
    with stored({"A": update}, current) as on_disk:
        halved = StoredUpdates(files=on_disk.files, current=current, factors={"A": factor})
        found = combine(halved, {"A": 1.0})
    assert distance(found, current) == pytest.approx(factor * distance(update, current), rel=1e-4)
