"""result.json, the tables, and what is printed at the end of a simulation."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from asdnet_models.reliability import SCORES
from asdnet_models.sums import ScoreSum, SumCount
from protocol.wire.messages import EvaluationReport
from server.rounds.calibration import auroc, pooled
from server.rounds.record import RoundRecord, StudyRecord
from simulation.experiment.execution import round_rows
from simulation.experiment.store import RoundRow, write_rows

_LITTLE, _NEARLY_ALL = 0.02, 0.98
_KNOWS_NOTHING = 2 * math.log(2)

Scores = Mapping[str, Mapping[str, ScoreSum]]  # "dsc" and "asd_mm" by organ


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that a simulation found.

    Attributes:
        withheld: Scores of unlabelled training scans, by site.
        by_study: Scores of test cases against all organs, also those that their site has not
            drawn, and of sites that were left out; {} where all sites drew all and took part.
    """

    record: StudyRecord
    seed: int
    versions: Mapping[str, str]
    cohort: Mapping[str, Any]
    withheld: Mapping[str, Scores] = field(default_factory=dict)
    local_only: Mapping[str, EvaluationReport] = field(default_factory=dict)
    by_study: Mapping[str, Scores] = field(default_factory=dict)


def result_json(outcome: Outcome) -> dict[str, Any]:
    """The content of result.json; the same for the same seed, but for "seconds"."""
    record = outcome.record
    evaluation = record.best_evaluation
    tests = {site: _test_scores(report) for site, report in evaluation.items()}
    overall = _scores_json(_added(tests.values()))
    if outcome.withheld:
        overall["withheld"] = _scores_json(_added(outcome.withheld.values()))
    if outcome.local_only:
        alone = {s: _test_scores(r) for s, r in outcome.local_only.items()}
        overall["local_only"] = _scores_json(_added(alone.values()))
    if outcome.by_study:
        overall["by_study"] = _scores_json(_added(outcome.by_study.values()))
    return {
        "protocol": record.protocol.model_dump(mode="json"),
        "protocol_sha256": record.protocol.digest,
        "seed": outcome.seed,
        "versions": dict(outcome.versions),
        "cohort": dict(outcome.cohort),
        "best_round": record.best_round,
        "rounds": [_round_json(item) for item in record.rounds],
        "sites": {site: _site_json(outcome, site) for site in record.facts},
        "overall": overall,
        "by_study": {site: _scores_json(scores) for site, scores in outcome.by_study.items()},
    }


def _round_json(item: RoundRecord) -> dict[str, Any]:
    return {
        "round": item.plan.round,
        "seconds": round(item.seconds, 3),
        "bytes_up": sum(item.bytes_up.values()),
        "bytes_down": sum(item.bytes_down.values()),
        "validation_dsc": item.validation_dsc,
        "left_out": dict(item.left_out),
        "sites": {
            site: {
                "loss": {
                    name: total.mean
                    for name, total in report.losses.items()
                    if total.mean is not None
                },
                "trusted_fraction": report.trusted_fraction,
                "labelled": report.labelled,
                "unlabelled": report.unlabelled,
                "seconds": round(report.seconds, 3),
            }
            for site, report in item.reports.items()
        },
    }


def _site_json(outcome: Outcome, site: str) -> dict[str, Any]:
    facts = outcome.record.facts[site]
    evaluation = outcome.record.best_evaluation.get(site)
    content: dict[str, Any] = {
        "labelled": facts.labelled,
        "unlabelled": facts.unlabelled,
        "validation_cases": facts.validation,
        "test_cases": evaluation.cases["test"] if evaluation else 0,
        "annotated": dict(facts.annotated),
        **_scores_json(_test_scores(evaluation)),
    }
    if site in outcome.local_only:
        content["local_only"] = _scores_json(_test_scores(outcome.local_only[site]))
    if site in outcome.withheld:
        content["withheld"] = _scores_json(outcome.withheld[site])
    return content


def _test_scores(report: EvaluationReport | None) -> Scores:
    if report is None:
        return {"dsc": {}, "asd_mm": {}}
    return {"dsc": report.dsc["test"], "asd_mm": report.asd_mm["test"]}


def _added(tables: Any) -> Scores:
    total: dict[str, dict[str, ScoreSum]] = {"dsc": {}, "asd_mm": {}}
    for table in tables:
        for score, organs in table.items():
            for organ, value in organs.items():
                total[score][organ] = total[score].get(organ, ScoreSum()) + value
    return total


def _scores_json(scores: Scores) -> dict[str, Any]:
    """Means by organ; of an organ that was not scored there is nothing, not even a nought."""
    scored = [organ for organ, total in scores["dsc"].items() if total.count]
    dsc = {organ: scores["dsc"][organ] for organ in scored}
    asd = {organ: scores["asd_mm"][organ] for organ in scored}
    return {
        "dsc": {organ: {"mean": t.mean, "sd": t.sd, "n": t.count} for organ, t in dsc.items()},
        "asd_mm": {
            organ: {"mean": t.mean, "sd": t.sd, "n": t.count, "failures": t.failures}
            for organ, t in asd.items()
        },
    }


_HEADER = (
    "site",
    "cases",
    "model",
    "organ",
    "dsc_mean",
    "dsc_sd",
    "asd_mm_mean",
    "asd_mm_sd",
    "asd_n",
    "failures",
)


def score_rows(outcome: Outcome) -> list[tuple[Any, ...]]:
    """One row a site, model and organ: the content of tables/sites.csv.

    There is no row of an organ that the site has not drawn.
    """
    rows: list[tuple[Any, ...]] = []
    for site in sorted({*outcome.record.facts, *outcome.by_study}):
        models: list[tuple[str, Scores]] = []
        evaluation = outcome.record.best_evaluation.get(site)
        if evaluation and evaluation.cases["test"]:
            models.append(("federated", _test_scores(evaluation)))
        if site in outcome.local_only and outcome.local_only[site].cases["test"]:
            models.append(("local_only", _test_scores(outcome.local_only[site])))
        if site in outcome.withheld:
            models.append(("federated_on_withheld", outcome.withheld[site]))
        if site in outcome.by_study:
            models.append(("federated_by_study", outcome.by_study[site]))
        for model, scores in models:
            for organ in outcome.record.protocol.organ_names:
                dsc, asd = scores["dsc"][organ], scores["asd_mm"][organ]
                if not dsc.count:
                    continue
                rows.append(
                    (
                        site,
                        dsc.count,
                        model,
                        organ,
                        dsc.mean,
                        dsc.sd,
                        asd.mean,
                        asd.sd,
                        asd.count,
                        asd.failures,
                    )
                )
    return rows


def write_tables(outcome: Outcome, folder: Path) -> None:
    """tables/sites.csv and tables/rounds.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "sites.csv", _HEADER, score_rows(outcome))
    write_rows(folder / "rounds.csv", round_rows(outcome.record), RoundRow)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([["" if v is None else v for v in row] for row in rows])


def print_table(outcome: Outcome, console: Console) -> None:
    """DSC and ASD by site and organ, federated beside local-only, and who gained."""
    organs = outcome.record.protocol.organ_names
    table = Table(title="DSC (ASD in mm), mean over test cases", title_justify="left")
    for name in ("site", "cases", "model", *organs):
        table.add_column(name, justify="left" if name in ("site", "model") else "right")
    last = ""
    by_model: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {}
    for row in score_rows(outcome):
        by_model.setdefault((row[0], row[2]), {})[row[3]] = row
    for (site, model), cells in by_model.items():
        if last and site != last:
            table.add_section()
        count = str(max(cell[1] for cell in cells.values()))
        table.add_row(
            site if site != last else "",
            count,
            _MODEL_NAMES[model],
            *(_cell(cells[o]) if o in cells else "-" for o in organs),
        )
        last = site
    overall: list[tuple[str, Scores]] = [
        ("federated", _added(_test_scores(r) for r in outcome.record.best_evaluation.values())),
        ("local_only", _added(_test_scores(r) for r in outcome.local_only.values())),
        ("federated_on_withheld", _added(outcome.withheld.values())),
        ("federated_by_study", _added(outcome.by_study.values())),
    ]
    table.add_section()
    first = True
    for model, scores in overall:
        if scores["dsc"] and any(t.count for t in scores["dsc"].values()):
            count = str(max(t.count for t in scores["dsc"].values()))
            cells_text = [
                _text(scores["dsc"][o].mean, scores["asd_mm"][o].mean, scores["asd_mm"][o].failures)
                for o in organs
            ]
            table.add_row("all" if first else "", count, _MODEL_NAMES[model], *cells_text)
            first = False
    console.print(table)
    if outcome.withheld:
        console.print(
            "* withheld: unlabelled training scans, scored with labels known to the study alone",
            highlight=False,
        )
    if outcome.by_study:
        console.print(
            "** by study: every test case against all organs, with labels that no site was given",
            highlight=False,
        )
    for line in (*gain_lines(outcome), *health_lines(outcome)):
        console.print(line, highlight=False)


_MODEL_NAMES = {
    "federated": "federated",
    "local_only": "local only",
    "federated_on_withheld": "federated, withheld*",
    "federated_by_study": "federated, by study**",
}


def gain_lines(outcome: Outcome) -> list[str]:
    """Which sites the federation helped, by mean DSC over organs of their test cases."""
    gains: dict[str, float] = {}
    for site, alone in outcome.local_only.items():
        together = outcome.record.best_evaluation.get(site)
        a, b = _macro(_test_scores(alone)), _macro(_test_scores(together))
        if a is not None and b is not None:
            gains[site] = b - a
    if not gains:
        return []
    named = ", ".join(f"{site} {gain:+.3f}" for site, gain in sorted(gains.items()))
    gained = sum(gain > 0 for gain in gains.values())
    return [
        f"{gained} of {len(gains)} labelled sites gained from the federation "
        f"(mean DSC against local only: {named})"
    ]


def health_lines(outcome: Outcome) -> list[str]:
    """Whether semi-supervision did what it says, from the last round; said, never hidden."""
    if not outcome.record.rounds:
        return []
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
            f"the confidence network's loss is {loss:.3f}, 2 ln 2: it cannot tell predictions from "
            "labels, and its map says little about where to trust them"
        )
    return [*lines, *_map_lines(outcome)]


def _map_lines(outcome: Outcome) -> list[str]:
    """What the best round's confidence map knew, against what costs nothing to have."""
    evaluation = outcome.record.best_evaluation
    found = {score: auroc(pooled(evaluation, score)) for score in SCORES}
    confidence, softmax = found["confidence"], found["softmax"]
    if confidence is None or softmax is None:
        return []
    return [
        "right and wrong voxels of predicted organs, validation cases: AUROC "
        f"{confidence:.3f} by the confidence map, {softmax:.3f} by the largest softmax"
    ]


def _macro(scores: Scores) -> float | None:
    means = [t.mean for t in scores["dsc"].values() if t.mean is not None]
    return sum(means) / len(means) if means else None


def _cell(row: tuple[Any, ...]) -> str:
    return _text(row[4], row[6], row[9])


def _text(dsc: float | None, asd_mm: float | None, failures: int) -> str:
    if dsc is None:
        return "-"
    text = f"{dsc:.3f} ({'-' if asd_mm is None else f'{asd_mm:.2f}'})"
    return f"{text} {failures} failed" if failures else text
