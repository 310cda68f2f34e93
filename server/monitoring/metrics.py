"""Names and values of the metrics, parameters and tags that MLflow gets."""

from collections.abc import Mapping
from importlib.metadata import Distribution, version
from itertools import chain
from statistics import fmean
from typing import Any

from asdnet_models.reliability import SCORES, Reliability, TrustScore
from asdnet_models.sums import FAILURE_KINDS
from protocol.wire.metrics import HIGHEST
from protocol.wire.reports import CASE_PARTS, EvaluationReport, TrainReport
from server.monitoring.hints import hints_of
from server.monitoring.model_card import round_of, summary
from server.monitoring.provenance import own_version
from server.rounds.calibration import auroc, pooled
from server.rounds.estimates import estimates_of
from server.rounds.record import RoundRecord, StudyRecord, worst_site

_PACKAGES = ("flwr", "torch", "monai", "SimpleITK", "numpy", "mlflow", "surface-distance")
_LONGEST_TAG = 5000  # characters that MLflow takes
RUN_TAG = "asdnet.run"
SITE_TAG = "asdnet.site"
LEFT_OUT_TAG = "left_out.round_"
RESUMED_TAG = "resumed.after_round_"
# Of the study's run, for people and searches: at work, finished, stopped, ended by a person.
STATE_TAG, FINISHED = "state", "finished"
# Of the software, where it is a checkout; MLflow shows it under a name of its own.
COMMIT_TAG = "git_commit"
# SHA-256 of the signed study: what every site has approved.
STUDY_TAG = "study_digest"
BEST_TAG = "best_round"
# What MLflow shows as a run's description, Markdown.
DESCRIPTION_TAG = "mlflow.note.content"
# What is wrong with the best model's scores, a line each.
HINTS_TAG = "hints"
# Parameter of a site's run, with the organ's name behind.
ANNOTATED = "annotated/"
# Metric: cases behind a site's scores, with the part's name behind.
SCORED = "scored/"
# Metric of a site, with the network's name behind: what its update's change was multiplied by.
CLIPPED = "clipped/"
# Metrics of a site that cannot score itself, never beside measured ones: what is estimated, and
# what that is off by, with the organ's name behind.
ESTIMATED = "estimated/"
# Metric of a site: validation DSC of its update less that of the round without unlabelled scans.
TWIN = "twin/dsc"
# Metric of the study: the lowest of the sites' mean validation DSC; the name of none stands there.
WORST_SITE = "validation_dsc_worst_site"
# Metrics of the study at its end, with the score's name behind: means over sites.
TEST = "test/"
# MLflow's page shows runs and metrics first, and not traces of language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# In addition to the sites' names, of which none is empty.
STUDY = ""
# Written last of a round: where it is, the round is complete.
LAST_METRIC = "seconds"


def package_versions() -> dict[str, str]:
    """Versions of what the numbers depend on, of the packages that are here.

    The centre's environment has no MONAI, SimpleITK or surface-distance; a simulation's has all.
    """
    here = [name for name in _PACKAGES if any(Distribution.discover(name=name))]
    return {name: version(name) for name in here}


def site_params(record: StudyRecord, site: str) -> dict[str, str]:
    """What a site declared when it joined."""
    facts = record.facts.get(site)
    counts = CASE_PARTS if facts else ()
    drawn = facts.annotated if facts else {}
    return (
        {"site": site}
        | {name: str(getattr(facts, name)) for name in counts}
        | {f"{ANNOTATED}{organ}": str(count) for organ, count in drawn.items()}
    )


def study_identity(record: StudyRecord) -> dict[str, str]:
    """What a study's run and models are found by, beside what their maker adds."""
    return {
        "method": record.protocol.method.name,
        "network": record.protocol.network.architecture,
        "version": own_version(),
    }


def run_tags(identity: Mapping[str, str]) -> dict[str, str]:
    """A study's identity as tags of its run, the commit also where MLflow looks for it."""
    commit = identity.get(COMMIT_TAG, "")
    return {**identity, **({"mlflow.source.git.commit": commit} if commit else {})}


def state_of(record: StudyRecord) -> str:
    """How a study has ended, in words."""
    done, asked = len(record.rounds), record.protocol.training.rounds
    return FINISHED if done == asked else f"stopped after round {done} of {asked}"


def study_tags(record: StudyRecord) -> dict[str, str]:
    """What is known once the study has ended: nothing of one that no site scored."""
    if record.best_round is None:
        return {}
    hints = "\n".join(hints_of(record))
    tags = {BEST_TAG: str(record.best_round), HINTS_TAG: hints[:_LONGEST_TAG]}
    if round_of(record, "best") is not None:
        tags[DESCRIPTION_TAG] = summary(record, "best", {})[:_LONGEST_TAG]
    return tags


def mean_test_scores(record: StudyRecord) -> dict[str, float]:
    """Test scores of the best model as one number each: nothing where no site told any.

    `test/dsc` and the like are means over sites and organs of the sites' own means;
    `test/dsc/<organ>` over the sites alone.  A site or an organ without a score is in none.
    """
    values: dict[str, float] = {}
    for score in HIGHEST:
        by_organ: dict[str, list[float]] = {}
        for _, report in sorted(record.best_evaluation.items()):
            for organ, sums in report.scores["test"].items():
                if (mean := getattr(sums, score).mean) is not None:
                    by_organ.setdefault(organ, []).append(mean)
        if by_organ:
            values[f"{TEST}{score}"] = fmean(chain.from_iterable(by_organ.values()))
            values |= {f"{TEST}{score}/{organ}": fmean(m) for organ, m in by_organ.items()}
    return values


def study_metrics(finished: RoundRecord) -> dict[str, float]:
    """The numbers of a round over all sites."""
    plan = finished.plan
    values = {
        "sites": float(len(finished.reports)),
        "lr_factor": plan.lr_factor,
        "ramp/adversarial": plan.adversarial_ramp,
        "ramp/region": plan.region_ramp,
        "ramp/embedding": plan.embedding_ramp,
        "pseudo_labels": float(plan.pseudo_labels),
        "attention_scale": plan.attention_scale,
    }
    if plan.gamma is not None:
        values["gamma"] = plan.gamma
    if finished.validation_dsc is not None:
        values["validation_dsc"] = finished.validation_dsc
        if (worst := worst_site(finished.evaluation or {})) is not None:
            values[WORST_SITE] = worst[1]
        values |= _reliability_metrics(
            {score: pooled(finished.evaluation or {}, score) for score in SCORES}
        )
    return values | {LAST_METRIC: finished.seconds}


def site_metrics(finished: RoundRecord, site: str) -> dict[str, float]:
    """The numbers of one site in a round."""
    values: dict[str, float] = {}
    if site in finished.reports:
        values |= _training_metrics(finished, site, finished.reports[site])
    if finished.evaluation and site in finished.evaluation:
        values |= _score_metrics(finished.evaluation[site])
        for organ, estimate in estimates_of(finished.evaluation).get(site, {}).items():
            values |= {
                f"{ESTIMATED}dsc/{organ}": estimate.dsc,
                f"{ESTIMATED}error/{organ}": estimate.error,
                f"{ESTIMATED}scans/{organ}": float(estimate.scans),
            }
    return values


def _training_metrics(finished: RoundRecord, site: str, report: TrainReport) -> dict[str, float]:
    values = {
        f"loss/{name}": total.mean
        for name, total in report.losses.items()
        if total.mean is not None
    }
    if report.trusted_fraction is not None:
        values["trusted_fraction"] = report.trusted_fraction
    values |= {
        f"trusted_fraction/{name}": total.mean
        for name, total in report.trusted.items()
        if total.mean is not None
    }
    if report.twin.mean is not None:
        values[TWIN] = report.twin.mean
    values |= {f"norm/{name}": norm for name, norm in finished.norms.get(site, {}).items()}
    values |= {f"{CLIPPED}{name}": f for name, f in finished.clipped.get(site, {}).items()}
    return values | {
        "cases/labelled": float(report.labelled),
        "cases/unlabelled": float(report.unlabelled),
        "seconds": report.seconds,
        "bytes_up": float(finished.bytes_up[site]),
        "bytes_down": float(finished.bytes_down[site]),
    }


def _score_metrics(report: EvaluationReport) -> dict[str, float]:
    """`dsc/<organ>` are test cases, `validation/dsc/<organ>` what the model is chosen by.

    Of too few cases there is no score and no failure, and so not a zero either; `scored/<part>`
    says that the site was asked.
    """
    values = {f"{SCORED}{part}": float(count) for part, count in report.cases.items()}
    for part, prefix in (("test", ""), ("validation", "validation/")):
        for organ, sums in report.scores[part].items():
            for score in HIGHEST:
                if (mean := getattr(sums, score).mean) is not None:
                    values[f"{prefix}{score}/{organ}"] = mean
            if sums.failures.cases:
                values[f"{prefix}failures/{organ}"] = float(sums.failures.total)
                values |= {
                    f"{prefix}{kind}/{organ}": float(getattr(sums.failures, kind))
                    for kind in FAILURE_KINDS
                }
    return values | _reliability_metrics(report.reliability)


def _reliability_metrics(reliability: Mapping[TrustScore, Reliability]) -> dict[str, float]:
    """`auroc/confidence` and `auroc/softmax`: right against wrong organ voxels."""
    values = {f"auroc/{score}": auroc(counts) for score, counts in reliability.items()}
    return {name: value for name, value in values.items() if value is not None}


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested keys joined by dots, values as text."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
