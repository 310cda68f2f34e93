"""What a study leaves behind, as typed objects: rounds, sites, scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.messages import EvaluationReport, SiteFacts, TrainReport
from protocol.schedule import RoundPlan
from protocol.study import StudyProtocol
from protocol.weights import Weights


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round; `finished_at` is POSIX time, s."""

    plan: RoundPlan
    seconds: float
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]
    reports: Mapping[str, TrainReport]
    left_out: Mapping[str, str]
    finished_at: float = 0.0
    evaluation: Mapping[str, EvaluationReport] | None = None
    validation_dsc: float | None = None


@dataclass(kw_only=True)
class StudyRecord:
    """A whole study; `best_round` is None only while nothing was evaluated.

    `attention` is Eq. 2's weight, averaged over the rounds so far.
    """

    run: str
    protocol: StudyProtocol
    facts: dict[str, SiteFacts]
    segmenter: Weights
    confidence: Weights | None
    attention: float = 1.0
    rounds: list[RoundRecord] = field(default_factory=list)
    best_round: int | None = None
    best_dsc: float | None = None
    best_segmenter: Weights | None = None
    best_confidence: Weights | None = None

    @property
    def best_evaluation(self) -> Mapping[str, EvaluationReport]:
        """The sites' scores of the best model."""
        for record in self.rounds:
            if record.plan.round == self.best_round and record.evaluation is not None:
                return record.evaluation
        return {}


def better_than(new: Mapping[str, EvaluationReport], best: Mapping[str, EvaluationReport]) -> bool:
    """Whether the mean validation DSC is at least the best's, on the sites that scored both.

    A site that was away would move the mean without a better model: a round that fewer than half
    of the best's sites scored does not replace it.
    """
    if macro_validation_dsc(best) is None:
        return True
    scored = _validated(best)
    both = scored & _validated(new)
    mine = macro_validation_dsc({site: new[site] for site in both})
    its = macro_validation_dsc({site: best[site] for site in both})
    return 2 * len(both) >= len(scored) and mine is not None and its is not None and mine >= its


def _validated(evaluation: Mapping[str, EvaluationReport]) -> set[str]:
    return {s for s, r in evaluation.items() if macro_validation_dsc({s: r}) is not None}


def macro_validation_dsc(evaluation: Mapping[str, EvaluationReport]) -> float | None:
    """Mean over sites and organs of the mean validation DSC; None without validation cases."""
    means = [
        total.mean
        for _, report in sorted(evaluation.items())
        for total in report.dsc["validation"].values()
        if total.mean is not None
    ]
    return sum(means) / len(means) if means else None
