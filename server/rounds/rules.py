"""How several sites' updates become one: the mean, and rules that a few hostile sites cannot move.

`hostile` is how many of the updates may be anything at all, f below; n are the updates of a round.
Rules by coordinate look at one weight at a time.  Rules by distance look at the distances between
whole updates, and come down to a share for each.  One or two updates have no majority: of them
every rule is the mean.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.config.study import Rule

Matrix = NDArray[np.float64]

_ITERATIONS, _TOLERANCE, _SMOOTHING = 1000, 1e-10, 1e-6
# Shares that add up to a half but for rounding.
_HALF = 1e-9


def least_sites(rule: Rule, hostile: int) -> int:
    """Sites that a rule needs to withstand so many hostile ones.

    Raises:
        ValueError: For the mean, which withstands none.
    """
    if rule == "mean":
        raise ValueError("the mean withstands no hostile site")
    return 2 * hostile + (3 if rule in ("krum", "multi-krum") else 1)


# ---- by coordinate ------------------------------------------------------------------------------


def mean(rows: Tensor, shares: Tensor, hostile: int) -> Tensor:
    """Sum of share * value, of (n, values) float64 in place; one hostile update moves it anywhere.

    Source: McMahan et al., AISTATS 2017 (FedAvg).
    """
    return rows.mul_(shares[:, None]).sum(0)


def median(rows: Tensor, shares: Tensor, hostile: int) -> Tensor:
    """Weighted median of each coordinate: half of the shares lie on either side.

    Where exactly half of them lie below, the mean of the two values in the middle.  Breaks down
    when hostile sites have half of the shares; of equal ones, needs n >= 2 f + 1.

    Source: Yin et al., ICML 2018 (unweighted).
    """
    ordered, order = rows.sort(stable=True, dim=0)
    below = shares[order].cumsum(0)
    upper = (below <= 0.5 + _HALF).sum(0).clamp_max(len(rows) - 1)
    lower = (below < 0.5 - _HALF).sum(0).clamp_max(len(rows) - 1)
    both = torch.stack((lower, upper))
    return ordered.gather(0, both).mean(0)


def trimmed_mean(rows: Tensor, shares: Tensor, hostile: int) -> Tensor:
    """Mean of each coordinate, by share, without its f smallest and its f largest values.

    Breaks down with f + 1 hostile sites; needs n >= 2 f + 1.  With fewer, f is what n allows.

    Source: Yin et al., ICML 2018 (unweighted).
    """
    cut = min(hostile, (len(rows) - 1) // 2)
    ordered, order = rows.sort(stable=True, dim=0)
    kept = slice(cut, len(rows) - cut)
    weights = shares[order][kept]
    return (ordered[kept] * weights).sum(0) / weights.sum(0)


BY_COORDINATE: Mapping[Rule, Callable[[Tensor, Tensor, int], Tensor]] = {
    "mean": mean,
    "median": median,
    "trimmed-mean": trimmed_mean,
}

# ---- by distance --------------------------------------------------------------------------------


def geometric_median(squares: Matrix, shares: Matrix, hostile: int) -> Matrix:
    """Shares of the updates in the point whose distances to them, by share, have the least sum.

    Weiszfeld's iteration, smoothed: each share is divided by the distance to the point so far,
    which is never taken as less than a millionth of the median distance.  The point is a mean of
    the updates, so its distances follow from theirs.  Breaks down when hostile sites have half of
    the shares; of equal ones, needs n >= 2 f + 1.

    Args:
        squares: Squared distances between the updates, (n, n).
        shares: Of the updates, summing to 1, (n,).
        hostile: Not used: it withstands as many as it can.

    Source: Pillutla et al., IEEE Transactions on Signal Processing 70, 2022 (RFA), Algorithm 1.
    """
    point = shares
    least = _SMOOTHING * float(np.median(np.sqrt(squares)[~np.eye(len(shares), dtype=bool)]))
    if least == 0:
        return shares
    for _ in range(_ITERATIONS):
        distances = np.sqrt(np.maximum(squares @ point - point @ squares @ point / 2, 0))
        nearness = shares / np.maximum(distances, least)
        last, point = point, nearness / nearness.sum()
        if np.abs(point - last).max() < _TOLERANCE:
            break
    return point


def krum(squares: Matrix, shares: Matrix, hostile: int) -> Matrix:
    """The one update whose n - f - 2 nearest others are nearest; its share is 1.

    Withstands f hostile sites where n >= 2 f + 3.  With fewer, f is what n allows.  Of equal scores
    the first by name.

    Source: Blanchard et al., NeurIPS 2017.
    """
    chosen = np.zeros(len(shares))
    chosen[int(np.argmin(_krum_scores(squares, hostile)))] = 1.0
    return chosen


def multi_krum(squares: Matrix, shares: Matrix, hostile: int) -> Matrix:
    """The n - f updates of the best scores of Krum, by share.

    Needs as many sites as Krum.

    Source: Blanchard et al., NeurIPS 2017, section 5.
    """
    scores = _krum_scores(squares, hostile)
    kept = np.zeros(len(shares))
    best = np.argsort(scores, kind="stable")[: len(scores) - _allowed(len(scores), hostile)]
    kept[best] = shares[best]
    kept /= kept.sum()
    return kept


def _allowed(count: int, hostile: int) -> int:
    return min(hostile, max(0, (count - 3) // 2))


def _krum_scores(squares: Matrix, hostile: int) -> Matrix:
    count = len(squares)
    nearest = max(1, count - _allowed(count, hostile) - 2)
    # The first is an update itself, at distance 0.
    scores: Matrix = np.sort(squares, axis=1)[:, 1 : nearest + 1].sum(1)
    return scores


BY_DISTANCE: Mapping[Rule, Callable[[Matrix, Matrix, int], Matrix]] = {
    "geometric-median": geometric_median,
    "krum": krum,
    "multi-krum": multi_krum,
}
