"""The summary printed at the end of one simulated study: scores by site and organ."""

import math
from itertools import groupby
from statistics import fmean

from rich.console import Console
from rich.table import Table
from scipy import stats

from asdnet_models.reliability import SCORES
from asdnet_models.sums import FailureCount, SumCount, failure_words
from protocol.escaping import printable
from protocol.wording import counted
from server.monitoring.hints import has_learnt
from server.rounds import calibration
from simulation.experiment.report.formatting import signed
from simulation.experiment.report.statistics import CONFIDENCE
from simulation.experiment.scoring import Scores
from simulation.experiment.single_result import (
    EstimateRow,
    ModelName,
    Outcome,
    SiteRow,
    added,
    estimate_rows,
    model_rows,
    site_rows,
)
from simulation.experiment.store import CaseRow

_MOST_NAMED = 8
# Trainings that differ by the seed alone differed by up to .015 in the mean DSC of five cases
# (docs/method.md, U-Net on the phantom); less than this is not a gain.
_SEEDS_DIFFER, _CASES = 0.02, 5
_SITES_OF_INTERVAL = 3
_LITTLE, _NEARLY_ALL = 0.02, 0.98
_KNOWS_NOTHING = 2 * math.log(2)
_MODEL_NAMES: dict[ModelName, str] = {
    "federated": "federated",
    "local_only": "local only",
    "pooled_equal_steps": "pooled, equal steps",
    "federated_on_withheld": "federated, withheld*",
    "federated_by_study": "federated, by study**",
}


def print_summary(outcome: Outcome, console: Console) -> None:
    """DSC and ASD by site and organ, by model, and who gained."""
    organs = outcome.record.protocol.organ_names
    table = Table(title="DSC (ASD in mm), mean over test cases", title_justify="left")
    for name in ("site", "cases", "model", *organs):
        table.add_column(name, justify="left" if name in ("site", "model") else "right")
    rows = site_rows(outcome)
    for model, by_site in outcome.scores.items():
        rows += model_rows("all", model, added(by_site.values()), organs)
    for site, of_site in groupby(rows, key=lambda row: row.site):
        table.add_section()
        shown = site
        for model, of_model in groupby(of_site, key=lambda row: row.model):
            by_organ = {row.organ: row for row in of_model}
            count = max(row.cases for row in by_organ.values())
            cells = (_cell(by_organ.get(organ)) for organ in organs)
            table.add_row(shown, str(count), _MODEL_NAMES[model], *cells)
            shown = ""
    console.print(table)
    console.print(organ_table(outcome))
    lines = [*gain_lines(outcome), *pooled_lines(outcome), *health_lines(outcome)]
    lines += estimate_lines(outcome)
    if outcome.by_study:
        lines.insert(
            0, "** by study: every test case against all organs, with labels that no site was given"
        )
    if outcome.withheld:
        lines.insert(
            0, "* withheld: unlabelled training scans, scored with labels known to the study alone"
        )
    lines += [*(f"look at: {hint}" for hint in outcome.hints), *failed_lines(outcome)]
    for line in lines:
        # A case's name may have brackets; a line is one line, so that a search finds it whole.
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def failed_lines(outcome: Outcome) -> list[str]:
    """The cases that failed, by name, an organ a line."""
    lines = []
    for organ in outcome.record.protocol.organ_names:
        named = [
            f"{row.site} {printable(row.case)} ({_how(row)})"
            for row in outcome.failed
            if row.organ == organ
        ]
        more = f" and {len(named) - _MOST_NAMED} more: tables/failed.csv"
        shown = ", ".join(named[:_MOST_NAMED]) + (more if len(named) > _MOST_NAMED else "")
        lines += [f"failed, {organ}: {shown}"] if named else []
    return lines


def _how(row: CaseRow) -> str:
    distance = "" if row.asd_mm is None else f", ASD {row.asd_mm:.0f} mm"
    return f"{failure_words(str(row.failure), row.dsc)}{distance}"


def organ_table(outcome: Outcome) -> Table:
    """Every score of the federated model by organ, over the test cases of all sites."""
    tolerance_mm = outcome.record.protocol.evaluation.nsd_tolerance_mm
    table = Table(title="Federated, all sites", title_justify="left")
    table.add_column("organ")
    for name in ("cases", "DSC", "ASD, mm", "HD95, mm", f"NSD at {tolerance_mm:g} mm", "failures"):
        table.add_column(name, justify="right")
    scores = added((outcome.by_study or outcome.scores["federated"]).values())
    for organ in outcome.record.protocol.organ_names:
        if (sums := scores.get(organ)) and sums.dsc.count:
            means = ((sums.dsc, 3), (sums.asd_mm, 2), (sums.hd95_mm, 2), (sums.nsd, 3))
            table.add_row(
                organ,
                str(sums.dsc.count),
                *("-" if t.mean is None else f"{t.mean:.{decimals}f}" for t, decimals in means),
                str(sums.failures) or "none",
            )
    return table


def gain_lines(outcome: Outcome) -> list[str]:
    """Which sites the federation helped, by mean DSC over organs of their test cases."""
    scores = outcome.scores
    gains: dict[str, tuple[float, int]] = {}  # and of how many cases
    for site, alone in scores["local_only"].items():
        a, b = _macro(alone), _macro(scores["federated"].get(site, {}))
        if a is not None and b is not None:
            gains[site] = b - a, max(sums.dsc.count for sums in alone.values())
    if not gains:
        return []
    named = ", ".join(
        f"{site} {signed(gain)} in {counted(cases, 'case')}"
        for site, (gain, cases) in sorted(gains.items())
    )
    gained = sum(gain > seeds_differ(cases) for gain, cases in gains.values())
    lost = sum(-gain > seeds_differ(cases) for gain, cases in gains.values())
    return [
        f"{gained} of {counted(len(gains), 'labelled site')} gained from the federation and {lost} "
        f"lost more than another seed may change, {seeds_differ(_CASES):g} in {_CASES} cases, "
        f"{seeds_differ(1):.3f} in one (mean DSC against local only: "
        f"{named}{_over_sites([gain for gain, _ in gains.values()])})"
    ]


def seeds_differ(cases: int) -> float:
    """What the mean DSC of so many cases may differ by between trainings of other seeds."""
    return _SEEDS_DIFFER * math.sqrt(_CASES / min(cases, _CASES))


def _over_sites(gains: list[float]) -> str:
    """Their mean with its interval by Student's t: sites are few, and each has few cases.

    Of two sites it would be wider than a DSC can change.
    """
    if len(gains) < 2:
        return ""
    ends = ""
    if len(gains) >= _SITES_OF_INTERVAL and len(set(gains)) > 1:
        interval = stats.ttest_1samp(gains, 0.0).confidence_interval(CONFIDENCE)
        ends = f", 95% interval {signed(interval.low)} to {signed(interval.high)}"
    return f"; over sites {signed(fmean(gains))}{ends}"


def pooled_lines(outcome: Outcome) -> list[str]:
    """What the federation reaches of the model that was trained on all sites' cases."""
    scores = outcome.scores
    federated, pooled = (
        _macro(added(scores[model].values())) for model in ("federated", "pooled_equal_steps")
    )
    if federated is None or not pooled:
        return []
    steps = sum(r.steps for item in outcome.record.rounds for r in item.reports.values())
    return [
        f"federated reaches {federated / pooled:.1%} of the mean DSC of pooled training "
        f"({federated:.3f} against {pooled:.3f}), {steps} optimiser steps each"
    ]


def health_lines(outcome: Outcome) -> list[str]:
    """Whether semi-supervision worked, from the last round; not of a model that learnt nothing."""
    if not outcome.record.rounds:
        return []
    if not has_learnt(outcome.record):
        return _map_lines(outcome)
    reports = outcome.record.rounds[-1].reports.values()
    lines = []
    shares = [r.trusted_fraction for r in reports if r.trusted_fraction is not None]
    if shares and not any(_LITTLE < share < _NEARLY_ALL for share in shares):
        lines.append(
            f"region attention trusted {min(shares):.0%} to {max(shares):.0%} of what is predicted "
            "as an organ in unlabelled scans: the confidence map did not choose; change gamma"
        )
    loss = sum((r.losses.get("confidence", SumCount()) for r in reports), SumCount()).mean
    if loss is not None and abs(loss - _KNOWS_NOTHING) < 0.02:
        lines.append(
            f"the confidence network's loss is {loss:.3f}, 2 ln 2: it does not separate "
            "predictions from labels, and its map shows little about where to trust them"
        )
    return [*lines, *_map_lines(outcome)]


def _map_lines(outcome: Outcome) -> list[str]:
    """AUROC of the best round's confidence map, against that of the maximum softmax."""
    evaluation = outcome.record.best_evaluation
    by_score = {score: calibration.auroc(calibration.pooled(evaluation, score)) for score in SCORES}
    confidence, softmax = by_score["confidence"], by_score["softmax"]
    if confidence is None or softmax is None:
        return []
    return [
        "right and wrong voxels of predicted organs, validation cases: AUROC "
        f"{confidence:.3f} by the confidence map, {softmax:.3f} by the largest softmax"
    ]


def estimate_lines(outcome: Outcome) -> list[str]:
    """Estimated DSC of sites that cannot score themselves, a line each."""
    lines = []
    for site, of_site in groupby(estimate_rows(outcome), key=lambda row: row.site):
        rows = list(of_site)
        named = ", ".join(
            f"{r.organ} {r.estimated_dsc:.2f} ± {r.error:.2f}{_true(r)}" for r in rows
        )
        scans = counted(max(row.scans for row in rows), "unlabelled scan")
        lines.append(f"estimated from {scans}, not measured: {site} DSC {named}")
    return lines


def _true(row: EstimateRow) -> str:
    return "" if row.true_dsc is None else f" (true {row.true_dsc:.2f})"


def _macro(scores: Scores) -> float | None:
    means = [sums.dsc.mean for sums in scores.values() if sums.dsc.mean is not None]
    return sum(means) / len(means) if means else None


def _cell(row: SiteRow | None) -> str:
    if row is None or row.dsc_mean is None:
        return "-"
    asd_mm = "-" if row.asd_mm_mean is None else f"{row.asd_mm_mean:.2f}"
    failed = FailureCount(
        cases=row.cases, missed=row.missed, made_up=row.made_up, far_off=row.far_off
    )
    return f"{row.dsc_mean:.3f} ({asd_mm})\n{failed}".rstrip()
