"""What the server announces for one round, so that a site never guesses it."""

import math

from pydantic import Field

from protocol.study import Frozen, RampConfig, StudyProtocol


class RoundPlan(Frozen):
    """One round's schedule; travels with the weights as JSON."""

    round: int = Field(ge=1)
    lr_factor: float = Field(gt=0, le=1)
    adversarial_ramp: float = Field(ge=0, le=1)
    region_ramp: float = Field(ge=0, le=1)
    attention_scale: float = Field(1.0, gt=0, description="running mean of Eq. 2's weight")
    organ_box: tuple[float, float, float, float, float, float] | None = Field(
        None, description="mean organ box over labelled sites, fractions of the scan: lo, hi"
    )

    @property
    def uses_unlabelled(self) -> bool:
        """In warm-up both ramps are nought and unlabelled scans rest."""
        return self.adversarial_ramp > 0 or self.region_ramp > 0


def ramp(progress: float, start: float, length: float) -> float:
    """exp(-5 (1 - t)^2), t rising from 0 to 1 over `length` after `start`; 0 before.

    Source: Laine & Aila, ICLR 2017; start at a quarter after Hung et al., BMVC 2018.
    """
    if progress < start:
        return 0.0
    t = 1.0 if length == 0 else min(1.0, (progress - start) / length)
    return math.exp(-5.0 * (1.0 - t) ** 2)


def plan_round(
    protocol: StudyProtocol,
    number: int,
    *,
    attention_scale: float = 1.0,
    organ_box: tuple[float, float, float, float, float, float] | None = None,
) -> RoundPlan:
    """The plan of round `number` (from 1)."""
    training = protocol.training
    progress = (number - 1) / training.rounds
    decays = sum(progress >= point for point in training.lr_decay_at)
    ramps: RampConfig = training.ramp
    method = protocol.method
    return RoundPlan(
        round=number,
        lr_factor=training.lr_decay**decays,
        adversarial_ramp=ramp(progress, ramps.adversarial_start, ramps.length)
        if method.lambda_adversarial > 0
        else 0.0,
        region_ramp=ramp(progress, ramps.region_start, ramps.length)
        if method.lambda_region > 0
        else 0.0,
        attention_scale=attention_scale,
        organ_box=organ_box,
    )
