"""Statistics of the tables: summaries, intervals and paired tests, by scipy and statsmodels.

A score belongs to a case of a site in one fold and seed.  Seeds of one case are averaged
first, so that a case counts once; an undefined score (NaN) is never averaged.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats
from statsmodels.stats.multitest import multipletests

Verdict = Literal["higher", "lower", "undecided"]
Vector = NDArray[np.float64]

CONFIDENCE = 0.95
_RESAMPLES = 4999
_SEED = 20180916
# Differences that are equal on paper differ by rounding: 0.8 - 0.7 is not 0.9 - 0.8.
_DECIMALS = 12


PLACE = ["fold", "seed", "site", "case"]
# Values by an index with these four names; NaN where a score is undefined.
Scores: TypeAlias = pd.Series


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Interval(_Frozen):
    low: float
    high: float


class Summary(_Frozen):
    """Mean, sample standard deviation and interval of the mean over n cases; None: undefined."""

    n: int
    mean: float | None
    sd: float | None
    interval: Interval | None


class Difference(_Frozen):
    """First minus second over n paired cases; `p` is of Wilcoxon's signed-rank test, two-sided."""

    n: int
    mean: float | None
    interval: Interval | None
    p: float | None

    @property
    def verdict(self) -> Verdict:
        """Which way the interval points; undecided where it has 0 or there is none."""
        if self.interval is None or self.interval.low <= 0 <= self.interval.high:
            return "undecided"
        return "higher" if self.interval.low > 0 else "lower"


class CrossedDifference(Difference):
    """Over n scans and as many seeds as `by_seed` has means."""

    by_seed: tuple[float, ...]


def means(values: pd.Series, levels: list[str]) -> pd.Series:
    """Means of the groups that these levels of the index make, in order of appearance.

    By NumPy, because pandas sums in another order: its last bits would be others.
    """
    groups = values.groupby(level=levels, sort=False)
    return groups.agg(lambda group: np.mean(group.to_numpy())).astype(float)


def case_means(scores: Scores, *, over_folds: bool = False) -> list[float]:
    """One value a case: the mean over its seeds of what is defined.

    Args:
        scores: In the unit of the score.
        over_folds: Average folds too, where the same scan is scored in each (part "withheld").
    """
    levels = ["site", "case"] if over_folds else ["fold", "site", "case"]
    by_case = means(scores.dropna(), levels).to_dict()
    return [by_case[case] for case in sorted(by_case, key=str)]


def summarise(values: Iterable[float]) -> Summary:
    """Mean, SD (n - 1) and interval; without values all but n are None."""
    data = np.array(list(values), dtype=np.float64)
    if data.size == 0:
        return Summary(n=0, mean=None, sd=None, interval=None)
    sd = float(np.std(data, ddof=1)) if data.size > 1 else None
    return Summary(n=data.size, mean=float(np.mean(data)), sd=sd, interval=interval(data))


def interval(values: Sequence[float] | Vector) -> Interval | None:
    """Percentile bootstrap of the mean over cases, from one fixed seed.

    Returns:
        None for fewer than two values; the value itself, twice, where all are equal.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2:
        return None
    if np.ptp(data) == 0:
        return Interval(low=float(data[0]), high=float(data[0]))
    return _bootstrap((data,), np.mean)


def share(first: Scores, second: Scores) -> tuple[float, Interval | None] | None:
    """Mean of the first as a share of the mean of the second, on the cases of both.

    Returns:
        The ratio and its interval (cases drawn in pairs); None where there is nothing to divide.
    """
    one, other = (np.array(values) for values in _paired(first, second))
    if one.size == 0 or np.mean(other) == 0:
        return None
    ratio = float(np.mean(one) / np.mean(other))
    if one.size < 2 or np.count_nonzero(other) < other.size:
        return ratio, None
    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return ratio, Interval(low=ratio, high=ratio)
    return ratio, _bootstrap((one, other), _ratio)


def difference(first: Scores, second: Scores, *, over_folds: bool = False) -> Difference:
    """First minus second on what both scored: same fold, seed, site and case, seeds averaged.

    A pair of which either is undefined is left out.
    """
    one, other = _paired(first, second, over_folds=over_folds)
    gaps = np.round(np.array(one) - np.array(other), _DECIMALS)
    if gaps.size == 0:
        return Difference(n=0, mean=None, interval=None, p=None)
    return Difference(
        n=gaps.size, mean=float(np.mean(gaps)), interval=interval(gaps), p=_wilcoxon(gaps)
    )


def crossed_difference(first: Scores, second: Scores) -> CrossedDifference:
    """First minus second over scans and seeds, where another seed is another draw of the labels.

    Of the scans that every seed has scored with both, d is a table of scans x seeds; without any,
    n is 0.  Its mean has the variance of a comparison of many readers and many cases, with seeds in
    place of readers:

        Var = (MS_seed + max(MS_scan - MS_rest, 0)) / (scans x seeds)

    and Student's t with the square of that numerator / (MS_seed^2 / (seeds - 1)) degrees of
    freedom.  One seed alone says nothing of others: then interval and p are as in `difference`,
    over scans.

    Source: Dorfman, Berbaum and Metz, Investigative Radiology 1992; degrees of freedom by Hillis,
    Statistics in Medicine 2007.
    """
    both = first.to_frame("first").join(second.rename("second"), how="inner").dropna()
    gaps = (both["first"] - both["second"]).round(_DECIMALS).unstack("seed").dropna()
    d = gaps.to_numpy(dtype=np.float64)
    by_seed = tuple(float(mean) for mean in d.mean(axis=0)) if d.size else ()
    if not d.size and gaps.columns.size > 1:
        return CrossedDifference(n=0, mean=None, interval=None, p=None, by_seed=())
    if len(by_seed) < 2:
        return CrossedDifference(**difference(first, second).model_dump(), by_seed=by_seed)
    scans, seeds = d.shape
    mean = float(d.mean())
    if scans < 2:
        return CrossedDifference(n=scans, mean=mean, interval=None, p=None, by_seed=by_seed)
    of_scan, of_seed = d.mean(axis=1, keepdims=True), d.mean(axis=0, keepdims=True)
    ms_scan = seeds * float(np.var(of_scan, ddof=1))
    ms_seed = scans * float(np.var(of_seed, ddof=1))
    rest = d - of_scan - of_seed + mean
    ms_rest = float(np.sum(rest**2)) / ((scans - 1) * (seeds - 1))
    total = ms_seed + max(ms_scan - ms_rest, 0.0)
    error = float(np.sqrt(total / d.size))
    if error == 0:
        ends = Interval(low=mean, high=mean)
        return CrossedDifference(n=scans, mean=mean, interval=ends, p=None, by_seed=by_seed)
    freedom = total**2 * (seeds - 1) / ms_seed**2 if ms_seed else np.inf
    half = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return CrossedDifference(
        n=scans,
        mean=mean,
        interval=Interval(low=mean - half, high=mean + half),
        p=float(2 * stats.t.sf(abs(mean) / error, freedom)),
        by_seed=by_seed,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the tests that could be made; None stays None."""
    made = [p for p in p_values if p is not None]
    if not made:
        return list(p_values)
    corrected = iter(multipletests(made, method="holm")[1])
    return [None if p is None else float(next(corrected)) for p in p_values]


def _paired(
    first: Scores, second: Scores, *, over_folds: bool = False
) -> tuple[list[float], list[float]]:
    both = first.to_frame("first").join(second.rename("second"), how="inner").dropna()
    return (
        case_means(both["first"], over_folds=over_folds),
        case_means(both["second"], over_folds=over_folds),
    )


def _wilcoxon(gaps: Vector) -> float:
    """Zero differences are left out (Wilcoxon's own way); nothing but zeros is no evidence: 1."""
    if not np.any(gaps):
        return 1.0
    return float(stats.wilcoxon(gaps).pvalue)


def _ratio(first: Vector, second: Vector, axis: int = -1) -> Vector:
    means: Vector = np.mean(first, axis=axis) / np.mean(second, axis=axis)
    return means


def _bootstrap(data: tuple[Vector, ...], statistic: Any) -> Interval:
    interval = stats.bootstrap(
        data,
        statistic,
        paired=len(data) > 1,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(low=float(interval.low), high=float(interval.high))
