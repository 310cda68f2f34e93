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
from protocol.planning.budget import Budget, Machines, machines_of
from protocol.planning.fingerprint import AXES, Fingerprint, Share
from protocol.planning.grid import Geometry, geometry_of
from protocol.planning.rules import (
    BATCH,
    BATCH_SHARE,
    COVER,
    EVALUATIONS,
    LONG_OVERLAP,
    LONG_PREDICTION_S,
    MAX_WIDTH,
    MOST_LOCAL_STEPS,
    ONE_PIECE,
    PATCHES_WISHED,
    SCAN_COVER,
    SHORT_OVERLAP,
    STEPS_BEFORE_BATCH,
    TIMES_WIDTH,
    USABLE_MEMORY,
    USABLE_TIME,
    WIDER,
)
from protocol.planning.search import Candidate, Search, changes_of

# A round is waited for so many times as long as it is planned to take.
_PATIENCE = 3
# Terms of the loss that read the confidence network.
_OF_UNLABELLED = ("lambda_adversarial", "lambda_region")
_NONE_UNLABELLED = (
    "no site has unlabelled scans: all the time is S's, no confidence network is trained"
)


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
    fingerprints: Mapping[str, Fingerprint], budget: Budget, base: StudyProtocol
) -> Plan:
    """The study that these sites can train within this budget.

    Args:
        fingerprints: By site.
        budget: Memory of the weakest site, minutes of the slowest.
        base: Recipe, organs, and all that is not planned.

    Raises:
        PlanError: Nothing fits, or the fingerprints say too little.
    """
    geometry = geometry_of(fingerprints)
    machines = machines_of(fingerprints, budget)
    supervised = {} if machines.unlabelled else {"method": dict.fromkeys(_OF_UNLABELLED, 0.0)}
    base = merged(base, supervised)
    search = Search(base, geometry, machines, budget)
    chosen = search.best()
    scans = sum(f.labelled + f.unlabelled for f in fingerprints.values())
    chosen = search.with_batch(chosen, math.prod(chosen.whole) * scans)
    changes = merged_content(changes_of(chosen), supervised)
    reasons = _grid_reasons(geometry, machines, chosen)
    if supervised:
        reasons |= {f"method.{name}": _NONE_UNLABELLED for name in _OF_UNLABELLED}
    for more, why in (
        _training(fingerprints, budget, base, machines, chosen),
        _evaluation(fingerprints, budget, machines, chosen),
    ):
        changes, reasons = merged_content(changes, more), reasons | why
    return Plan(
        protocol=merged(base, changes),
        reasons=reasons,
        summary=_summary(fingerprints, budget, machines, chosen),
    )


def with_steps(plan: Plan, steps: int) -> Plan:
    """The plan with other local steps, as somebody wants them."""
    return replace(
        plan,
        protocol=merged(plan.protocol, {"training": {"local_steps": steps}}),
        reasons={**plan.reasons, "training.local_steps": "as asked"},
    )


def _grid_reasons(geometry: Geometry, machines: Machines, chosen: Candidate) -> dict[str, str]:
    own = _times(f"{mm:g}" for mm in geometry.spacing_mm)
    spacing = geometry.spacing_reason
    if chosen.spacing_mm != geometry.spacing_mm:
        spacing = (
            f"coarser than the scans' {own} mm ({spacing}): on a finer grid the slowest site,"
            f" {machines.slowest}, would have no time for {PATCHES_WISHED} patches, even at width"
            f" {chosen.width}"
        )
    whole = _times(f"{n:.0f}" for n in chosen.whole)
    of_scan = [edge >= n - 0.5 for edge, n in zip(chosen.patch, chosen.whole, strict=True)]
    patch = f"the median scan has {whole} voxels on this grid; edges are multiples of " + _times(
        map(str, chosen.topology.multiple)
    )
    if not all(of_scan):
        cut = ", ".join(axis for axis, is_whole in zip(AXES, of_scan, strict=True) if not is_whole)
        patch += (
            f"; shortened along {cut} for memory and time, to {SCAN_COVER:.0%} of the scan if any"
            f" grid allows it, and {COVER:g} times the largest organ at least"
        )
    memory = f"{chosen.cost.bytes / 2**30:.2g} of {machines.memory_gib:.3g} GiB"
    if machines.smallest:
        memory += f" at site {machines.smallest}"
    flat = any(1 in kernel for kernel in chosen.topology.kernels)
    return {
        "spacing_mm": spacing,
        "patch_voxels": patch,
        "network.width": (
            f"the widest with which site {machines.slowest} has time for enough patches"
            f" ({chosen.step_s:.2g} s a step) and a step fits memory ({memory}, of which"
            f" {USABLE_MEMORY:.0%} may be used); {chosen.cost.parameters:,} parameters"
        ),
        "network.kernel": "every kernel is given below; 3 elsewhere",
        "network.max_width": (
            f"channels double at each stage, up to {TIMES_WIDTH} times the first's and {MAX_WIDTH}"
        ),
        "network.strides": (
            "each axis is halved while 4 voxels are left, and its voxels are less than twice as"
            " long as the finest"
        ),
        "network.kernels": (
            "flat along a coarse axis until its voxels are less than twice as long as the finest"
            if flat
            else "voxels are about cubes: 3 along every axis"
        ),
    }


def _training(
    fingerprints: Mapping[str, Fingerprint],
    budget: Budget,
    base: StudyProtocol,
    machines: Machines,
    chosen: Candidate,
) -> tuple[dict[str, Any], dict[str, str]]:
    seconds = chosen.local_steps * chosen.step_s
    patches = chosen.local_steps * budget.rounds * chosen.batch
    steps = (
        f"{seconds / 60:.2g} of {budget.minutes_a_round:g} minutes at site {machines.slowest}"
        f" ({USABLE_TIME:.0%} may be steps); {patches:,} labelled patches a site over the study"
    )
    if chosen.local_steps == MOST_LOCAL_STEPS:
        steps += f"; no more than {MOST_LOCAL_STEPS}, or sites drift apart between two averagings"
    batch = "small batches, many steps, as in nnU-Net"
    if chosen.batch > BATCH:
        batch = (
            f"as large as leaves {STEPS_BEFORE_BATCH} steps and is {BATCH_SHARE:.0%} of all voxels"
            " at most"
        )
    sites = min(base.aggregation.min_sites, len(fingerprints))
    wait = round(_PATIENCE * 60 * budget.minutes_a_round)
    changes: dict[str, Any] = {
        "training": {"rounds": budget.rounds, "local_steps": chosen.local_steps},
        "aggregation": {
            "min_sites": sites,
            "round_timeout_s": float(max(base.aggregation.round_timeout_s, wait)),
        },
    }
    return changes, {
        "training.rounds": "as asked",
        "training.local_steps": steps,
        "training.batch_size": batch,
        "aggregation.min_sites": f"{len(fingerprints)} sites were asked",
        "aggregation.round_timeout_s": f"at least {_PATIENCE} times a round's minutes",
    }


def _evaluation(
    fingerprints: Mapping[str, Fingerprint],
    budget: Budget,
    machines: Machines,
    chosen: Candidate,
) -> tuple[dict[str, Any], dict[str, str]]:
    sites = fingerprints.values()
    wider = _total([f.wider_than_body for f in sites])
    body = wider.cases > 0 and wider.holding >= WIDER * wider.cases
    pieces = {
        organ: [f.organs[organ].one_component for f in sites if organ in f.organs]
        for organ in dict.fromkeys(name for f in sites for name in f.organs)
    }
    shares = {organ: _total(found) for organ, found in pieces.items()}
    known = {organ: share for organ, share in shares.items() if share.cases}
    whole = bool(known) and all(s.holding >= ONE_PIECE * s.cases for s in known.values())
    long_s = _prediction_s(chosen, machines, LONG_OVERLAP)
    overlap = LONG_OVERLAP if long_s <= LONG_PREDICTION_S else SHORT_OVERLAP
    listed = ", ".join(f"{o} {s.holding}/{s.cases}" for o, s in known.items()) or "no site says"
    changes = {
        "evaluation": {
            "windows": "body" if body else "all",
            "overlap": overlap,
            "largest_component": whole,
            "every_rounds": max(1, budget.rounds // EVALUATIONS),
        }
    }
    return changes, {
        "evaluation.windows": (
            f"{wider.holding} of {wider.cases or 'unknown'} scans are wider than the body"
            + (": windows in air cost time and say nothing" if body else "")
        ),
        "evaluation.overlap": (
            f"with {LONG_OVERLAP:g} the median scan takes {long_s:.2g} s at site {machines.slowest}"
        ),
        "evaluation.largest_component": (
            f"cases in which an organ is in one piece: {listed}; on from {ONE_PIECE:.0%} of each"
        ),
        "evaluation.every_rounds": f"{EVALUATIONS} times in the study, and after its last round",
    }


def _prediction_s(chosen: Candidate, machines: Machines, overlap: float) -> float:
    """Of the median scan by sliding windows."""
    windows = math.prod(
        math.ceil(max(0.0, n - edge) / (edge * (1 - overlap))) + 1
        for n, edge in zip(chosen.whole, chosen.patch, strict=True)
    )
    return windows * chosen.cost.scan_gigamacs / machines.gigamacs_s


def _summary(
    fingerprints: Mapping[str, Fingerprint],
    budget: Budget,
    machines: Machines,
    chosen: Candidate,
) -> tuple[str, ...]:
    lines = [
        f"planned for {budget.memory_gib:g} GiB, {budget.minutes_a_round:g} minutes a round,"
        f" {budget.rounds} rounds",
        *(
            f"site {site}: {f.labelled} labelled and {f.unlabelled} unlabelled scans,"
            f" {f.step_gigamacs / f.step_seconds:.3g} GMAC/s"
            + (f", {f.memory_gib:.3g} GiB" if f.memory_gib else "")
            for site, f in fingerprints.items()
        ),
    ]
    minutes = chosen.local_steps * chosen.step_s * budget.rounds / 60
    lines.append(
        f"{chosen.local_steps * budget.rounds:,} steps of {chosen.batch} labelled patches at each"
        f" site, {minutes:.3g} minutes at the slowest, {machines.slowest}"
    )
    return tuple(lines)


def _total(shares: list[Share]) -> Share:
    return Share(cases=sum(s.cases for s in shares), holding=sum(s.holding for s in shares))


def _times(values: Any) -> str:
    return " x ".join(values)
