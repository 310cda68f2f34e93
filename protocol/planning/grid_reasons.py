"""Why grid, patch and networks are planned as they are: what was too much for memory or time."""

import math

from protocol.planning.budget import Budget, Machines
from protocol.planning.candidate import Candidate, Found, too_large
from protocol.planning.cost import GIB
from protocol.planning.fingerprint import AXES
from protocol.planning.grid import Geometry
from protocol.planning.rules import (
    COVER,
    LEAST_EDGE,
    LEAST_LOCAL_STEPS,
    MAX_WIDTH,
    MOST_VOXELS,
    SCAN_COVER,
    TIMES_WIDTH,
    USABLE_MEMORY,
    WIDTHS,
)
from protocol.wording import counted, figures, times


def grid_reasons(
    geometry: Geometry, budget: Budget, machines: Machines, found: Found
) -> dict[str, str]:
    """Of the grid, the patch and the networks."""
    flat = any(1 in kernel for kernel in found.chosen.topology.kernels)
    return {
        "spacing_mm": _of_spacing(geometry, budget, machines, found),
        "patch_voxels": _of_patch(geometry, budget, machines, found),
        "network.width": _of_width(budget, machines, found),
        "network.kernel": "every kernel is given below",
        "network.max_width": (
            f"channels double at each stage, up to {TIMES_WIDTH} times the first's, and to"
            f" {MAX_WIDTH}"
        ),
        "network.strides": (
            f"each axis is halved while {LEAST_EDGE} voxels are left and its voxels are less than"
            " twice as long as the finest"
        ),
        "network.kernels": (
            "flat along a coarse axis until its voxels are less than twice as long as the finest"
            if flat
            else "voxels are about cubes: 3 along every axis"
        ),
    }


def _of_spacing(geometry: Geometry, budget: Budget, machines: Machines, found: Found) -> str:
    if found.finer is None:
        return geometry.spacing_reason
    own = times(f"{mm:g}" for mm in geometry.spacing_mm)
    reason = (
        f"coarser than the scans' own {own} mm ({geometry.spacing_reason}): on"
        f" {times(f'{mm:g}' for mm in found.finer.spacing_mm)} mm, the next finer grid, the"
        f" narrowest network that is tried (width {found.finer.width}, patch"
        f" {times(map(str, found.finer.patch))}) does not fit:"
        f" {_against(found.finer, found.enough, found, budget, machines)}"
    )
    if found.smaller_would_fit:
        reason += (
            f". A smaller patch would fit there; but patches with {SCAN_COVER:.0%} of the scan"
            " along each axis go before a finer grid: what a network never sees whole it does not"
            " learn in so few steps"
        )
    scarce = "memory" if too_large(found.finer, machines) else "minutes a round"
    return f"{reason}. More {scarce} would make it finer"


def _of_patch(geometry: Geometry, budget: Budget, machines: Machines, found: Found) -> str:
    chosen = found.chosen
    shares = [
        min(1.0, edge / voxels) for edge, voxels in zip(chosen.patch, chosen.whole, strict=True)
    ]
    has = (
        f"{times(f'{n:.0f}' for n in chosen.whole)} voxels on this grid; edges are multiples of"
        f" {times(map(str, chosen.topology.multiple))}"
    )
    cut = [
        axis
        for axis, edge, n in zip(AXES, chosen.patch, chosen.whole, strict=True)
        if edge < n - 0.5
    ]
    if not cut:
        return f"all of the median scan, which has {has}"
    kept = times(f"{share:.0%}" for share in shares)
    reason = f"the median scan has {has}; cut along {' and '.join(cut)}, to {kept} of the scan"
    if chosen.larger is not None:
        reason += (
            f": with {times(map(str, chosen.larger.patch))}"
            f" {_against(chosen.larger, found.wished, found, budget, machines)}"
        )
    if found.covers:
        return f"{reason}; {SCAN_COVER:.0%} along each axis at least is kept"
    largest = times(f"{COVER * mm:.0f}" for mm in geometry.covered_mm)
    return (
        f"{reason}; {SCAN_COVER:.0%} along each axis fits on no grid, {largest} mm ({COVER:g} times"
        " the largest organ) at least are kept"
    )


def _of_width(budget: Budget, machines: Machines, found: Found) -> str:
    chosen = found.chosen
    tried = ", ".join(map(str, WIDTHS))
    if found.wider is None:
        reason = f"the widest of {tried} channels that are tried"
    else:
        reason = (
            f"the widest of {tried} channels that fits this grid: with {found.wider.width} (patch"
            f" {times(map(str, found.wider.patch))})"
            f" {_against(found.wider, found.enough_wider, found, budget, machines)}"
        )
    return (
        f"{reason}. A step takes {figures(chosen.step_s, 2)} s at site {machines.slowest}, and"
        f" {figures(chosen.cost.bytes / GIB, 2)} of {_memory(machines)}; {chosen.cost.parameters:,}"
        " parameters"
    )


def _against(
    candidate: Candidate, enough: int, found: Found, budget: Budget, machines: Machines
) -> str:
    """What a candidate that was refused, `enough` patches being wanted, would take too much of."""
    patches = candidate.patches(budget.rounds)
    mistakes = []
    if math.prod(candidate.patch) > MOST_VOXELS:
        mistakes.append(
            f"a patch has over {MOST_VOXELS:,} voxels, which is more than sites allow unasked"
        )
    if too_large(candidate, machines):
        mistakes.append(
            f"a step takes {figures(candidate.cost.bytes / GIB, 2)} GiB, of {_memory(machines)}"
            f" {USABLE_MEMORY:.0%} may be used"
        )
    if patches < enough:
        mistakes.append(
            f"site {machines.slowest} has time for {patches:,} labelled patches in the study, of"
            f" {enough:,} wanted" + (" at least" if enough < found.wished else "")
        )
    elif candidate.local_steps < LEAST_LOCAL_STEPS:
        mistakes.append(
            f"site {machines.slowest} has time for {counted(candidate.local_steps, 'step')} a"
            f" round, of {LEAST_LOCAL_STEPS} wanted at least"
        )
    return " and ".join(mistakes)


def _memory(machines: Machines) -> str:
    at = f" at site {machines.smallest}" if machines.smallest else ""
    return f"{figures(machines.memory_gib)} GiB{at}"
