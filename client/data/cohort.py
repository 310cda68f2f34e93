"""The cohort of a run: the cases that its first answer was made of, and every later one is.

At the first answer a site writes down which cases it has, by their cache keys.  New cases wait for
the next run; where one is missing or was changed, the site answers nothing more in that run
(`CohortChanged`): two answers could be subtracted.  How runs are kept apart: `blocks.py`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pydantic import Field

from asdnet_models.fields import Frozen
from client.data.blocks import (
    PRIVATE,
    Block,
    Counted,
    counted,
    expected_id,
    plain,
    plan_release,
    read_kept,
    released_blocks,
    write_released,
)
from client.data.cache import CachedCase
from client.data.case import Part
from client.data.dataset import SiteData, prepare_site, tolerable
from client.data.declaration import count_rules, is_boxed
from protocol.config.rules import Rule
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.files import write_text

log = logging.getLogger(__name__)

# What the guarantee between runs needs is in one file that is never shortened; these may go.
_RUNS_KEPT = 64
# Unlabelled scans that are predicted at each evaluation of a site that has no case to score: as
# much work as the validation and test cases of others.
_STAND_INS = 8


class CohortChanged(ValueError):
    """The site's cases are not those of the run's first answer."""


class Cohort(Frozen):
    """The cases of one run; names of cases are not in it."""

    cases: dict[Part, tuple[str, ...]] = Field(description="cache keys, by part")
    refused: dict[Rule, int] = Field(description="cases that are not used, by rule")
    excluded: int = Field(description="cases that the site's file leaves out")
    released: dict[str, tuple[tuple[str, ...], ...]] = Field(
        description="by organ, and of the boxes, cache keys in blocks that leave whole"
    )


def site_of_run(
    config: SiteConfig, protocol: StudyProtocol, run: str, *, strict: bool = True
) -> tuple[SiteData, Cohort]:
    """The cases that all answers of a run are made of, written down at the first one.

    Args:
        config: The site.
        protocol: The study.
        run: The run's name.
        strict: False: where more is refused than the study tolerates, say so and measure nothing;
            then nothing is written down yet.

    Raises:
        CohortChanged: The cases are not those of the first answer.
        CohortFileError: What was written down cannot be read.
        LayoutError, ProtocolError, CacheError: As of `prepare_site`.
    """
    file = config.state / "cohorts" / f"{run}.json"
    known = read_kept(file, Cohort) if file.exists() else None
    data = prepare_site(config, protocol, strict=strict and known is None)
    if known is None:
        used = sum(len(getattr(data, part)) for part in get_args(Part))
        if not tolerable(data.refused, used, protocol.contract):
            return replace(data, released={}), _cohort(data, {})
        known = _freeze(config, protocol, run, data, file)
    return _only(data, known, run), known


def _freeze(
    config: SiteConfig, protocol: StudyProtocol, run: str, data: SiteData, file: Path
) -> Cohort:
    """Write the run's cases down; what may leave of them, first."""
    scans = stand_ins(config, data)
    cases = {
        case.key: _counted(case, protocol, stands_in=case.key in scans, twin=config.twin)
        for case in _cases(data)
    }
    release = plan_release(config, cases.values())
    for line in release.held_back:
        log.warning("run %s: %s", run, line)
    write_released(config, release)
    key_of = {id_: key for key, case in cases.items() for id_ in case.ids.values()}
    cohort = _cohort(
        data,
        {
            what: [frozenset(key_of[id_] for id_ in block) for block in of_quantity]
            for what, of_quantity in release.released.items()
        },
    )
    write_text(file, cohort.model_dump_json(), PRIVATE)
    # Not the file of the blocks, whose name has a dot before it.
    runs = sorted(file.parent.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime)
    for old in runs[:-_RUNS_KEPT]:
        old.unlink()
    return cohort


def _only(data: SiteData, cohort: Cohort, run: str) -> SiteData:
    """The site's cases without those that are new since the run's first answer.

    Raises:
        CohortChanged: One of them is missing or was changed.
    """
    parts: dict[Part, tuple[CachedCase, ...]] = {}
    gone, new = [], []
    for part in get_args(Part):
        keys = set(cohort.cases.get(part, ()))
        cases: tuple[CachedCase, ...] = getattr(data, part)
        parts[part] = tuple(case for case in cases if case.key in keys)
        new += [f"{part} case {case.name}" for case in cases if case.key not in keys]
        missing = len(keys) - len(parts[part])
        gone += [f"{missing} of {len(keys)} {part} cases"] if missing else []
    if gone:
        unused = [str(refusal.problem) for refusal in data.refused]
        raise CohortChanged(
            f"run {run}: {', '.join(gone)} that were there at its first answer are missing or were "
            "changed, and two answers must not be subtracted. New or changed since: "
            f"{', '.join(new) or 'none'}. Not used now: {'; '.join(unused) or 'none'}. Put the "
            "files and the site's file back as they were, or ask the centre for a new run"
        )
    if new:
        log.warning("run %s: new since its first answer, for the next run: %s", run, ", ".join(new))
    return replace(
        data,
        labelled=parts["labelled"],
        unlabelled=parts["unlabelled"],
        validation=parts["validation"],
        test=parts["test"],
        released={
            what: tuple(frozenset(block) for block in blocks)
            for what, blocks in cohort.released.items()
        },
    )


def _cohort(data: SiteData, released: Mapping[str, Sequence[Block]]) -> Cohort:
    return Cohort(
        cases={part: tuple(c.key for c in getattr(data, part)) for part in get_args(Part)},
        refused=count_rules(refusal.problem for refusal in data.refused),
        excluded=data.excluded,
        released={what: plain(blocks) for what, blocks in released.items()},
    )


def _cases(data: SiteData) -> list[CachedCase]:
    return [case for part in get_args(Part) for case in getattr(data, part)]


def stand_ins(config: SiteConfig, data: SiteData) -> frozenset[str]:
    """Cache keys of the unlabelled scans whose expected DSC stand in for scores.

    At a site that has no case to score: the first `_STAND_INS` by name, or `min_cases_reported` if
    that is more.  Those that have left before come first: blocks leave whole.
    """
    if data.validation or data.test:
        return frozenset()
    known = frozenset[str]().union(*released_blocks(config))
    first = sorted(
        data.unlabelled,
        key=lambda case: (expected_id(case.facts["voxel_hash"]) not in known, case.name),
    )
    return frozenset(case.key for case in first[: max(_STAND_INS, config.min_cases_reported)])


def _counted(case: CachedCase, protocol: StudyProtocol, *, stands_in: bool, twin: bool) -> Counted:
    boxed = is_boxed(case, protocol.organ_names)
    hashes = case.facts["voxel_hash"], case.organ_hashes
    return counted(case.case, *hashes, boxed=boxed, stands_in=stands_in, twin=twin)
