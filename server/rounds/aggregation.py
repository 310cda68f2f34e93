"""Weighted averaging of the two networks (FedAvg: McMahan et al., AISTATS 2017)."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch

from protocol.config.schedule import RoundPlan
from protocol.config.study import AggregationConfig
from protocol.wire.reports import SiteFacts
from protocol.wire.weights import Weights

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
    cases = {site: f.drawn + omega * f.unlabelled for site, f in facts.items()}
    return capped_shares(cases, config.max_site_share)


def confidence_weights(facts: Mapping[str, SiteFacts]) -> dict[str, float]:
    """Each site's share of D: labelled cases only, as only they train it, counted alike."""
    return capped_shares({site: f.drawn for site, f in facts.items()}, 1.0)


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


def average_stored(
    files: Mapping[str, Path], shares: Mapping[str, float], like: Weights
) -> Weights:
    """`average` of updates on the disk, to the bit, in the same memory for any number of sites.

    The updates are read a strip at a time, the same strip of all of them, and summed by the same
    operation as whole ones: adding them up one after the other would round in another order from
    eight sites on.

    Args:
        files: Of each site: its tensors' values as float32, one behind the other, as `like` has
            them.
        shares: Of each site, summing to 1.
        like: Names and shapes.
    """
    sites = sorted(shares)
    # Whole blocks of PyTorch's vectorised sum: each number is added up as in a whole tensor.
    strip = max(_BLOCK, _NUMBERS_HELD // len(sites) // _BLOCK * _BLOCK)
    result: Weights = {}
    start = 0
    for name, tensor in like.items():
        total = torch.empty(tensor.numel())
        # What is less than a block is summed with the strip before it, as in a whole tensor.
        cuts = list(range(0, max(1, tensor.numel() - _BLOCK + 1), strip))
        for low, high in pairwise([*cuts, tensor.numel()]):
            rows = torch.empty(len(sites), high - low, dtype=torch.float64)
            for row, site in zip(rows, sites, strict=True):
                values = np.fromfile(files[site], np.float32, high - low, offset=4 * (start + low))
                torch.mul(torch.from_numpy(values).double(), shares[site], out=row)
            total[low:high] = rows.sum(0).float()
        result[name] = total.reshape(tensor.shape)
        start += tensor.numel()
    return result


def outsized_updates(norms: Mapping[str, float], max_ratio: float) -> dict[str, float]:
    """Sites whose update is over `max_ratio` times the round's median norm, with that ratio.

    Fewer than three updates have no telling median, and none is left out.
    """
    if len(norms) < 3:
        return {}
    middle = median(norms.values())
    if middle == 0:
        return {}
    return {
        site: norm / middle for site, norm in sorted(norms.items()) if norm > max_ratio * middle
    }
