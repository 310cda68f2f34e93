"""AUROC and calibration of the confidence map from the sites' counts of right and wrong voxels."""

import math
from collections.abc import Mapping
from statistics import median

from asdnet_models.config import MethodConfig
from asdnet_models.reliability import BINS, LOWEST, STEP, Reliability, TrustScore
from protocol.wire.reports import EvaluationReport
from server.rounds.record import StudyRecord


def pooled(evaluation: Mapping[str, EvaluationReport], score: TrustScore) -> Reliability:
    """The sum over sites."""
    reports = (report.reliability.get(score, Reliability()) for report in evaluation.values())
    return sum(reports, Reliability())


def auroc(counts: Reliability) -> float | None:
    """Area under the ROC curve of "right" by the score's bin; None without both kinds of voxel.

    Scores within one bin count as equal.
    """
    if not sum(counts.right) or not sum(counts.wrong):
        return None
    from sklearn.metrics import roc_auc_score

    bins = list(range(BINS))
    return float(
        roc_auc_score(
            [1] * BINS + [0] * BINS, bins + bins, sample_weight=[*counts.right, *counts.wrong]
        )
    )


def calibrated_gamma(counts: Reliability, precision: float) -> float | None:
    """The smallest lower edge of a bin over which at least `precision` of the voxels are right.

    Returns:
        gamma in [0, 1); None where no voxel was counted or no threshold reaches the precision.
    """
    lowest = None
    right = wrong = 0
    for number in reversed(range(BINS)):
        right += counts.right[number]
        wrong += counts.wrong[number]
        if right and right / (right + wrong) >= precision:
            lowest = number
    if lowest is None:
        return None
    return 0.0 if lowest == 0 else 1 / (1 + math.exp(-(LOWEST + lowest * STEP)))


def evaluation_gamma(
    method: MethodConfig, evaluation: Mapping[str, EvaluationReport]
) -> float | None:
    """Eq. 6's threshold: the median of the sites' own, from their scores of one round.

    Each site is one voice: in a sum over sites the one that claims the most voxels would set the
    threshold of all.  Of two sites it is the mean, and one of them can move it half-way.

    Returns:
        In [0, 1); None unless the method asks for it and a voxel was counted.  A site in whose
        scores no threshold reaches the precision is for the highest edge: nearly nothing is
        trusted.
    """
    if method.gamma_rule != "calibrated":
        return None
    gammas: list[float] = []
    for report in evaluation.values():
        counts = report.reliability.get("confidence", Reliability())
        if any(counts.right) or any(counts.wrong):
            gamma = calibrated_gamma(counts, method.trusted_precision)
            gammas.append(_HIGHEST_EDGE if gamma is None else gamma)
    return median(gammas) if gammas else None


def round_gamma(record: StudyRecord) -> float | None:
    """`evaluation_gamma` of the newest scores that give one."""
    gammas = (
        evaluation_gamma(record.protocol.method, finished.evaluation or {})
        for finished in reversed(record.rounds)
    )
    return next((gamma for gamma in gammas if gamma is not None), None)


_HIGHEST_EDGE = 1 / (1 + math.exp(-(LOWEST + (BINS - 1) * STEP)))
