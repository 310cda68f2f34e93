"""What a site says of its maps: right and wrong voxels, and the DSC that a map expects."""

from collections.abc import Mapping

from asdnet_models.reliability import BINS, SCORES, Reliability, TrustScore
from asdnet_models.sums import ScoreSum
from protocol.wire.metrics import bin_name, expected_name, read_score_sum
from protocol.wire.reports import EXPECTED_PARTS, ExpectedSums


def reliability_values(reliability: Mapping[TrustScore, Reliability]) -> dict[str, float]:
    """The counts by their names on the wire."""
    return {
        bin_name(score, kind, i): number
        for score, counts in reliability.items()
        for kind, numbers in (("right", counts.right), ("wrong", counts.wrong))
        for i, number in enumerate(numbers)
    }


def read_reliability(values: Mapping[str, float]) -> dict[TrustScore, Reliability]:
    """The counts back."""
    return {
        score: Reliability(
            right=tuple(int(values[bin_name(score, "right", i)]) for i in range(BINS)),
            wrong=tuple(int(values[bin_name(score, "wrong", i)]) for i in range(BINS)),
        )
        for score in SCORES
    }


def expected_values(expected: Mapping[TrustScore, Mapping[str, ExpectedSums]]) -> dict[str, float]:
    """The sums by their names on the wire."""
    values: dict[str, float] = {}
    for score, of_score in expected.items():
        for organ, sums in of_score.items():
            for part in EXPECTED_PARTS:
                total: ScoreSum = getattr(sums, part)
                values |= {
                    expected_name(score, part, organ, key): value
                    for key, value in vars(total).items()
                }
            values[expected_name(score, "validation", organ, "products")] = sums.products
    return values


def read_expected(
    values: Mapping[str, float], organs: tuple[str, ...]
) -> dict[TrustScore, dict[str, ExpectedSums]]:
    """The sums back."""

    return {
        score: {
            organ: ExpectedSums(
                **{
                    part: read_score_sum(values, f"expected/{score}/{part}/{organ}")
                    for part in EXPECTED_PARTS
                },
                products=values[expected_name(score, "validation", organ, "products")],
            )
            for organ in organs
        }
        for score in SCORES
    }
