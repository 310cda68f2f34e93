"""The next round's plan, and whether a model is the best so far, from the rounds so far.

The federation's loop and training in one place (simulation) both ask here.  The loops themselves
stay apart: a federation waits for sites, counts a quorum and aggregates; one place has none of it.
"""

from collections.abc import Callable, Mapping
from statistics import median

from protocol.agreement.average import averaged
from protocol.config.schedule import (
    LEAST_ATTENTION,
    OrganBox,
    RoundPlan,
    mean_box,
    median_box,
    plan_round,
)
from protocol.wire.reports import EvaluationReport, SiteFacts
from protocol.wire.weights import Weights
from server.rounds.calibration import round_gamma
from server.rounds.record import RoundRecord, StudyRecord, better_than, macro_validation_dsc


def next_plan(record: StudyRecord) -> RoundPlan:
    """The plan of the first round that the record does not hold."""
    return plan_round(
        record.protocol,
        len(record.rounds) + 1,
        attention_scale=max(record.attention, LEAST_ATTENTION),
        gamma=round_gamma(record),
        organ_box=_organ_box(record.facts),
    )


def has_work(facts: SiteFacts, plan: RoundPlan) -> bool:
    """A label-free site rests while its scans have no target: its update weighs nothing."""
    return facts.labelled > 0 or (facts.unlabelled > 0 and plan.works_without_labels)


def add_round(record: StudyRecord, finished: RoundRecord) -> None:
    """Append a round; Eq. 2's running mean goes half of the way to what the round measured.

    That is the median of the sites' means: one site cannot set it for all.
    """
    means = [mean for r in finished.reports.values() if (mean := r.attention.mean) is not None]
    if means:
        record.attention = (record.attention + median(means)) / 2
    record.rounds.append(finished)


def follow_average(
    record: StudyRecord,
    round_number: int,
    as_sent: Callable[[Weights], Weights] = lambda weights: weights,
) -> None:
    """Take S after a round into its average, where the study wants one.

    Args:
        record: The study.
        round_number: The round.
        as_sent: What sites get of the record's weights: sending may round them.
    """
    decay = record.protocol.training.average_decay
    if decay:
        new = as_sent(record.segmenter)
        record.average = averaged(record.average, new, round_number, decay)


def keep_if_best(
    record: StudyRecord,
    round_number: int,
    evaluation: Mapping[str, EvaluationReport],
    as_scored: Callable[[Weights], Weights] = lambda weights: weights,
) -> None:
    """Keep the record's weights where none before them had a better validation DSC.

    Args:
        record: The study.
        round_number: After which they were evaluated.
        evaluation: Their scores by site.
        as_scored: What was evaluated, from the record's weights: sending may round them.
    """
    if better_than(evaluation, record.best_evaluation, record.protocol.evaluation.best_by):
        record.best_round, record.best_dsc = round_number, macro_validation_dsc(evaluation)
        # An average is of weights as they were sent.
        averages = record.average is not None
        record.best_segmenter = record.judged if averages else as_scored(record.segmenter)
        record.best_confidence = record.confidence and as_scored(record.confidence)


def _organ_box(facts: Mapping[str, SiteFacts]) -> OrganBox | None:
    """The median over sites of the mean organ box of a site's labelled cases."""
    boxes = (mean_box(declared.box) for declared in facts.values())
    return median_box([box for box in boxes if box is not None])
