"""Training without a federation: a site's own model, or one model on all sites' cases."""

import time
from collections.abc import Collection, Mapping, Sequence

from asdnet_models.sums import SumCount
from client.data.dataset import (
    SiteData,
    prepare_site,
)
from client.training.evaluation import evaluate_site
from client.training.round import train_round
from protocol.config.schedule import RoundPlan, evaluation_is_due, plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from server.rounds.loop import new_record
from server.rounds.record import RoundRecord, StudyRecord, macro_validation_dsc
from server.rounds.schedule import add_round, follow_average, has_work, keep_if_best, next_plan
from simulation.experiment.store import RoundRow

# The one place of all sites' cases, as a site.
POOLED_SITE = "P"


def train_alone(config: SiteConfig, protocol: StudyProtocol) -> EvaluationReport:
    """The same rounds at one site, without a server; scores of its best model."""
    return train_in_place(config, protocol, "alone").best_evaluation[config.site]


def steps_of_all(protocol: StudyProtocol, sites: Collection[SiteFacts]) -> tuple[int, ...]:
    """Optimiser steps that these sites take together in a federation, by round.

    A site without labels takes none before its scans have a target.
    """
    training = protocol.training
    plans = [plan_round(protocol, number) for number in range(1, training.rounds + 1)]
    return tuple(training.local_steps * sum(has_work(s, plan) for s in sites) for plan in plans)


def train_pooled(
    everything: SiteConfig,
    sites: Mapping[str, SiteConfig],
    protocol: StudyProtocol,
    steps: Sequence[int],
) -> dict[str, EvaluationReport]:
    """One model on all cases; scores of its best round on each site's own, by site.

    Args:
        everything: A folder with the cases of all sites.
        sites: By name.
        protocol: The study.
        steps: Of each round.
    """
    best = train_in_place(everything, protocol, "pooled", steps)
    segmenter = best.best_segmenter or best.judged
    return {
        site: evaluate_site(config, protocol, prepare_site(config, protocol), segmenter)
        for site, config in sites.items()
    }


def train_in_place(
    config: SiteConfig, protocol: StudyProtocol, run: str, steps: Sequence[int] | None = None
) -> StudyRecord:
    """All rounds of the study in this process, without a server.

    The best model is chosen on these validation cases, as the federation chooses on
    all of its sites'; without any the last one is kept.

    Args:
        config: A site, or a folder with the cases of all (pooled).
        protocol: The study.
        run: Name that the optimiser states are kept by.
        steps: Of each round; None: the protocol's local steps.  Ramps and rates are by round.

    Returns:
        As of a federation of one site; its best model is what counts.

    Raises:
        NothingToTrainError: If there is no labelled case and unlabelled ones rest.
        NonFiniteLossError: If training breaks down.
    """
    data = prepare_site(config, protocol)
    record = new_record(protocol, run)
    record.facts = {config.site: data.declared(config, protocol.organ_names)}
    while len(record.rounds) < protocol.training.rounds:
        plan = next_plan(record)
        # Here it is the running mean that has a lower bound, not only what is made of it.
        record.attention = plan.attention_scale
        of_round = protocol.training.local_steps if steps is None else steps[plan.round - 1]
        add_round(record, _round(record, config, data, plan, of_round))
    return record


def _round(
    record: StudyRecord, config: SiteConfig, data: SiteData, plan: RoundPlan, steps: int
) -> RoundRecord:
    protocol, started = record.protocol, time.monotonic()
    training = protocol.training.model_copy(update={"local_steps": steps})
    longer = protocol.model_copy(update={"training": training})
    result = train_round(
        config, longer, plan, data, record.segmenter, record.confidence, run=record.run
    )
    record.segmenter = result.segmenter
    record.confidence = result.confidence or record.confidence
    follow_average(record, plan.round)
    evaluation = None
    last = plan.round == protocol.training.rounds
    # Without validation cases no round is better than the last one.
    if last or (data.validation and evaluation_is_due(protocol, plan.round)):
        report = evaluate_site(config, protocol, data, record.judged, record.confidence)
        evaluation = {config.site: report}
        keep_if_best(record, plan.round, evaluation)
    return RoundRecord(
        plan=plan,
        seconds=time.monotonic() - started,
        bytes_down={},
        bytes_up={},
        reports={config.site: result.report},
        left_out={},
        evaluation=evaluation,
        validation_dsc=macro_validation_dsc(evaluation or {}),
    )


def round_rows(record: StudyRecord) -> list[RoundRow]:
    """Steps, losses and trusted fraction by round and site."""
    return [
        _round_row(item.plan.round, site, report, item.validation_dsc)
        for item in record.rounds
        for site, report in item.reports.items()
    ]


def _round_row(
    number: int, site: str, report: TrainReport, validation_dsc: float | None
) -> RoundRow:
    losses: Mapping[str, SumCount] = report.losses

    def mean(name: str) -> float | None:
        return losses.get(name, SumCount()).mean

    return RoundRow(
        round=number,
        site=site,
        steps=report.steps,
        loss_total=mean("total"),
        loss_dice=mean("dice"),
        loss_adversarial=mean("adversarial"),
        loss_region=mean("region"),
        loss_confidence=mean("confidence"),
        trusted_fraction=report.trusted_fraction,
        validation_dsc=validation_dsc,
        agreement=mean("agreement"),
        drift=mean("drift"),
        twin_dsc=report.twin.mean,
    )
