"""The result of one simulated study: result.json and the tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from asdnet_models.reliability import TrustScore
from asdnet_models.sums import FAILURE_KINDS, OrganSums
from protocol.wire.metrics import HIGHEST
from protocol.wire.reports import EvaluationReport
from server.rounds.estimates import Estimate, estimates_of
from server.rounds.record import RoundRecord, StudyRecord
from simulation.experiment.scoring import Scores
from simulation.experiment.store import CaseRow, Record, RoundRow, write_rows
from simulation.experiment.training import round_rows

ModelName = Literal[
    "federated",
    "local_only",
    "pooled_equal_steps",
    "federated_on_withheld",
    "federated_by_study",
]
# Keys of result.json; the federated model's own scores stand there without a key.
_KEYS: Mapping[ModelName, str] = {
    "federated_on_withheld": "withheld",
    "local_only": "local_only",
    "pooled_equal_steps": "pooled_equal_steps",
    "federated_by_study": "by_study",
}


class SiteRow(Record):
    """One organ of one model at one site, over its cases: a line of tables/sites.csv."""

    site: str
    cases: int
    model: ModelName
    organ: str
    dsc_mean: float | None
    dsc_sd: float | None
    asd_mm_mean: float | None
    asd_mm_sd: float | None
    asd_n: int
    hd95_mm_mean: float | None
    hd95_mm_sd: float | None
    nsd_mean: float | None
    nsd_sd: float | None
    failures: int
    missed: int
    made_up: int
    far_off: int


class EstimateRow(Record):
    """One organ at a site that cannot score itself: a line of tables/estimates.csv.

    `true_dsc` is of all of the site's unlabelled scans whose labels the study knows.
    """

    site: str
    organ: str
    scans: int
    estimated_dsc: float
    error: float
    map: TrustScore
    cases: int
    sites: int
    true_dsc: float | None
    true_cases: int
    off_by: float | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The federation's record, and what was measured in addition.

    Attributes:
        withheld: Scores of unlabelled training scans, by site.
        local_only: Of each labelled site's own model, by site.
        pooled: Of one model on all sites' cases, trained for the steps of all, by site.
        by_study: Scores of test cases against all organs, also those that their site has not
            drawn, and of sites that were left out; {} where all sites drew all and took part.
        failed: Rows of the test cases that failed; they are the study's own, and named.
        hints: What is wrong, and what may help.
    """

    record: StudyRecord
    versions: Mapping[str, str]
    cohort: Mapping[str, Any]
    withheld: Mapping[str, Scores] = field(default_factory=dict)
    local_only: Mapping[str, EvaluationReport] = field(default_factory=dict)
    pooled: Mapping[str, EvaluationReport] = field(default_factory=dict)
    by_study: Mapping[str, Scores] = field(default_factory=dict)
    failed: Sequence[CaseRow] = ()
    hints: Sequence[str] = ()

    @property
    def scores(self) -> dict[ModelName, Mapping[str, Scores]]:
        """Scores of cases that no model was trained or chosen on, by model and site."""
        return {
            "federated": {s: _tested(r) for s, r in self.record.best_evaluation.items()},
            "local_only": {s: _tested(r) for s, r in self.local_only.items()},
            "pooled_equal_steps": {s: _tested(r) for s, r in self.pooled.items()},
            "federated_on_withheld": self.withheld,
            "federated_by_study": self.by_study,
        }


def _tested(report: EvaluationReport) -> Scores:
    """The sums over a report's test cases."""
    return report.scores["test"]


def result_json(outcome: Outcome) -> dict[str, Any]:
    """The content of result.json; the same for the same seed, but for "seconds"."""
    record, scores = outcome.record, outcome.scores
    overall = _scores_json(added(scores["federated"].values()))
    for model, key in _KEYS.items():
        if scores[model]:
            overall[key] = _scores_json(added(scores[model].values()))
    return {
        "protocol": record.protocol.model_dump(mode="json"),
        "protocol_sha256": record.protocol.digest,
        "seed": record.protocol.seed,
        "versions": dict(outcome.versions),
        "cohort": dict(outcome.cohort),
        "best_round": record.best_round,
        "rounds": [_round_json(item) for item in record.rounds],
        "sites": {site: _site_json(outcome, site) for site in record.facts},
        "overall": overall,
        "hints": list(outcome.hints),
        "failed": [row.model_dump() for row in outcome.failed],
        "by_study": {site: _scores_json(of_site) for site, of_site in outcome.by_study.items()},
    }


def _round_json(item: RoundRecord) -> dict[str, Any]:
    return {
        "round": item.plan.round,
        "seconds": round(item.seconds, 3),
        "steps": sum(report.steps for report in item.reports.values()),
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
                "trusted": {
                    name: total.mean
                    for name, total in report.trusted.items()
                    if total.mean is not None
                },
                "twin_dsc": report.twin.mean,
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
        **_scores_json(outcome.scores["federated"].get(site, {})),
    }
    if estimated := [row for row in estimate_rows(outcome) if row.site == site]:
        content["estimated"] = {
            row.organ: row.model_dump(exclude={"site", "organ"}) for row in estimated
        }
    for model, key in _KEYS.items():
        # Scores of the simulation's test cases, in addition to the sites' own.
        if site in outcome.scores[model] and model != "federated_by_study":
            content[key] = _scores_json(outcome.scores[model][site])
    return content


def added(tables: Iterable[Scores]) -> Scores:
    """The sums over sites."""
    total: dict[str, OrganSums] = {}
    for table in tables:
        for organ, sums in table.items():
            total[organ] = total.get(organ, OrganSums()) + sums
    return total


def _scores_json(scores: Scores) -> dict[str, Any]:
    """Means by score and organ; of an organ that was not scored there is nothing, not even a zero.

    Failures are by organ and kind.
    """
    scored = {organ: sums for organ, sums in scores.items() if sums.dsc.count}
    content: dict[str, Any] = {
        score: {
            organ: {"mean": total.mean, "sd": total.sd, "n": total.count}
            for organ, sums in scored.items()
            for total in (getattr(sums, score),)
        }
        for score in HIGHEST
    }
    return content | {"failures": {organ: vars(sums.failures) for organ, sums in scored.items()}}


def site_rows(outcome: Outcome) -> list[SiteRow]:
    """One row a site, model and organ; none of an organ that the site has not drawn."""
    organs, scores = outcome.record.protocol.organ_names, outcome.scores
    return [
        row
        for site in sorted({*outcome.record.facts, *outcome.by_study})
        for model in get_args(ModelName)
        if site in scores[model]
        for row in model_rows(site, model, scores[model][site], organs)
    ]


def model_rows(site: str, model: ModelName, scores: Scores, organs: Iterable[str]) -> list[SiteRow]:
    """The rows of one model at one site, in the order of the study's organs."""
    return [
        _site_row(site, model, organ, scores[organ])
        for organ in organs
        if organ in scores and scores[organ].dsc.count
    ]


def _site_row(site: str, model: ModelName, organ: str, sums: OrganSums) -> SiteRow:
    return SiteRow(
        site=site,
        cases=sums.dsc.count,
        model=model,
        organ=organ,
        **{f"{score}_mean": getattr(sums, score).mean for score in HIGHEST},
        **{f"{score}_sd": getattr(sums, score).sd for score in HIGHEST},
        asd_n=sums.asd_mm.count,
        failures=sums.failures.total,
        **{kind: getattr(sums.failures, kind) for kind in FAILURE_KINDS},
    )


def estimate_rows(outcome: Outcome) -> list[EstimateRow]:
    """What is estimated of sites that cannot score themselves, beside the truth where it is known.

    Never among the scores: it is measured nowhere.
    """
    return [
        _estimate_row(site, organ, estimate, outcome.withheld.get(site, {}).get(organ, OrganSums()))
        for site, of_organ in estimates_of(outcome.record.best_evaluation).items()
        for organ, estimate in of_organ.items()
    ]


def _estimate_row(site: str, organ: str, estimate: Estimate, true: OrganSums) -> EstimateRow:
    line, mean = estimate.line, true.dsc.mean
    return EstimateRow(
        site=site,
        organ=organ,
        scans=estimate.scans,
        estimated_dsc=estimate.dsc,
        error=estimate.error,
        map=line.score,
        cases=line.cases,
        sites=line.sites,
        true_dsc=mean,
        true_cases=true.dsc.count,
        off_by=None if mean is None else estimate.dsc - mean,
    )


def write_tables(outcome: Outcome, folder: Path) -> None:
    """tables/sites.csv, estimates.csv, rounds.csv, and failed.csv: the test cases that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "sites.csv", site_rows(outcome), SiteRow)
    if estimates := estimate_rows(outcome):
        write_rows(folder / "estimates.csv", estimates, EstimateRow)
    write_rows(folder / "rounds.csv", round_rows(outcome.record), RoundRow)
    write_rows(folder / "failed.csv", outcome.failed, CaseRow)
