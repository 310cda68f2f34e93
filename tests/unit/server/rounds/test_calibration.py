"""What counts of right and wrong voxels say: worked out by hand on a few bins."""

import math

import pytest

from asdnet_models.reliability import BINS, LOWEST, STEP, Reliability
from protocol.wire.reports import EvaluationReport
from server.rounds.calibration import auroc, calibrated_gamma, pooled


def counts(right: dict[int, int], wrong: dict[int, int]) -> Reliability:
    return Reliability(
        right=tuple(right.get(i, 0) for i in range(BINS)),
        wrong=tuple(wrong.get(i, 0) for i in range(BINS)),
    )


def edge(number: int) -> float:
    return 1 / (1 + math.exp(-(LOWEST + number * STEP)))


def test_auroc_by_hand() -> None:
    # Pairs: right 20 over wrong 10 (3 x 2 of 4 x 2 pairs), right 10 ties with wrong 10.
    found = auroc(counts({20: 3, 10: 1}, {10: 2}))
    assert found == pytest.approx((3 * 2 + 0.5 * 1 * 2) / (4 * 2))


def test_auroc_needs_both_kinds() -> None:
    assert auroc(counts({3: 5}, {})) is None
    assert auroc(counts({}, {3: 5})) is None


def test_gamma_is_the_smallest_edge_that_keeps_the_precision() -> None:
    # From above: 90/90, then 180/190 = .947, then 200/290.
    found = counts({30: 90, 20: 90, 5: 20}, {20: 10, 5: 90})
    assert calibrated_gamma(found, 0.94) == pytest.approx(edge(6))
    assert calibrated_gamma(found, 0.95) == pytest.approx(edge(21))
    assert calibrated_gamma(found, 0.5) == 0.0


def test_no_threshold_reaches_the_precision() -> None:
    assert calibrated_gamma(counts({31: 1}, {31: 9}), 0.5) is None
    assert calibrated_gamma(Reliability(), 0.5) is None


def test_sites_are_added() -> None:
    def report(number: int) -> EvaluationReport:
        return EvaluationReport(
            seconds=0.0,
            cases={},
            scores={},
            reliability={"confidence": counts({number: 2}, {0: 1})},
        )

    found = pooled({"A": report(4), "B": report(5)}, "confidence")
    assert (found.right[4], found.right[5], found.wrong[0]) == (2, 2, 2)
    assert pooled({"A": report(4)}, "softmax") == Reliability()
