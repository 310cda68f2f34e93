"""The record of a study as typed objects: rounds, sites, scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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


def better_than(new: Mapping[str, EvaluationReport], best: Mapping[str, EvaluationReport]) -> bool:
    """Whether the mean validation DSC is at least the best's, on the sites that scored both.

    A site that was away, or an organ that a site did not score, would move the mean without a
    better model: compared are the organs of the sites that both have, and a round that has fewer
    than half of the best's does not replace it.
    """
    its = _validated(best)
    if not its:
        return True
    gain = mean_gain(_validated(new), its)
    return gain is not None and gain >= 0


def mean_gain(
    mine: Mapping[tuple[str, str], float], its: Mapping[tuple[str, str], float]
) -> float | None:
    """How much higher the mean is than that of other scores, by site and organ, on what both have.

    None where that is less than half of the others'.
    """
    both = [scored for scored in its if scored in mine]
    if not both or 2 * len(both) < len(its):
        return None
    return _mean([mine[scored] for scored in both]) - _mean([its[scored] for scored in both])


def macro_validation_dsc(evaluation: Mapping[str, EvaluationReport]) -> float | None:
    """Mean over sites and organs of the mean validation DSC; None without validation cases.

    An organ that a site has not drawn is left out.
    """
    means = list(_validated(evaluation).values())
    return _mean(means) if means else None


def _validated(evaluation: Mapping[str, EvaluationReport]) -> dict[tuple[str, str], float]:
    """The mean validation DSC by site and organ, where there is one."""
    return {
        (site, organ): sums.dsc.mean
        for site, report in sorted(evaluation.items())
        for organ, sums in report.scores["validation"].items()
        if sums.dsc.mean is not None
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
