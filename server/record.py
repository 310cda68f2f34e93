"""What a study leaves behind, as typed objects: rounds, sites, scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.messages import EvaluationReport, SiteFacts, TrainReport, Weights
from protocol.schedule import RoundPlan
from protocol.study import StudyProtocol


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round."""

    plan: RoundPlan
    seconds: float
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]
    reports: Mapping[str, TrainReport]
    left_out: Mapping[str, str]
    evaluation: Mapping[str, EvaluationReport] | None = None
    validation_dsc: float | None = None


@dataclass(kw_only=True)
class StudyRecord:
    """A whole study; `best_round` is None only while nothing was evaluated."""

    protocol: StudyProtocol
    facts: dict[str, SiteFacts]
    segmenter: Weights
    confidence: Weights | None
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


def macro_validation_dsc(evaluation: Mapping[str, EvaluationReport]) -> float | None:
    """Mean over sites and organs of the mean validation DSC; None without validation cases."""
    means = [
        total.mean
        for _, report in sorted(evaluation.items())
        for total in report.dsc["validation"].values()
        if total.mean is not None
    ]
    return sum(means) / len(means) if means else None
