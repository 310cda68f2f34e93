"""Estimated scores of sites without labels: the line by hand, its error, and what it is not in."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from made_scores import sums_of

from asdnet_models.reliability import TrustScore
from asdnet_models.sums import OrganSums, ScoreSum
from protocol.wire.reports import EvaluationReport, ExpectedSums
from server.rounds.estimates import estimates_of, line_of, mean_words
from server.rounds.record import macro_validation_dsc

Pairs = Sequence[tuple[float, float]]


def labelled(maps: Mapping[TrustScore, Pairs]) -> EvaluationReport:
    """A site whose validation cases have these expected and true DSC."""
    true = [t for _, t in next(iter(maps.values()))]
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": len(true), "test": 0},
        scores={"validation": {"ball": sums_of(*true)}, "test": {"ball": OrganSums()}},
        expected={
            score: {
                "ball": ExpectedSums(
                    validation=ScoreSum.of(e for e, _ in pairs),
                    products=math.fsum(e * t for e, t in pairs),
                )
            }
            for score, pairs in maps.items()
        },
    )


def label_free(**expected: Sequence[float]) -> EvaluationReport:
    nothing = {"ball": OrganSums()}
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": 0},
        scores={"validation": nothing, "test": nothing},
        expected={
            score: {"ball": ExpectedSums(unlabelled=ScoreSum.of(values))}  # type: ignore[misc]
            for score, values in expected.items()
        },
    )


def test_the_line_by_hand() -> None:
    pairs = [(0.7, 0.5), (0.8, 0.7), (0.9, 0.9)]
    line = line_of({"A": labelled({"softmax": pairs})}, "ball", "softmax")
    assert line is not None
    # S_ee = .02 and S_et = .04; the ridge is .05.
    assert line.slope == pytest.approx((0.04 + 0.05) / (0.02 + 0.05))
    assert (line.expected, line.true) == (pytest.approx(0.8), pytest.approx(0.7))
    assert line.at(0.9) == pytest.approx(0.7 + 0.1 * 9 / 7)
    assert (line.at(2.0), line.at(-2.0)) == (1.0, 0.0)
    residuals = [t - line.at(e) for e, t in pairs]
    assert line.error == pytest.approx(math.sqrt(sum(r * r for r in residuals) / 2))
    assert (line.cases, line.sites) == (3, 1)


def test_of_one_expected_value_the_line_is_a_shift() -> None:
    line = line_of({"A": labelled({"softmax": [(0.9, 0.6)] * 4})}, "ball", "softmax")
    assert line is not None
    assert (line.slope, line.at(0.8)) == (pytest.approx(1.0), pytest.approx(0.5))


def test_with_three_sites_each_is_estimated_from_the_others() -> None:
    sites = {
        name: labelled({"softmax": [(0.8, true)] * 3})
        for name, true in (("A", 0.6), ("B", 0.7), ("C", 0.8))
    }
    line = line_of(sites, "ball", "softmax")
    assert line is not None
    # Off by -.15, 0 and .15, each from the mean of the two others.
    assert line.error == pytest.approx(math.sqrt(2 * 0.15**2 / 3))
    assert (line.cases, line.sites) == (9, 3)
    # Over cases .1 three times, 0 and -.1 likewise: eight of nine are free.
    assert line.scatter == pytest.approx(math.sqrt(6 * 0.1**2 / 8))
    estimate = estimates_of(sites | {"F": label_free(softmax=[0.8] * 4)})["F"]["ball"]
    assert estimate.error == pytest.approx(math.hypot(line.error, line.scatter / 2))


def test_the_map_that_errs_less_is_taken() -> None:
    maps: dict[TrustScore, Pairs] = {
        "confidence": [(0.7, 0.6), (0.8, 0.7), (0.9, 0.8)],
        "softmax": [(0.9, 0.6), (0.8, 0.7), (0.7, 0.8)],
    }
    sites = {"A": labelled(maps), "F": label_free(confidence=[0.75, 0.85], softmax=[0.1, 0.1])}
    (estimate,) = (of_site["ball"] for of_site in estimates_of(sites).values())
    assert estimate.line.score == "confidence"
    assert (estimate.dsc, estimate.scans) == (pytest.approx(0.7), 2)
    assert mean_words(estimates_of(sites)) == "F 0.70 ± 0.00"
    # Where D's weights did not come, the softmax alone.
    only = {"A": labelled({"softmax": maps["softmax"]}), "F": label_free(softmax=[0.8])}
    assert estimates_of(only)["F"]["ball"].line.score == "softmax"


def test_without_a_site_to_hold_it_against_nothing_is_estimated() -> None:
    assert estimates_of({"F": label_free(softmax=[0.9, 0.9])}) == {}
    two = {"A": labelled({"softmax": [(0.9, 0.8)] * 2}), "F": label_free(softmax=[0.9])}
    assert estimates_of(two) == {}
    assert (estimates_of({}), mean_words({})) == ({}, "")


def test_an_estimate_is_in_no_mean() -> None:
    sites = {"A": labelled({"softmax": [(0.9, 0.8)] * 3}), "F": label_free(softmax=[0.1] * 3)}
    assert macro_validation_dsc(sites) == pytest.approx(0.8)
    assert set(estimates_of(sites)) == {"F"}


def test_a_shifted_site_is_found_within_the_error() -> None:
    """Sites expect about .1 too much; one that is worse than all of them is within two errors."""
    rng = np.random.default_rng(0)
    sites = {}
    for name in "ABCDE":
        true = rng.normal(0.75, 0.08) + rng.normal(0, 0.05, 6)
        expected = true + 0.1 + rng.normal(0, 0.02, 6)
        sites[name] = labelled({"softmax": list(zip(expected, true, strict=True))})
    scans = rng.normal(0.65, 0.05, 8)
    sites["F"] = label_free(softmax=list(scans + 0.1))
    estimate = estimates_of(sites)["F"]["ball"]
    assert abs(estimate.dsc - scans.mean()) < 2 * estimate.error < 0.1
