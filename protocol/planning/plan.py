"""Plans a study from its sites' fingerprints and a budget, with a reason for every value.

After nnU-Net (Isensee et al., Nature Methods 2021): spacing, patch, strides and kernels follow from
the data by rules.  Ours differ where sites are hospitals: memory is the weakest site's, and time,
which nnU-Net takes as given, is the slowest site's, so that a slow site makes a smaller network on
a coarser grid and never a study of a few steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from protocol.config.study import StudyProtocol, merged, merged_content
from protocol.config.training import TrainingConfig, is_flat
from protocol.planning.budget import Budget, Machines, machines_of
from protocol.planning.candidate import Candidate
from protocol.planning.fingerprint import Fingerprint, Share
from protocol.planning.grid import geometry_of
from protocol.planning.grid_reasons import grid_reasons
from protocol.planning.reasons import (
    PATIENCE,
    evaluation_reasons,
    summary,
    supervised_reasons,
    training_reasons,
    turn_reasons,
    waiting_reasons,
)
from protocol.planning.rules import (
    EVALUATIONS,
    FLAT_TURN_DEG,
    LONG_OVERLAP,
    LONG_PREDICTION_S,
    ONE_PIECE,
    SHORT_OVERLAP,
    WIDER,
)
from protocol.planning.search import Search, changes_of

# Terms of the loss that read the confidence network.
_OF_UNLABELLED = ("lambda_adversarial", "lambda_region")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study, and why.

    Attributes:
        protocol: The study.
        reasons: By field ("training.local_steps"), for every value that was planned.
        summary: What it rests on and takes, a line each.
    """

    protocol: StudyProtocol
    reasons: Mapping[str, str]
    summary: tuple[str, ...]


def plan_study(
    fingerprints: Mapping[str, Fingerprint],
    budget: Budget,
    base: StudyProtocol,
    *,
    steps: int | None = None,
) -> Plan:
    """The study that these sites can train within this budget.

    Args:
        fingerprints: By site.
        budget: Memory of the weakest site, minutes of the slowest.
        base: Recipe, organs, and all that is not planned.
        steps: Local steps, instead of those that there is time for.

    Raises:
        PlanError: Nothing fits, or the fingerprints say too little.
    """
    geometry = geometry_of(fingerprints)
    machines = machines_of(fingerprints, budget)
    supervised = {} if machines.unlabelled else {"method": dict.fromkeys(_OF_UNLABELLED, 0.0)}
    base = merged(base, supervised)
    search = Search(base, geometry, machines, budget)
    found = search.best()
    scans = sum(f.labelled + f.unlabelled for f in fingerprints.values())
    batched = search.with_batch(found.chosen, math.prod(found.chosen.whole) * scans)
    found = replace(found, chosen=batched)
    long_s = _prediction_s(batched, machines, LONG_OVERLAP)
    wider, pieces = _shares(fingerprints)
    turns = _turns(base, batched)
    local_steps = batched.local_steps if steps is None else steps
    minutes = max(budget.minutes_a_round, batched.minutes_of(local_steps))
    protocol = merged(
        base,
        merged_content(
            changes_of(batched),
            {
                **supervised,
                "training": {
                    "rounds": budget.rounds,
                    "local_steps": local_steps,
                    **turns,
                },
                "aggregation": _waiting(base, len(fingerprints), minutes),
                "evaluation": _evaluation(len(base.organs), wider, pieces, long_s, budget),
            },
        ),
    )
    reasons = {
        **grid_reasons(geometry, budget, machines, found),
        **supervised_reasons(supervised.get("method", {})),
        **training_reasons(budget, machines, batched, steps),
        **turn_reasons(turns),
        **waiting_reasons(base, len(fingerprints), minutes),
        **evaluation_reasons(protocol, wider, pieces, long_s, machines),
    }
    lines = summary(fingerprints, budget, machines, found, local_steps)
    return Plan(protocol=protocol, reasons=reasons, summary=lines)


def _turns(base: StudyProtocol, chosen: Candidate) -> dict[str, float]:
    """How far strong views of a flat patch are turned, where the recipe says nothing of its own."""
    training = base.training
    usual = training.turn_deg == TrainingConfig().turn_deg
    turned = usual and training.views == "strong" and is_flat(chosen.patch)
    return {"turn_deg": FLAT_TURN_DEG} if turned else {}


def _waiting(base: StudyProtocol, sites: int, minutes: float) -> dict[str, float]:
    wait = round(PATIENCE * 60 * minutes)
    return {
        "min_sites": min(base.aggregation.min_sites, sites),
        "round_timeout_s": float(max(base.aggregation.round_timeout_s, wait)),
    }


def _shares(fingerprints: Mapping[str, Fingerprint]) -> tuple[Share, dict[str, Share]]:
    """Scans with much air; by organ that any site says it of, cases in which it is in one piece."""
    sites = fingerprints.values()
    pieces = {
        organ: _total([f.organs[organ].one_component for f in sites if organ in f.organs])
        for organ in dict.fromkeys(name for f in sites for name in f.organs)
    }
    known = {organ: share for organ, share in pieces.items() if share.cases}
    return _total([f.wider_than_body for f in sites]), known


def _evaluation(
    organs: int, wider: Share, pieces: Mapping[str, Share], long_s: float, budget: Budget
) -> dict[str, Any]:
    body = wider.cases > 0 and wider.holding >= WIDER * wider.cases
    whole = [organ for organ, s in pieces.items() if s.holding >= ONE_PIECE * s.cases]
    return {
        "windows": "body" if body else "all",
        "overlap": LONG_OVERLAP if long_s <= LONG_PREDICTION_S else SHORT_OVERLAP,
        "largest_component": True if len(whole) == organs else tuple(whole) or False,
        "every_rounds": max(1, budget.rounds // EVALUATIONS),
    }


def _prediction_s(chosen: Candidate, machines: Machines, overlap: float) -> float:
    """Of the median scan by sliding windows."""
    windows = math.prod(
        math.ceil(max(0.0, n - edge) / (edge * (1 - overlap))) + 1
        for n, edge in zip(chosen.whole, chosen.patch, strict=True)
    )
    return windows * machines.seconds(chosen.cost.scan_gigamacs, chosen.width)


def _total(shares: list[Share]) -> Share:
    return Share(cases=sum(s.cases for s in shares), holding=sum(s.holding for s in shares))
