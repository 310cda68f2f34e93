"""Scores of one round in which site F, without labels, is estimated from those of A."""

import math

from made_scores import sums_of

from asdnet_models.sums import OrganSums, ScoreSum
from protocol.wire.reports import EvaluationReport, ExpectedSums

_PAIRS = ((0.9, 0.7), (0.9, 0.8), (0.9, 0.9))


def estimated() -> dict[str, EvaluationReport]:
    """Sites expect .9 and reach .8, with a standard deviation of .1; F expects .8 of 4 scans."""
    beside = ExpectedSums(
        validation=ScoreSum.of(e for e, _ in _PAIRS), products=math.fsum(e * t for e, t in _PAIRS)
    )
    scans = ExpectedSums(unlabelled=ScoreSum.of([0.8] * 4))
    nothing = {"ball": OrganSums(), "rod": OrganSums()}
    return {
        "A": EvaluationReport(
            seconds=1.0,
            cases={"validation": 3, "test": 0},
            scores={
                "validation": nothing | {"ball": sums_of(*(t for _, t in _PAIRS))},
                "test": nothing,
            },
            expected={"softmax": {"ball": beside, "rod": ExpectedSums()}},
        ),
        "F": EvaluationReport(
            seconds=1.0,
            cases={"validation": 0, "test": 0},
            scores={"validation": nothing, "test": nothing},
            expected={"softmax": {"ball": scans, "rod": scans}},
        ),
    }
