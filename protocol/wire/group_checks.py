"""On the way out: what a report's numbers alone show of the groups that they are made of.

The approved code withholds what stands on too few cases (`small_groups.py`).  The executor, which
is never part of it, looks once more at what leaves; how many cases overlapped, the numbers do not
say.
"""

from dataclasses import replace

from asdnet_models.sums import FailureCount, OrganSums, ScoreSum, SumCount
from protocol.config.study import StudyProtocol
from protocol.planning.fingerprint import Fingerprint
from protocol.wire.reports import (
    EVALUATED_PARTS,
    EvaluationReport,
    ExpectedSums,
    SiteFacts,
    TrainReport,
)
from protocol.wire.small_groups import group_of, small, withhold_few
from protocol.wire.weights import MessageError

_ROUNDING = 1e-6


def refuse_small_groups(
    report: SiteFacts | Fingerprint | TrainReport | EvaluationReport,
    protocol: StudyProtocol,
    fewest: int,
) -> None:
    """What a report's numbers alone show of its groups.

    Raises:
        MessageError: One is too small, or its numbers do not fit each other.
    """
    if isinstance(report, SiteFacts):
        problems = _box_problems(report, fewest)
    elif isinstance(report, Fingerprint):
        problems = _part_problems(report, fewest)
    elif isinstance(report, TrainReport):
        problems = _training_problems(report, protocol, fewest)
    else:
        problems = _evaluation_problems(report, protocol, fewest)
    if problems:
        raise MessageError(
            f"reply: {problems[0]}; at least {fewest} cases must stand behind a number that leaves"
            " (min_cases_reported)"
        )


def _box_problems(facts: SiteFacts, fewest: int) -> list[str]:
    count = facts.box[0].count
    if any(edge.count != count or (edge.sum and not count) for edge in facts.box):
        return ["box: its edges are of different cases"]
    return [f"box: of {count:g} cases"] if small(count, fewest) or count > facts.labelled else []


def _part_problems(found: Fingerprint, fewest: int) -> list[str]:
    parts = [
        f"{name}: means of {spread.smallest_part} cases"
        for name, spread, _ in found.spreads()
        if spread.means and spread.smallest_part < fewest
    ]
    return parts + [
        f"{name}: holds in {share.holding} of {share.cases} cases"
        for name, share in found.shares()
        if any(small(n, fewest) for n in (share.holding, share.cases - share.holding, share.cases))
    ]


def _training_problems(report: TrainReport, protocol: StudyProtocol, fewest: int) -> list[str]:
    patches = report.steps * protocol.training.batch_size
    drawn = {
        "labelled": min(report.labelled, patches),
        "unlabelled": min(report.unlabelled, patches),
    }
    kept = withhold_few(report, drawn["labelled"], drawn["unlabelled"], fewest)
    if drawn["labelled"] and not small(drawn["labelled"], fewest):
        # Whether unlabelled patches were drawn at all in this round, its numbers do not say.
        both = {name for name in report.losses if group_of("train", f"loss/{name}") == "both"}
        kept = replace(kept, losses=dict(kept.losses) | {n: report.losses[n] for n in both})
    if small(report.twin.count, fewest) or (report.twin.sum and not report.twin.count):
        return [f"twin: of {report.twin.count:g} validation cases"]
    groups = ", ".join(f"{count} {name}" for name, count in drawn.items())
    measured = {f"loss/{name}": (total, kept.losses[name]) for name, total in report.losses.items()}
    measured["attention"] = report.attention, kept.attention
    measured |= {
        f"trusted/{name}": (total, kept.trusted.get(name, SumCount()))
        for name, total in report.trusted.items()
    }
    return [
        f"{name}: measured on patches of at most {groups} cases"
        for name, (total, allowed) in measured.items()
        if total != allowed or (total.sum and not total.count)
    ]


def _evaluation_problems(
    report: EvaluationReport, protocol: StudyProtocol, fewest: int
) -> list[str]:
    problems = []
    for part in EVALUATED_PARTS:
        if small(report.cases[part], fewest):
            problems.append(f"cases/{part}: {report.cases[part]}")
        for organ in protocol.organ_names:
            if not _scores_fit(report.scores[part][organ], fewest):
                problems.append(f"{part}/{organ}: scores of a small group, or of none")
    for score, of_organ in report.expected.items():
        for organ, expected in of_organ.items():
            if not _expected_fits(expected, report.scores["validation"][organ].dsc, fewest):
                problems.append(f"expected/{score}/{organ}: of a small group, or of none")
    counts = [n for kept in report.reliability.values() for n in (*kept.right, *kept.wrong)]
    if any(small(count, fewest) for count in counts):
        problems.append("reliability: a bin with fewer voxels than cases")
    if any(counts) and not report.cases["validation"]:
        problems.append("reliability: voxels of no validation case")
    return problems


def _scores_fit(sums: OrganSums, fewest: int) -> bool:
    cases = sums.dsc.count
    if not cases:
        return sums == OrganSums()
    groups = [cases, *_distance_groups(sums), *_failure_groups(sums)]
    return (
        # Each is of the cases that it must be of, or withheld.
        sums.nsd.count in (0, cases)
        and sums.hd95_mm.count in (0, sums.asd_mm.count)
        and sums.failures.cases in (0, cases)
        and (sums.failures.cases > 0 or sums.failures == FailureCount())
        and min(groups) >= 0
        and not any(small(count, fewest) for count in groups)
        and all(map(_spread_fits, (sums.dsc, sums.asd_mm, sums.hd95_mm, sums.nsd)))
    )


def _expected_fits(expected: ExpectedSums, true: ScoreSum, fewest: int) -> bool:
    own, scans = expected.validation, expected.unlabelled
    return (
        own.count in (0, true.count)
        and not small(own.count, fewest)
        and not small(scans.count, fewest)
        and (own.count > 0 or expected.products == 0)
        and all(map(_spread_fits, (own, scans)))
    )


def _distance_groups(sums: OrganSums) -> tuple[int, ...]:
    """Cases with both masks, and those without."""
    return sums.asd_mm.count, sums.dsc.count - sums.asd_mm.count


def _failure_groups(sums: OrganSums) -> tuple[int, ...]:
    """Of each kind, those with one mask, and with neither; those that are far off or not."""
    told, cases, both = sums.failures, sums.dsc.count, sums.asd_mm.count
    if told == FailureCount():
        return ()
    groups = (told.missed, told.made_up, told.far_off, told.one_empty, cases - told.one_empty)
    if not both:  # withheld, or there are none
        return (*groups, cases - told.total)
    return (*groups, both - told.far_off, cases - both - told.one_empty)


def _spread_fits(total: ScoreSum) -> bool:
    """n values have at most n times their sum of squares as the square of their sum."""
    if not total.count:
        return total == ScoreSum()
    return total.sum**2 <= total.count * total.sum_of_squares * (1 + _ROUNDING) + _ROUNDING
