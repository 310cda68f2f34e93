"""Looks for the largest network on the finest grid that memory and time leave enough steps for."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from protocol.config.study import StudyProtocol, merged
from protocol.planning.budget import Budget, Machines, PlanError
from protocol.planning.candidate import Candidate, Found, too_large
from protocol.planning.cost import BASE_BYTES, GIB, OF_A_WEIGHT, Cost, step_cost
from protocol.planning.grid import Geometry
from protocol.planning.rules import (
    BATCH,
    BATCH_SHARE,
    COARSER,
    COVER,
    LEAST_EDGE,
    LEAST_LOCAL_STEPS,
    MAX_WIDTH,
    MOST_BATCH,
    MOST_LOCAL_STEPS,
    MOST_VOXELS,
    PATCHES_LEAST,
    PATCHES_WIDER,
    PATCHES_WISHED,
    SCAN_COVER,
    STEPS_BEFORE_BATCH,
    TIMES_WIDTH,
    USABLE_MEMORY,
    USABLE_TIME,
    WIDTHS,
)
from protocol.planning.topology import Edges, Millimetres, Topology, fitted, shrunk
from protocol.wording import counted, figures, rounded_up, times

_MOST_SHRINKS = 200


class Search:
    """Candidates for one cohort and budget; costs are looked up once and scaled by voxels."""

    def __init__(
        self, base: StudyProtocol, geometry: Geometry, machines: Machines, budget: Budget
    ) -> None:
        self._base = base
        self._geometry = geometry
        self._machines = machines
        self._budget = budget
        self._known: dict[Topology, Candidate] = {}
        # In few rounds, sites that are kept from drifting apart take no more steps than these.
        possible = MOST_LOCAL_STEPS * budget.rounds * BATCH
        self._wished, self._least = min(PATCHES_WISHED, possible), min(PATCHES_LEAST, possible)
        self._wider = min(PATCHES_WIDER, possible)

    def best(self) -> Found:
        """The first of `WIDTHS` on the finest grid of `COARSER` that leaves enough steps.

        Patches that cover most of the scan are looked for first, on all of these grids.

        Raises:
            PlanError: Not even the smallest does; with what it would take.
        """
        tried: Candidate | None = None
        for of_scan, enough in product((SCAN_COVER, 0.0), (self._wished, self._least)):
            refused: dict[tuple[Millimetres, int], Candidate] = {}
            for spacing, width in product(self._spacings(), WIDTHS):
                needed = enough if width == WIDTHS[-1] else max(enough, self._wider)
                tried = self._judged(self._fitted(spacing, width, of_scan), needed)
                if self._does(tried, needed):
                    return self._found(tried, of_scan, enough, refused)
                refused[spacing, width] = tried
        assert tried is not None
        raise self._impossible(tried)

    def _found(
        self,
        chosen: Candidate,
        of_scan: float,
        enough: int,
        refused: Mapping[tuple[Millimetres, int], Candidate],
    ) -> Found:
        """With what was refused just before it."""
        grid, width = self._spacings().index(chosen.spacing_mm), WIDTHS.index(chosen.width)
        finer = refused[self._spacings()[grid - 1], WIDTHS[-1]] if grid else None
        smaller = finer and of_scan and self._judged(self._shortest(finer), enough)
        return Found(
            chosen=chosen,
            wished=self._wished,
            enough=enough,
            enough_wider=max(enough, self._wider),
            covers=of_scan > 0,
            finer=finer,
            smaller_would_fit=bool(smaller and self._does(smaller, enough)),
            wider=refused[chosen.spacing_mm, WIDTHS[width - 1]] if width else None,
        )

    def _shortest(self, candidate: Candidate) -> Candidate:
        """Its network on a patch that need not cover most of the scan."""
        return self._fitted(candidate.spacing_mm, candidate.width, 0.0)

    def _judged(self, candidate: Candidate, enough: int) -> Candidate:
        """At its exact cost, where it does by the scaled one."""
        if self._does(candidate, enough):
            return self._measured(candidate, exact=True)
        return candidate

    def _does(self, candidate: Candidate, enough: int) -> bool:
        """Whether it fits and leaves so many patches."""
        return self._fits(candidate) and candidate.patches(self._budget.rounds) >= enough

    def with_batch(self, chosen: Candidate, voxels: float) -> Candidate:
        """As large a batch as leaves many steps.

        Args:
            chosen: With the smallest batch.
            voxels: Of all training scans on this grid.
        """
        for batch in range(MOST_BATCH, chosen.batch, -1):
            larger = self._measured(replace(chosen, batch=batch))
            steps = larger.local_steps * self._budget.rounds
            share = batch * math.prod(chosen.patch) / voxels
            if steps >= STEPS_BEFORE_BATCH and share <= BATCH_SHARE and self._fits(larger):
                return self._measured(larger, exact=True)
        return chosen

    def _spacings(self) -> tuple[Millimetres, ...]:
        return tuple(dict.fromkeys(self._geometry.coarser(factor) for factor in COARSER))

    def _fitted(self, spacing_mm: Millimetres, width: int, of_scan: float) -> Candidate:
        """The largest patch within memory and time, or else the smallest that covers enough.

        That is the organs, and the share `of_scan` of the median scan along each axis.
        """
        x, y, z = (mm / step for mm, step in zip(self._geometry.extent_mm, spacing_mm, strict=True))
        whole = (x, y, z)
        least = [
            min(n, max(COVER * mm / step, of_scan * n))
            for n, mm, step in zip(whole, self._geometry.covered_mm, spacing_mm, strict=True)
        ]
        patch, topology = fitted(whole, spacing_mm)
        tried = self._candidate(spacing_mm, whole, patch, topology, width)
        for _ in range(_MOST_SHRINKS):
            tried = self._judged(tried, self._wished)
            if self._does(tried, self._wished):
                return tried
            shorter = shrunk(tried.patch, whole, least, tried.topology.multiple)
            if shorter is None:
                break
            patch, topology = fitted(shorter, spacing_mm)
            if math.prod(patch) >= math.prod(tried.patch):
                break
            larger = replace(tried, larger=None)
            tried = self._candidate(spacing_mm, whole, patch, topology, width)
            tried = replace(tried, larger=larger)
        return tried

    def _candidate(
        self,
        spacing_mm: Millimetres,
        whole: tuple[float, float, float],
        patch: Edges,
        topology: Topology,
        width: int,
    ) -> Candidate:
        if not topology.strides:
            raise PlanError(
                f"scans: the median one has {times(f'{n:.0f}' for n in whole)} voxels on a"
                f" grid of {times(f'{mm:g}' for mm in spacing_mm)} mm, and no axis is long"
                f" enough to be halved ({2 * LEAST_EDGE} voxels); these are no scans to segment"
            )
        draft = Candidate(
            spacing_mm=spacing_mm,
            whole=whole,
            patch=patch,
            topology=topology,
            width=width,
            batch=BATCH,
            cost=Cost(bytes=0, gigamacs=0.0, scan_gigamacs=0.0, parameters=0),
            step_s=0.0,
            local_steps=0,
        )
        return self._measured(draft)

    def _measured(self, candidate: Candidate, *, exact: bool = False) -> Candidate:
        """With its cost, scaled from a network of the same topology unless asked exactly."""
        known = self._known.get(candidate.topology)
        if known is None or (exact and not _same_step(known, candidate)):
            protocol = merged(self._base, changes_of(candidate))
            cost = step_cost(protocol, unlabelled=self._machines.unlabelled)
            known = self._known[candidate.topology] = replace(candidate, cost=cost)
        scaled = _scaled(known, candidate)
        step_s = self._machines.seconds(scaled.gigamacs, candidate.width)
        seconds = 60 * USABLE_TIME * self._budget.minutes_a_round
        steps = min(MOST_LOCAL_STEPS, int(seconds / step_s))
        return replace(candidate, cost=scaled, step_s=step_s, local_steps=steps)

    def _fits(self, candidate: Candidate) -> bool:
        allowed = math.prod(candidate.patch) <= MOST_VOXELS
        in_time = candidate.local_steps >= LEAST_LOCAL_STEPS
        return allowed and in_time and not too_large(candidate, self._machines)

    def _impossible(self, smallest: Candidate) -> PlanError:
        """What even the smallest network on the coarsest grid would take."""
        patch = times(map(str, smallest.patch))
        grid = times(f"{mm:g}" for mm in smallest.spacing_mm)
        what = f"the smallest network (width {smallest.width}, patch {patch} of {grid} mm)"
        gib = smallest.cost.bytes / GIB / USABLE_MEMORY
        if gib > self._machines.memory_gib:
            whose = f"site {self._machines.smallest}" if self._machines.smallest else "--memory"
            return PlanError(
                f"memory: a step of {what} takes {figures(gib, 2)} GiB, {whose} has"
                f" {figures(self._machines.memory_gib, 2)} GiB; give more memory"
            )
        rounds = self._budget.rounds
        steps = max(LEAST_LOCAL_STEPS, math.ceil(self._least / BATCH / rounds))
        minutes = rounded_up(smallest.minutes_of(steps))
        return PlanError(
            f"time: a step of {what} takes {figures(smallest.step_s, 2)} s at site"
            f" {self._machines.slowest}; {counted(self._least, 'patch')} in"
            f" {counted(rounds, 'round')} need {counted(minutes, 'minute')} a round, given are"
            f" {self._budget.minutes_a_round:g}; give more --minutes-a-round, more --rounds, or"
            " leave the slowest site out"
        )


def _same_step(one: Candidate, other: Candidate) -> bool:
    """Of networks of one topology: whether nothing has to be scaled."""
    return (one.patch, one.width, one.batch) == (other.patch, other.width, other.batch)


def _scaled(known: Candidate, candidate: Candidate) -> Cost:
    """The cost of a candidate from one with the same strides and kernels.

    Activations grow with voxels and channels, multiplications and weights with their square.
    """
    cost, wider = known.cost, candidate.width / known.width
    voxels = math.prod(candidate.patch) / math.prod(known.patch)
    patches = candidate.batch / known.batch
    parameters = int(cost.parameters * wider**2)
    kept = (cost.bytes - OF_A_WEIGHT * cost.parameters - BASE_BYTES) * voxels * patches * wider
    return Cost(
        bytes=int(kept + OF_A_WEIGHT * parameters + BASE_BYTES),
        gigamacs=cost.gigamacs * voxels * patches * wider**2,
        scan_gigamacs=cost.scan_gigamacs * voxels * wider**2,
        parameters=parameters,
    )


def changes_of(candidate: Candidate) -> dict[str, Any]:
    """What the candidate sets of a study."""
    return {
        "spacing_mm": candidate.spacing_mm,
        "patch_voxels": candidate.patch,
        "network": {
            "width": candidate.width,
            "kernel": 3,
            "max_width": min(MAX_WIDTH, TIMES_WIDTH * candidate.width),
            "strides": candidate.topology.strides,
            "kernels": candidate.topology.kernels,
        },
        "training": {"batch_size": candidate.batch},
    }
