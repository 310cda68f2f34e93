"""What the numbers of one reply must be to each other; the range of each is in `metrics.py`.

Both sides hold to it: a site's reply that breaks it does not leave, and the centre takes none.  A
number of a group that is too small to be told arrives as zero, with all of its kin.
"""

from asdnet_models.reliability import Reliability
from asdnet_models.sums import ScoreSum, SumCount
from protocol.config.study import StudyProtocol
from protocol.wire.metrics import BOX, HIGHEST, MAX_VOXELS, annotated_name, loss_range
from protocol.wire.reports import (
    EVALUATED_PARTS,
    EXPECTED_PARTS,
    EvaluationReport,
    ExpectedSums,
    SiteFacts,
    TrainReport,
)
from protocol.wire.weights import MessageError

# Sums of floats depend on their order.
_RELATIVE = 1e-6
# Of the scan: an organ has a voxel at least.  What is rounded later keeps the order of the edges.
_THINNEST = 1e-6


def consistent_facts(facts: SiteFacts) -> SiteFacts:
    """The declaration, whose counts and boxes fit each other.

    Raises:
        MessageError: If they do not.
    """
    for organ, count in facts.annotated.items():
        if count > facts.labelled:
            raise MessageError(
                f"facts reply: {annotated_name(organ)} is {count:g}, "
                f"of {facts.labelled:g} labelled cases"
            )
    if len({edge.count for edge in facts.box}) > 1 or facts.box[0].count > facts.labelled:
        raise MessageError(
            f"facts reply: the box's edges must have one count, of at most {facts.labelled:g} "
            "labelled cases"
        )
    for name, edge in zip(BOX, facts.box, strict=True):
        _check_mean(f"facts reply: box/{name}", edge, 0.0, 1.0)
    for axis in range(3):
        low, high = facts.box[axis], facts.box[axis + 3]
        if low.count and not low.sum + _THINNEST * low.count < high.sum:
            raise MessageError(f"facts reply: box/{BOX[axis]} must lie below box/{BOX[axis + 3]}")
    return facts


def consistent_training(report: TrainReport, protocol: StudyProtocol) -> TrainReport:
    """The report, whose losses, attention and trusted voxels fit each other.

    Raises:
        MessageError: If they do not.
    """
    for name, total in report.losses.items():
        _check_mean(f"train reply: loss/{name}", total, *loss_range(name))
    _check_mean("train reply: attention", report.attention, 0.0, 1.0)
    _check_mean("train reply: twin", report.twin, -1.0, 1.0)
    for name, total in report.trusted.items():
        _check_mean(f"train reply: trusted/{name}", total, 0.0, 1.0)
    if report.attention.count and not report.labelled:
        raise MessageError("train reply: attention has a count, and the site no labelled case")
    trusted = sum(report.trusted.values(), SumCount())
    if trusted.count and not report.unlabelled:
        raise MessageError("train reply: trusted has a count, and the site no unlabelled case")
    training, (x, y, z) = protocol.training, protocol.patch_voxels
    if trusted.count > training.local_steps * training.batch_size * x * y * z:
        raise MessageError("train reply: trusted counts more voxels than the round's patches have")
    return report


def consistent_evaluation(report: EvaluationReport) -> EvaluationReport:
    """The report, whose scores are of its cases, and whose sums can be sums of so many scores.

    An organ that a site has not drawn has a count of zero, and is in no mean.

    Raises:
        MessageError: If not.
    """
    for part in EVALUATED_PARTS:
        cases = report.cases[part]
        for organ, sums in report.scores[part].items():
            location = f"evaluate reply: {part}"
            failures, totals = sums.failures, {name: getattr(sums, name) for name in HIGHEST}
            # An organ that was missed has a DSC, zero, and no distance.
            scored = max(total.count for total in totals.values())
            if max(scored, failures.cases, sums.asd_mm.count + failures.one_empty) > cases:
                raise MessageError(
                    f"{location}, {organ}: more scores than the {cases} cases can have"
                )
            if failures.total > failures.cases:
                raise MessageError(
                    f"{location}, {organ}: {failures.total} of {failures.cases} cases failed"
                )
            for name, total in totals.items():
                _check_scores(f"{location}/{name}/{organ}", total, HIGHEST[name])
    for score, of_organ in report.expected.items():
        for organ, expected in of_organ.items():
            true = report.scores["validation"][organ].dsc
            _check_expected(f"evaluate reply: expected/{score}/{{}}/{organ}", expected, true)
    for score, counts in report.reliability.items():
        if _voxels(counts) > report.cases["validation"] * MAX_VOXELS:
            raise MessageError(
                f"evaluate reply: reliability/{score} counts more voxels than "
                f"{report.cases['validation']} validation cases can have"
            )
    return report


def _voxels(counts: Reliability) -> int:
    return sum(counts.right) + sum(counts.wrong)


def _check_mean(location: str, total: SumCount, low: float, high: float) -> None:
    """The sum is one of `count` values in [low, high]; of none it is zero.

    Exactly: the next plan, which every site checks, is made of such means.
    """
    if not low * total.count <= total.sum <= high * total.count:
        raise MessageError(
            f"{location}: {total.sum:g} is no sum of {total.count:g} values from {low:g} to "
            f"{high:g}"
        )


def _check_scores(location: str, total: ScoreSum, highest: float) -> None:
    """Sum and sum of squares are of `count` values in [0, highest]; of none they are zero.

    For x in [0, h]: sum x^2 <= h sum x, sum x^2 <= (sum x)^2, and (sum x)^2 <= n sum x^2
    (Cauchy-Schwarz).
    """
    count, of_values, of_squares = total.count, total.sum, total.sum_of_squares
    at_most = (
        (of_values, highest * count),
        (of_squares, highest * of_values),
        (of_squares, of_values * of_values),
        (of_values * of_values, count * of_squares),
    )
    if any(value > bound * (1 + _RELATIVE) + _RELATIVE * count for value, bound in at_most):
        raise MessageError(
            f"{location}: {of_values:g} and {of_squares:g} are no sum and sum of squares of "
            f"{count} values from 0 to {highest:g}"
        )


def _check_expected(location: str, expected: ExpectedSums, true: ScoreSum) -> None:
    """Sums of DSC, and of products that are at most either of them (e t <= min(e, t)).

    (sum e t)^2 <= sum e^2 sum t^2 (Cauchy-Schwarz).
    """
    for part in EXPECTED_PARTS:
        _check_scores(location.format(part), getattr(expected, part), 1.0)
    own, products = expected.validation, expected.products
    location = location.format("validation")
    if own.count not in (0, true.count):
        raise MessageError(f"{location}: is of {own.count} cases, the DSC of {true.count}")
    of_squares = own.sum_of_squares * true.sum_of_squares
    at_most = ((products, own.sum), (products, true.sum), (products * products, of_squares))
    if any(value > bound * (1 + _RELATIVE) + _RELATIVE * own.count for value, bound in at_most):
        raise MessageError(f"{location}: {products:g} is no sum of products of these and the DSC")
