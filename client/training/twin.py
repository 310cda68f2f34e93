"""Whether unlabelled scans harm: the same round once more without them, on a site's own cases."""

import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from asdnet_models.methods.common import NonFiniteLossError
from client.data.cache import CachedCase
from client.data.dataset import TWIN, SiteData
from client.training.evaluation import dsc_on_grid, load_segmenter, predict_on_grid
from client.training.round import RoundResult, train_round
from protocol.config.schedule import RoundPlan, evaluation_is_due
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.small_groups import difference_sums
from protocol.wire.weights import Weights

log = logging.getLogger(__name__)


def has_twin(config: SiteConfig, protocol: StudyProtocol, plan: RoundPlan, data: SiteData) -> bool:
    """Whether this round is trained twice here: the site wants it, and there is a difference."""
    return (
        config.twin
        and evaluation_is_due(protocol, plan.round)
        and plan.uses_unlabelled
        and all((data.labelled, data.unlabelled, data.validation))
    )


def with_twin(
    config: SiteConfig,
    protocol: StudyProtocol,
    plan: RoundPlan,
    data: SiteData,
    sent: Mapping[str, Weights],
    result: RoundResult,
    *,
    run: str,
) -> RoundResult:
    """The round's result, with how it compares with its supervised twin where there is one.

    The twin begins with the same global weights and optimiser moments, takes as many steps on the
    same labelled cases, and is thrown away.  It draws patches of its own: one comparison says
    little, and the centre looks at several.

    Args:
        config: The site, whose state is left as it is.
        protocol: The study.
        plan: Of the round.
        data: The site's cases.
        sent: The global weights, by network.
        result: Of the round.
        run: The run's name.
    """
    if not has_twin(config, protocol, plan, data):
        return result
    blocks = data.blocks(TWIN, data.validation)
    enough = [block for block in blocks if len(block) >= config.min_cases_reported]
    if not enough:
        log.warning("round %d: no twin, too few validation cases may be told of", plan.round)
        return result
    with tempfile.TemporaryDirectory(prefix="twin-") as folder:
        state = Path(folder)
        moments = config.state / "optimisers" / run
        if moments.exists():
            shutil.copytree(moments, state / "optimisers" / run)
        try:
            twin = train_round(
                config.model_copy(update={"state": state}),
                protocol,
                plan,
                replace(data, unlabelled=()),
                sent[SEGMENTER],
                sent.get(CONFIDENCE),
                run=run,
            )
        except NonFiniteLossError as error:
            log.warning("round %d: the twin broke down (%s), the round did not", plan.round, error)
            return result
    cases = [case for block in enough for case in block]
    with_, without = (_scores(config, protocol, r.segmenter, cases) for r in (result, twin))
    differences = [[with_[c.key] - without[c.key] for c in block] for block in enough]
    difference = difference_sums(differences, config.min_cases_reported)
    return replace(result, report=replace(result.report, twin=difference))


def _scores(
    config: SiteConfig, protocol: StudyProtocol, weights: Weights, cases: list[CachedCase]
) -> dict[str, float]:
    """Mean DSC over a case's organs on the study's grid, by cache key."""
    segmenter = load_segmenter(config, protocol, weights)
    return {
        case.key: dsc_on_grid(predict_on_grid(segmenter, protocol, case), protocol, case)
        for case in cases
    }
