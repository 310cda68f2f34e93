"""Weighted averaging of the two networks (FedAvg: McMahan et al., AISTATS 2017)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.config.schedule import RoundPlan
from protocol.config.study import AggregationConfig, Rule
from protocol.wire.reports import SiteFacts
from protocol.wire.weights import Weights
from server.rounds.rules import BY_COORDINATE, BY_DISTANCE

# Cap on one site's share, times an equal one, under rules that are to withstand hostile sites.
_OF_AN_EQUAL_SHARE = 1.5
# Of all sites together in memory, while they are summed, in float64: 8 MiB.
_NUMBERS_HELD, _BLOCK = 2**20, 512


def segmenter_weights(
    facts: Mapping[str, SiteFacts], plan: RoundPlan, config: AggregationConfig
) -> dict[str, float]:
    """Each site's share of S: labelled cases + omega * unlabelled cases, capped.

    A labelled case counts by the part of the organs that are drawn in it.  omega is zero until
    unlabelled scans have a target of their own.  Shares sum to 1.
    """
    omega = config.unlabelled_weight if plan.learns_from_unlabelled else 0.0
    return _shares({site: f.drawn + omega * f.unlabelled for site, f in facts.items()}, config)


def confidence_weights(
    facts: Mapping[str, SiteFacts], config: AggregationConfig
) -> dict[str, float]:
    """Each site's share of D: labelled cases only, as only they train it, counted alike."""
    return _shares({site: f.drawn for site, f in facts.items()}, config)


def _shares(cases: Mapping[str, float], config: AggregationConfig) -> dict[str, float]:
    """No site over the study's cap.

    Of a rule that is to withstand hostile sites none is far over an equal share either: what a site
    declares would be a weapon, and so many as may be hostile must never have half of the shares.
    """
    cap = config.max_site_share
    if config.rule != "mean":
        count = sum(amount > 0 for amount in cases.values())
        cap = min(cap, _OF_AN_EQUAL_SHARE / max(1, count), 1 / (2 * config.hostile + 1))
    return capped_shares(cases, cap)


def capped_shares(amounts: Mapping[str, float], cap: float) -> dict[str, float]:
    """Amounts as shares of 1, none over the cap; what is cut off goes to the others by amount.

    With too few sites to keep the cap it is raised to equal shares.
    """
    positive = {site: amount for site, amount in sorted(amounts.items()) if amount > 0}
    if not positive:
        return {}
    cap = max(cap, 1.0 / len(positive))
    capped: set[str] = set()
    while True:
        free = {site: amount for site, amount in positive.items() if site not in capped}
        left = 1.0 - cap * len(capped)
        total = math.fsum(free.values())
        shares = {site: left * amount / total for site, amount in free.items()}
        over = {site for site, share in shares.items() if share > cap * (1 + 1e-12)}
        if not over:
            return {site: cap if site in capped else shares[site] for site in positive}
        capped |= over


def average(updates: Mapping[str, Weights], shares: Mapping[str, float]) -> Weights:
    """Sum of share * weights, accumulated in float64 in the order of the sites' names.

    The order is fixed so that replies arriving in another one give the same bits.
    """
    sites = sorted(shares)
    return {
        name: torch.stack([updates[site][name].double() * shares[site] for site in sites])
        .sum(0)
        .float()
        for name in updates[sites[0]]
    }


@dataclass(frozen=True, kw_only=True)
class StoredUpdates:
    """A network's updates on the disk, and the global weights that they change.

    Attributes:
        files: Of each site: its tensors' values as float32, one behind the other, as `current` has
            them.
        current: The global weights.
        factors: By site, what its change is multiplied by, where it was too large.
    """

    files: Mapping[str, Path]
    current: Weights
    factors: Mapping[str, float] = field(default_factory=dict)

    def strips(self, sites: Sequence[str]) -> Iterator[tuple[str, slice, Tensor]]:
        """A tensor's name, a part of it, and what the sites have there, (sites, values) float64.

        The same memory for any number of sites.
        """
        # Whole blocks of PyTorch's vectorised sum: each number is added up as in a whole tensor.
        strip = max(_BLOCK, _NUMBERS_HELD // len(sites) // _BLOCK * _BLOCK)
        start = 0
        for name, tensor in self.current.items():
            # What is less than a block is summed with the strip before it, as in a whole tensor.
            cuts = list(range(0, max(1, tensor.numel() - _BLOCK + 1), strip))
            for low, high in pairwise([*cuts, tensor.numel()]):
                rows = torch.empty(len(sites), high - low, dtype=torch.float64)
                old = tensor.flatten()[low:high].double()
                for row, site in zip(rows, sites, strict=True):
                    at = 4 * (start + low)
                    row.copy_(
                        torch.from_numpy(
                            np.fromfile(self.files[site], np.float32, high - low, offset=at)
                        )
                    )
                    if site in self.factors:
                        row.sub_(old).mul_(self.factors[site]).add_(old)
                yield name, slice(low, high), rows
            start += tensor.numel()


def combine(
    updates: StoredUpdates, shares: Mapping[str, float], rule: Rule = "mean", hostile: int = 0
) -> Weights:
    """The sites' updates as one, by the study's rule.

    The mean is `average` to the bit: updates are read a strip at a time, the same strip of all of
    them, and summed by the same operation as whole ones: adding them up one after the other would
    round in another order from eight sites on.  No rule depends on the order in which they came.

    Args:
        updates: Of at least these sites.
        shares: By site, summing to 1.
        rule: A rule of `server/rounds/rules.py`; of one or two sites it is the mean.
        hostile: How many of the sites may be so; 0: one.
    """
    sites = sorted(shares)
    weights = np.array([shares[site] for site in sites])
    hostile = max(1, hostile)
    if len(sites) < 3:
        rule = "mean"
    if rule in BY_DISTANCE:
        weights = BY_DISTANCE[rule](squared_distances(updates, sites), weights, hostile)
        sites = [site for site, weight in zip(sites, weights, strict=True) if weight > 0]
        weights, rule = weights[weights > 0], "mean"
    result = {name: torch.empty(w.numel()) for name, w in updates.current.items()}
    by_site = torch.from_numpy(weights)
    for name, part, rows in updates.strips(sites):
        result[name][part] = BY_COORDINATE[rule](rows, by_site, hostile).float()
    return {name: result[name].reshape(w.shape) for name, w in updates.current.items()}


def with_momentum(
    weights: Weights, current: Weights, before: Weights | None, momentum: float
) -> Weights:
    """What the sites' updates became, and a part of the last round's change of the global weights.

    x_{r+1} = combined + momentum * (x_r - x_{r-1}): FedAvgM's velocity is the last change.

    Args:
        weights: The combined updates.
        current: x_r, which the round began with.
        before: x_{r-1}; None in the first round.
        momentum: In [0, 1); 0: FedAvg, the very weights.

    Source: Hsu, Qi & Brown, arXiv:1909.06335.
    """
    if not momentum or before is None:
        return weights
    return {
        name: (w.double() + momentum * (current[name].double() - before[name].double())).to(w.dtype)
        for name, w in weights.items()
    }


def squared_distances(updates: StoredUpdates, sites: Sequence[str]) -> NDArray[np.float64]:
    """Between every two of the sites' updates, (n, n); summed in one order by any threads."""
    squares = np.zeros((len(sites), len(sites)))
    for _, _, rows in updates.strips(sites):
        values = rows.numpy()
        for row in range(len(sites) - 1):
            others = values[row + 1 :] - values[row]
            squares[row, row + 1 :] += np.einsum("ij,ij->i", others, others)
    return squares + squares.T
