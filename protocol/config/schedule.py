"""The plan of one round, which the server sends to the sites."""

import math
from collections.abc import Iterable, Sequence
from statistics import median

from pydantic import Field, field_validator

from asdnet_models.catalogue import METHODS
from asdnet_models.fields import Fraction
from asdnet_models.schedule import LossSchedule, ramp
from asdnet_models.sums import SumCount
from protocol.config.study import StudyProtocol
from protocol.config.training import Count, RampConfig, TrainingConfig

# Eq. 2's weight lies in [0, 1]; what a step divides by, its running mean, is kept from 0.
LEAST_ATTENTION = 1e-3

OrganBox = tuple[Fraction, Fraction, Fraction, Fraction, Fraction, Fraction]


class RoundPlan(LossSchedule):
    """One round's schedule; travels with the weights as JSON."""

    round: Count
    lr_factor: float = Field(gt=0, le=1)
    organ_box: OrganBox | None = Field(
        None, description="median of the sites' mean organ boxes, fractions of the scan: lo, hi"
    )

    @field_validator("organ_box")
    @classmethod
    def _organ_box_has_volume(cls, box: OrganBox | None) -> OrganBox | None:
        if box and not all(low < high for low, high in zip(box[:3], box[3:], strict=True)):
            raise ValueError(f"must have each low edge below its high one, not {box}")
        return box


def mean_box(edges: Iterable[SumCount]) -> OrganBox | None:
    """The mean of each of a box's six edges; None where any of them was never measured."""
    x0, y0, z0, x1, y1, z1 = (edge.mean for edge in edges)
    if None in (x0, y0, z0, x1, y1, z1):
        return None
    return (x0 or 0.0, y0 or 0.0, z0 or 0.0, x1 or 0.0, y1 or 0.0, z1 or 0.0)


def evaluation_is_due(protocol: StudyProtocol, round_number: int) -> bool:
    """Every so many rounds, and after the last."""
    return round_number in evaluation_rounds(protocol)


def evaluation_rounds(protocol: StudyProtocol) -> tuple[int, ...]:
    """The rounds after which the sites score their cases; the last is always one."""
    total, every = protocol.training.rounds, protocol.evaluation.every_rounds
    return (*range(every, total, every), total)


def median_box(boxes: Sequence[OrganBox]) -> OrganBox | None:
    """The median of each edge over the sites' boxes; None of none.

    One site cannot set the box of all, as it could with a mean.  Each site is one voice, whatever
    number of cases it declares.
    """
    if not boxes:
        return None
    x0, y0, z0, x1, y1, z1 = (median(edges) for edges in zip(*boxes, strict=True))
    return (x0, y0, z0, x1, y1, z1)


def _lr_factor(training: TrainingConfig, progress: float) -> float:
    """What both rates are multiplied by; `progress`, of all rounds, is under 1."""
    if training.lr_schedule == "polynomial":
        return math.pow(1.0 - progress, training.lr_power)
    decays = sum(progress >= point for point in training.lr_decay_at)
    return training.lr_decay**decays


def plan_round(
    protocol: StudyProtocol,
    number: int,
    *,
    attention_scale: float = 1.0,
    gamma: float | None = None,
    organ_box: OrganBox | None = None,
) -> RoundPlan:
    """The plan of round `number` (from 1).

    Args:
        protocol: The study.
        number: The round.
        attention_scale: Running mean of Eq. 2's weight.
        gamma: The calibrated threshold, where there is one.
        organ_box: Where organs lie, over the labelled sites.
    """
    training = protocol.training
    progress = (number - 1) / training.rounds
    ramps: RampConfig = training.ramp
    method = protocol.method
    kind = METHODS[method.name]

    def rises(start: float, *, weight: float, has_term: bool) -> float:
        return ramp(progress, start, ramps.length) if has_term and weight > 0 else 0.0

    labellings = sum(progress >= point for point in method.pseudo_labels_at)
    return RoundPlan(
        round=number,
        lr_factor=_lr_factor(training, progress),
        adversarial_ramp=rises(
            ramps.adversarial_start,
            weight=method.lambda_adversarial,
            has_term=kind.confidence and not kind.teacher,
        ),
        region_ramp=rises(
            ramps.region_start,
            weight=method.lambda_region,
            has_term=kind.confidence or kind.taught,
        ),
        embedding_ramp=rises(
            ramps.region_start, weight=method.lambda_embedding, has_term=kind.embedding
        ),
        attention_scale=attention_scale,
        progress=min(progress, 1.0),
        # Its second network would never see a label there, and S would learn noise from it.
        label_free=not kind.second_network,
        gamma=gamma,
        pseudo_labels=labellings if kind.pseudo_labels and method.lambda_region > 0 else 0,
        organ_box=organ_box,
    )
