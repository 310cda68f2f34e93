"""Whether learning from unlabelled scans does harm, from the sites that train a supervised twin."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit  # Student's quantile; scipy.stats takes a second to import

from server.rounds.record import StudyRecord

# Rounds that are looked at, and comparisons of a site in a round that say something together.
_LAST_ROUNDS, _FEWEST = 3, 3
# Harm that is less than this is none to speak of, however sure.
_LEAST = 0.002
# Chance of a false alarm to either side, were the comparisons independent.
_CHANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Validation DSC of sites' updates less that of their twins, over sites and rounds.

    Attributes:
        mean: Of the comparisons; below zero, unlabelled scans did harm.
        error: Its standard error, of independent comparisons.  They differ by site, weights and
            the patches that were drawn; that all rounds of a site are scored on the same few
            validation cases is not in it.
        sites: Who compared, in order.
        rounds: The first and the last.
        number: Of comparisons, each the mean of one site in one round.
    """

    mean: float
    error: float
    sites: tuple[str, ...]
    rounds: tuple[int, int]
    number: int

    @property
    def harmful(self) -> bool:
        """Whether the mean is below zero by more than may be chance."""
        quantile = float(stdtrit(self.number - 1, 1 - _CHANCE / 2))
        return self.mean < -_LEAST and self.mean + quantile * self.error < 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}"


def comparison_of(record: StudyRecord) -> Comparison | None:
    """The last three rounds in which sites compared; None of fewer than three comparisons."""
    compared = [
        (finished.plan.round, site, report.twin.mean)
        for finished in record.rounds
        for site, report in sorted(finished.reports.items())
        if report.twin.mean is not None
    ]
    last = sorted({number for number, _, _ in compared})[-_LAST_ROUNDS:]
    kept = [(number, site, mean) for number, site, mean in compared if number in last]
    if len(kept) < _FEWEST:
        return None
    means = [mean for _, _, mean in kept]
    return Comparison(
        mean=fmean(means),
        error=stdev(means) / math.sqrt(len(means)),
        sites=tuple(sorted({site for _, site, _ in kept})),
        rounds=(last[0], last[-1]),
        number=len(kept),
    )
