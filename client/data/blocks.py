"""Cases stand behind what leaves in blocks, so that no two answers of any runs can be subtracted.

The cases whose scores (of an organ, of validation or test) or boxes have left are kept in blocks of
at least k = `min_cases_reported`, and a block leaves whole or not at all.  Cases that no block has
yet make a new one once they are k; until then they are held back.  Where some of a block's cases
are gone, it is split in two if both pieces have k cases, and else held back whole.  Blocks only
ever get finer, so that each sum that has ever left is a sum over whole blocks of today, and so is
every sum and difference of any number of them: guaranteed is that none of them is over 1 to k - 1
cases, whatever was added, taken out, exchanged or moved between validation and test, over any
number of runs, studies and orders.  Within a block numbers are judged once more by what they are
in truth made of (`protocol/wire/small_groups.py`).

A case is known by what its scan shows and by its label file, whatever the study's grid: a scan
that was only converted or compressed is the same one, another label is another case.

Not guaranteed: across studies that call the same organ by another name (`asdnet-site approve`
shows a study's organs); for weights, which are no sums over cases and change with every case that
was trained on; and where the site's `.released.json` was deleted.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from asdnet_models.config import Frozen
from client.data.case import Case, Part
from client.data.dataset import BOX
from client.data.hashing import content_hash
from protocol.config.site import SiteConfig
from protocol.files import write_text

PRIVATE = 0o600
_SCORED: tuple[Part, ...] = ("validation", "test")

Block = frozenset[str]
Kept = TypeVar("Kept", bound=Frozen)


class CohortFileError(ValueError):
    """A file of the site's state folder that guards its numbers cannot be read."""


class _Released(Frozen):
    """cohorts/.released.json: by organ, and of the boxes, the blocks of all that has ever left."""

    blocks: dict[str, tuple[tuple[str, ...], ...]] = Field({}, description="hashes of cases")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A usable case as it counts in a number: for which parts and quantities."""

    id: str
    part: Part
    quantities: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What may leave of a site's cases.

    Attributes:
        blocks: Of all that has ever left, this time included, by quantity.
        released: Those that leave this time.
        held_back: Why the others don't, a line each.
    """

    blocks: Mapping[str, Sequence[Block]]
    released: Mapping[str, Sequence[Block]]
    held_back: tuple[str, ...]


def released_file(config: SiteConfig) -> Path:
    """The site's blocks of all cases that stand behind what has left."""
    # With the cohorts, where the worker may write; no run's name begins with a dot.
    return config.state / "cohorts" / ".released.json"


def case_id(case: Case, voxel_hash: str) -> str:
    """Hash of what a scan shows and of its label's bytes; the same in every study."""
    label = content_hash(case.label) if case.label else ""
    return hashlib.sha256(f"{voxel_hash}\n{label}".encode()).hexdigest()


def quantities_of(part: Part, annotated: Collection[str], *, boxed: bool) -> frozenset[str]:
    """What a case of this part is counted in: the organs' scores, or the organ box."""
    if part in _SCORED:
        return frozenset(annotated)
    return frozenset([BOX] if part == "labelled" and boxed else [])


def plan_release(config: SiteConfig, cases: Iterable[Counted]) -> Release:
    """Which of these cases may stand behind what leaves; nothing is written.

    Raises:
        CohortFileError: The site's blocks cannot be read.
    """
    file = released_file(config)
    before = read_kept(file, _Released).blocks if file.exists() else {}
    blocks = {what: [frozenset(b) for b in of_quantity] for what, of_quantity in before.items()}
    groups: dict[tuple[str, Part], set[str]] = {}
    for case in cases:
        for what in case.quantities:
            groups.setdefault((what, case.part), set()).add(case.id)
    released: dict[str, list[Block]] = {}
    lines: Counter[str] = Counter()
    for (what, part), ids in sorted(groups.items()):
        known, now = release(blocks.get(what, []), frozenset(ids), config.min_cases_reported)
        held = ids.difference(*now)
        new = held.difference(*known)
        blocks[what] = known
        released.setdefault(what, []).extend(now)
        noun = "the organ box" if what == BOX else f"{part} scores of {what}"
        if len(ids) >= config.min_cases_reported:
            lines.update(_reasons(noun, len(new), len(held - new), config.min_cases_reported))
    return Release(blocks=blocks, released=released, held_back=tuple(lines))


def release(blocks: Sequence[Block], cases: Block, fewest: int) -> tuple[list[Block], list[Block]]:
    """Blocks that these cases make with those before, and which of them may leave now."""
    known: list[Block] = []
    now: list[Block] = []
    for block in blocks:
        here, gone = block & cases, block - cases
        splits = min(len(here), len(gone)) >= fewest
        known += [here, gone] if splits else [block]
        if here and (splits or not gone) and len(here) >= fewest:
            now.append(here)
    new = cases.difference(*blocks)
    if len(new) >= fewest:
        known.append(new)
        now.append(new)
    return known, now


def _reasons(noun: str, new: int, torn: int, fewest: int) -> list[str]:
    lines = []
    if new:
        lines.append(
            f"{noun}: {new} new cases wait until there are {fewest}; with what has left before, "
            "fewer would be told apart"
        )
    if torn:
        lines.append(
            f"{noun}: {torn} cases stay out, because too few of those that have left together with "
            f"them are gone or changed; bring these back, or exclude {fewest} of them in all"
        )
    return lines


def write_released(config: SiteConfig, release: Release) -> None:
    """Keep the blocks, before anything of them leaves."""
    blocks = {what: plain(of_quantity) for what, of_quantity in release.blocks.items()}
    write_text(released_file(config), _Released(blocks=blocks).model_dump_json(), PRIVATE)


def plain(blocks: Iterable[Block]) -> tuple[tuple[str, ...], ...]:
    """As it is written, sorted."""
    return tuple(tuple(sorted(block)) for block in blocks)


def read_kept(file: Path, kind: type[Kept]) -> Kept:
    """A file of the state folder that guards the site's numbers.

    Raises:
        CohortFileError: It cannot be read.
    """
    try:
        return kind.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise CohortFileError(
            f"{file}: cannot be read, and without it nothing measured may leave; restore it from "
            "your backup"
        ) from None
