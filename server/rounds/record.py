"""The record of a study as typed objects: rounds, sites, scores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from protocol.agreement.average import Average
from protocol.agreement.statement_store import KeptStatement
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from protocol.wire.weights import Weights


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round.

    Attributes:
        finished_at: POSIX time, s.
        norms: L2 norms of what the updates would have changed, by site and network.
        clipped: What an update's change was multiplied by where it was too large, likewise.
    """

    plan: RoundPlan
    seconds: float
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]
    reports: Mapping[str, TrainReport]
    left_out: Mapping[str, str]
    finished_at: float = 0.0
    evaluation: Mapping[str, EvaluationReport] | None = None
    validation_dsc: float | None = None
    norms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    clipped: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(kw_only=True)
class StudyRecord:
    """The record of a study; `best_round` is None only while nothing was evaluated.

    `attention` is Eq. 2's weight, averaged over the rounds so far.  `missed` counts the deadlines
    that a site has missed in a row; `silent` are those that are not called, each with its node's
    start, and `again` after how many rounds each is (`silence.py`).  `average` is S's over the
    rounds, None where the study wants none.  `statements` are the sites' of the last round, none
    without a signed study; `before` are the global weights that it began with, by network, where
    a signed study or momentum asks for them.
    """

    run: str
    protocol: StudyProtocol
    facts: dict[str, SiteFacts]
    segmenter: Weights
    confidence: Weights | None
    average: Average | None = None
    attention: float = 1.0
    rounds: list[RoundRecord] = field(default_factory=list)
    statements: list[KeptStatement] = field(default_factory=list)
    before: dict[str, Weights] = field(default_factory=dict)
    best_round: int | None = None
    best_dsc: float | None = None
    best_segmenter: Weights | None = None
    best_confidence: Weights | None = None
    missed: dict[str, int] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)

    @property
    def networks(self) -> dict[str, Weights]:
        """The global weights, by network."""
        both = {SEGMENTER: self.segmenter, CONFIDENCE: self.confidence}
        return {network: weights for network, weights in both.items() if weights is not None}

    @property
    def judged(self) -> Weights:
        """S as it is evaluated and kept: its average over rounds, or the global weights."""
        return self.segmenter if self.average is None else self.average.weights

    @property
    def best_evaluation(self) -> Mapping[str, EvaluationReport]:
        """The sites' scores of the best model."""
        for record in self.rounds:
            if record.plan.round == self.best_round and record.evaluation is not None:
                return record.evaluation
        return {}


def better_than(
    new: Mapping[str, EvaluationReport],
    best: Mapping[str, EvaluationReport],
    best_by: Literal["mean", "worst-site"] = "mean",
) -> bool:
    """Whether the validation DSC is at least the best's, on the sites that scored both.

    A site that was away, or an organ that a site did not score, would move the mean without a
    better model: compared are the organs of the sites that both have, and a round that has fewer
    than half of the best's does not replace it.

    Args:
        new: Reports by site.
        best: Those of the best model so far.
        best_by: Whether the mean over sites and organs counts, or that of the worst site.
    """
    mine, its = _validated(new), _validated(best)
    if not its:
        return True
    both = _both(mine, its)
    judged = _mean if best_by == "mean" else _worst
    return bool(both) and judged(both, mine) >= judged(both, its)


def mean_gain(
    mine: Mapping[tuple[str, str], float], its: Mapping[tuple[str, str], float]
) -> float | None:
    """How much higher the mean is than that of other scores, by site and organ, on what both have.

    None where that is less than half of the others'.
    """
    both = _both(mine, its)
    return _mean(both, mine) - _mean(both, its) if both else None


def macro_validation_dsc(evaluation: Mapping[str, EvaluationReport]) -> float | None:
    """Mean over sites and organs of the mean validation DSC; None without validation cases.

    An organ that a site has not drawn is left out.
    """
    means = _validated(evaluation)
    return _mean(means, means) if means else None


def worst_site(evaluation: Mapping[str, EvaluationReport]) -> tuple[str, float] | None:
    """The site with the lowest mean validation DSC over its organs, and that mean.

    None where fewer than two sites have scored.
    """
    means = _by_site(_validated(evaluation))
    if len(means) < 2:
        return None
    return min(means.items(), key=lambda of_site: of_site[1])


def _validated(evaluation: Mapping[str, EvaluationReport]) -> dict[tuple[str, str], float]:
    """The mean validation DSC by site and organ, where there is one."""
    return {
        (site, organ): sums.dsc.mean
        for site, report in sorted(evaluation.items())
        for organ, sums in report.scores["validation"].items()
        if sums.dsc.mean is not None
    }


# A mean validation DSC, by site and organ.
_Scores = Mapping[tuple[str, str], float]


def _both(mine: _Scores, its: _Scores) -> list[tuple[str, str]]:
    """What both have; nothing where that is less than half of the others'."""
    both = [scored for scored in its if scored in mine]
    return both if 2 * len(both) >= len(its) else []


def _mean(scored: Iterable[tuple[str, str]], scores: _Scores) -> float:
    return fmean(scores[of] for of in scored)


def _worst(scored: Iterable[tuple[str, str]], scores: _Scores) -> float:
    return min(_by_site({of: scores[of] for of in scored}).values())


def _by_site(scores: _Scores) -> dict[str, float]:
    """The mean over a site's organs."""
    sites = dict.fromkeys(site for site, _ in scores)
    return {site: fmean(dsc for (of, _), dsc in scores.items() if of == site) for site in sites}
