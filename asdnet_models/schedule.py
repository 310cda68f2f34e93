"""What a method's step reads of a round: how far each term of the loss has risen."""

import math

from pydantic import Field

from asdnet_models.fields import MAX_POINTS, Fraction, Frozen


def ramp(progress: float, start: float, length: float) -> float:
    """exp(-5 (1 - t)^2), t rising from 0 to 1 over `length` after `start`; 0 before.

    Source: Laine & Aila, ICLR 2017; start at a quarter after Hung et al., BMVC 2018.
    """
    if progress < start:
        return 0.0
    t = 1.0 if length == 0 else min(1.0, (progress - start) / length)
    return math.exp(-5.0 * (1.0 - t) ** 2)


class LossSchedule(Frozen):
    """How far each term of the loss has risen: what a method's step reads of a round."""

    adversarial_ramp: Fraction
    region_ramp: Fraction
    embedding_ramp: Fraction = 0.0
    attention_scale: float = Field(1.0, gt=0, le=1, description="running mean of Eq. 2's weight")
    gamma: float | None = Field(
        None, ge=0, lt=1, description="calibrated threshold of Eq. 6; null: the method's"
    )
    pseudo_labels: int = Field(
        0,
        ge=0,
        le=MAX_POINTS,
        description="how often unlabelled scans have been labelled anew; 0: not yet",
    )

    progress: Fraction = Field(0.0, description="share of the study's rounds that lie behind")
    label_free: bool = Field(
        True, description="whether unlabelled scans teach a site that has no others"
    )

    @property
    def uses_unlabelled(self) -> bool:
        """In warm-up every ramp is zero, no pseudo-label is there, and unlabelled scans rest."""
        helps = self.adversarial_ramp > 0 or self.embedding_ramp > 0
        return helps or self.learns_from_unlabelled

    @property
    def learns_from_unlabelled(self) -> bool:
        """Whether an unlabelled scan has a target of its own: Eq. 6's region, or others' labels.

        Only then does an unlabelled case weigh anything.
        """
        return self.region_ramp > 0 or self.pseudo_labels > 0

    @property
    def works_without_labels(self) -> bool:
        """Whether a site without labels trains in this round."""
        return self.label_free and self.learns_from_unlabelled
