"""Scores of sites that cannot measure themselves, estimated from what the maps expect.

Sites with labels send what a map expects of their validation cases beside the true DSC; their sums
give a line, and how far sites lie from it.  Nothing here is a measured score: no mean and no choice
of a model is made of it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from asdnet_models.reliability import SCORES, TrustScore
from asdnet_models.sums import ScoreSum
from protocol.wire.reports import EvaluationReport, ExpectedSums

# The slope is drawn to 1 as by five cases whose expected DSC lie .1 from their mean.
_RIDGE = 5 * 0.1**2
_FEWEST_CASES = 3
# With so many sites each is estimated from the others, as one without labels is.
_FEWEST_SITES = 3


@dataclass(frozen=True, kw_only=True)
class Line:
    """True DSC of one organ over the expected one, of sites with labels.

    Attributes:
        expected, true: The means that the line goes through.
        slope: Of true over expected DSC.
        error: What an estimate of a site's mean is off by: root mean square over sites of the error
            of each one's estimate from the others; of fewer than three, `scatter`.
        scatter: The residuals' standard deviation over cases.
    """

    score: TrustScore
    expected: float
    true: float
    slope: float
    error: float
    scatter: float
    cases: int
    sites: int

    def at(self, expected: float) -> float:
        """The true DSC at an expected one, in [0, 1]."""
        return min(1.0, max(0.0, self.true + self.slope * (expected - self.expected)))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean DSC of one organ at a site, estimated over so many unlabelled scans."""

    dsc: float
    scans: int
    line: Line

    @property
    def error(self) -> float:
        """Standard error: of the line from site to site, and of so few scans around it."""
        if self.line.sites < _FEWEST_SITES:
            return self.line.error
        return math.hypot(self.line.error, self.line.scatter / math.sqrt(self.scans))


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    expected: ScoreSum
    true: ScoreSum
    products: float


def estimates_of(evaluation: Mapping[str, EvaluationReport]) -> dict[str, dict[str, Estimate]]:
    """Estimated DSC by site and organ, of the sites that sent expected ones of unlabelled scans.

    An organ of which fewer than three cases were scored anywhere has none.
    """
    estimates: dict[str, dict[str, Estimate]] = {}
    asked = list(_asked(evaluation))
    lines = {organ: best_line(evaluation, organ) for organ in {organ for _, organ in asked}}
    for site, organ in asked:
        line = lines[organ]
        if line is None:
            continue
        sums = _sums(evaluation[site], line.score, organ).unlabelled
        if sums.mean is not None:
            estimate = Estimate(dsc=line.at(sums.mean), scans=sums.count, line=line)
            estimates.setdefault(site, {})[organ] = estimate
    return estimates


def mean_words(estimates: Mapping[str, Mapping[str, Estimate]]) -> str:
    """As "F 0.81 ± 0.04, G 0.78 ± 0.04": means over a site's organs; empty where none has any."""
    return ", ".join(
        f"{site} {fmean(e.dsc for e in of_organ.values()):.2f} ± "
        f"{fmean(e.error for e in of_organ.values()):.2f}"
        for site, of_organ in estimates.items()
    )


def _asked(evaluation: Mapping[str, EvaluationReport]) -> Iterator[tuple[str, str]]:
    for site, report in sorted(evaluation.items()):
        of_map = report.expected.get("softmax", {})
        yield from ((site, organ) for organ, sums in of_map.items() if sums.unlabelled.count)


def best_line(evaluation: Mapping[str, EvaluationReport], organ: str) -> Line | None:
    """The line of the map that errs least at sites with labels; M's where two are equal."""
    lines = [line for score in SCORES if (line := line_of(evaluation, organ, score)) is not None]
    return min(lines, key=lambda line: line.error, default=None)


def line_of(
    evaluation: Mapping[str, EvaluationReport], organ: str, score: TrustScore
) -> Line | None:
    """The line of one map; None of fewer than three cases."""
    pairs = []
    for report in evaluation.values():
        sums = _sums(report, score, organ)
        if sums.validation.count:
            true = report.scores["validation"][organ].dsc
            pairs.append(_Pairs(expected=sums.validation, true=true, products=sums.products))
    total = _added(pairs)
    if total.true.count < _FEWEST_CASES:
        return None
    line = replace(_line(total), score=score, scatter=_residual(total), sites=len(pairs))
    if len(pairs) < _FEWEST_SITES:
        return replace(line, error=line.scatter)
    errors = [_left_out(pairs, number) for number in range(len(pairs))]
    return replace(line, error=math.sqrt(fmean(e * e for e in errors)))


def _sums(report: EvaluationReport, score: TrustScore, organ: str) -> ExpectedSums:
    return report.expected.get(score, {}).get(organ, ExpectedSums())


def _added(pairs: Sequence[_Pairs]) -> _Pairs:
    return _Pairs(
        expected=sum((p.expected for p in pairs), ScoreSum()),
        true=sum((p.true for p in pairs), ScoreSum()),
        products=math.fsum(p.products for p in pairs),
    )


def _line(total: _Pairs) -> Line:
    """Least squares, the slope drawn to 1: b = (S_et + ridge) / (S_ee + ridge); no error yet."""
    count, (of_squares, of_products, _) = total.true.count, _moments(total)
    return Line(
        score="softmax",
        expected=total.expected.sum / count,
        true=total.true.sum / count,
        slope=(of_products + _RIDGE) / (of_squares + _RIDGE),
        error=0.0,
        scatter=0.0,
        cases=count,
        sites=0,
    )


def _moments(total: _Pairs) -> tuple[float, float, float]:
    """Sums of squares and products about the means: S_ee, S_et, S_tt."""
    count, e, t = total.true.count, total.expected, total.true
    return (
        max(0.0, e.sum_of_squares - e.sum**2 / count),
        total.products - e.sum * t.sum / count,
        max(0.0, t.sum_of_squares - t.sum**2 / count),
    )


def _residual(total: _Pairs) -> float:
    ee, et, tt = _moments(total)
    slope = _line(total).slope
    squares = tt - 2 * slope * et + slope**2 * ee
    return math.sqrt(max(0.0, squares) / (total.true.count - 1))


def _left_out(pairs: Sequence[_Pairs], number: int) -> float:
    """How far one site's mean lies from its estimate by the others."""
    own, others = pairs[number], _added([p for n, p in enumerate(pairs) if n != number])
    line = _line(others)
    count = own.true.count
    return own.true.sum / count - line.at(own.expected.sum / count)
