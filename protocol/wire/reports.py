"""A site's reports: counts of cases, training losses, scores as sums."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from asdnet_models.reliability import Reliability, TrustScore
from asdnet_models.sums import OrganSums, ScoreSum, SumCount
from protocol.config.rules import Rule

LOSSES = (
    "total",
    "dice",
    "adversarial",
    "region",
    "pseudo",
    "embedding",
    "teacher",
    "agreement",
    "drift",
    "confidence",
    "confidence_on_real",
    "confidence_on_fake",
    "confidence_on_right",
    "confidence_on_wrong",
)
# What cases are used for; a site declares how many it has of each.
CASE_PARTS = ("labelled", "unlabelled", "validation", "test")
EVALUATED_PARTS = ("validation", "test")
# Beside what DSC are expected: true ones, or none that anybody knows.
EXPECTED_PARTS = ("validation", "unlabelled")


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What a site declares before round 1: counts of cases, and the sum of its organ boxes.

    Attributes:
        labelled, unlabelled, validation, test: Cases that are used, by part.
        excluded: Cases that the site's file leaves out.
        refused: Cases that are not used, by the rule that they break.
        box: Sum and count of each edge, fractions of the scan.
        annotated: Labelled training cases in which each organ is drawn; {}: all organs in all.
    """

    labelled: int
    unlabelled: int
    validation: int
    test: int
    excluded: int = 0
    refused: Mapping[Rule, int] = field(default_factory=dict)
    box: tuple[SumCount, ...] = (SumCount(),) * 6
    annotated: Mapping[str, int] = field(default_factory=dict)

    @property
    def drawn(self) -> float:
        """What the labelled cases weigh: the mean over the organs of the cases that have each."""
        return fmean(self.annotated.values()) if self.annotated else float(self.labelled)


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What one site measured in one round of training.

    `twin` sums over validation cases the mean DSC of the update less that of the same round without
    unlabelled scans.
    """

    labelled: int
    unlabelled: int
    steps: int
    seconds: float
    losses: Mapping[str, SumCount] = field(default_factory=dict)
    attention: SumCount = field(default_factory=SumCount)
    trusted: Mapping[str, SumCount] = field(default_factory=dict)
    twin: SumCount = field(default_factory=SumCount)

    @property
    def trusted_fraction(self) -> float | None:
        """Trusted share of `trusted_organs`; None where Eq. 6 did not run, or S saw no organ."""
        return self.trusted_organs.mean

    @property
    def trusted_organs(self) -> SumCount:
        """Trusted among the unlabelled voxels that S took for an organ.

        Background, nearly all of a patch and nearly all right, would hide what happens.
        """
        organs = (total for name, total in self.trusted.items() if name != "background")
        return sum(organs, SumCount())


@dataclass(frozen=True, kw_only=True)
class ExpectedSums:
    """DSC of one organ as a map expects them, without a look at labels.

    Attributes:
        validation: Of the cases that are behind the organ's validation DSC, or of none.
        products: Sum over these of expected times true DSC.
        unlabelled: Of scans of a site that has no case to score.
    """

    validation: ScoreSum = field(default_factory=ScoreSum)
    products: float = 0.0
    unlabelled: ScoreSum = field(default_factory=ScoreSum)


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores of one site by part ("validation", "test") and organ.

    `reliability` is of the validation cases, by score ("confidence", "softmax"); `expected` by
    score and organ.
    """

    seconds: float
    cases: Mapping[str, int]
    scores: Mapping[str, Mapping[str, OrganSums]]
    reliability: Mapping[TrustScore, Reliability] = field(default_factory=dict)
    expected: Mapping[TrustScore, Mapping[str, ExpectedSums]] = field(default_factory=dict)
