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

In a score a case is known by what its scan and the organ's mask show, whatever the study's grid and
whatever it calls and numbers the organ; in the organ box by its scan and label file.  A scan or
label that was only converted is the same one (but for the box), one that was redrawn is another.

Not guaranteed: for weights, which are no sums over cases and change with every case that was
trained on; and where the site's `.released.json` was deleted.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from asdnet_models.fields import Frozen
from client.data.case import Case, Part
from client.data.dataset import BOX, EXPECTED, TWIN
from client.data.hashing import content_hash
from protocol.config.site import SiteConfig
from protocol.files import write_text

PRIVATE = 0o600
# The scans behind a fingerprint; with an organ's name after it, its label maps.
FINGERPRINT = "fingerprint"
_SCORED: tuple[Part, ...] = ("validation", "test")

Block = frozenset[str]
Kept = TypeVar("Kept", bound=Frozen)


class CohortFileError(ValueError):
    """A file of the site's state folder that guards its numbers cannot be read."""


class _Released(Frozen):
    """cohorts/.released.json: the blocks of all that has ever left."""

    blocks: tuple[tuple[str, ...], ...] = Field((), description="hashes of case and organ")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A usable case as it counts: its part, and an id for each quantity that it is in."""

    part: Part
    ids: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What may leave of a site's cases.

    Attributes:
        blocks: Of all that has ever left, this time included.
        released: By quantity, those that leave this time.
        held_back: Why the others don't, a line each.
    """

    blocks: Sequence[Block]
    released: Mapping[str, Sequence[Block]]
    held_back: tuple[str, ...]


def released_file(config: SiteConfig) -> Path:
    """The site's blocks of all cases that stand behind what has left."""
    # With the cohorts, where the worker may write; no run's name begins with a dot.
    return config.state / "cohorts" / ".released.json"


def counted(
    case: Case,
    voxel_hash: str,
    organ_hashes: Mapping[str, str],
    *,
    boxed: bool,
    stands_in: bool = False,
    twin: bool = False,
) -> Counted:
    """A case as it counts in what leaves: in the organs' scores, in the organ box, in neither.

    Args:
        case: At the site.
        voxel_hash: Of what its scan shows.
        organ_hashes: By organ that is annotated, of where it is; "": absent.
        boxed: Whether its organ box counts.
        stands_in: Whether it is an unlabelled scan whose expected DSC stand in for scores.
        twin: Whether the site compares rounds with supervised twins, on its validation cases.
    """
    ids: dict[str, str] = {}
    if case.part in _SCORED:
        # Absent organs look alike: only their names tell them apart.
        ids = {o: _digest(voxel_hash, mask or f"no {o}") for o, mask in organ_hashes.items()}
        if twin and case.part == "validation" and organ_hashes:
            ids[TWIN] = _digest(voxel_hash, f"twin {sorted(organ_hashes.items())}")
    elif case.part == "labelled" and boxed and case.label:
        ids = {BOX: _digest(voxel_hash, f"box {content_hash(case.label)}")}
    elif stands_in:
        ids = {EXPECTED: expected_id(voxel_hash)}
    return Counted(part=case.part, ids=ids)


def expected_id(voxel_hash: str) -> str:
    """What an unlabelled scan is known by in the expected DSC."""
    return _digest(voxel_hash, "expected")


def _digest(scan: str, shown: str) -> str:
    return hashlib.sha256(f"{scan}\n{shown}".encode()).hexdigest()


def released_blocks(config: SiteConfig) -> list[Block]:
    """The blocks of all that has ever left.

    Raises:
        CohortFileError: They cannot be read.
    """
    file = released_file(config)
    before = read_kept(file, _Released).blocks if file.exists() else ()
    return [frozenset(block) for block in before]


def plan_release(config: SiteConfig, cases: Iterable[Counted]) -> Release:
    """Which of these cases may stand behind what leaves; nothing is written.

    Raises:
        CohortFileError: The site's blocks cannot be read.
    """
    blocks, fewest = released_blocks(config), config.min_cases_reported
    groups: dict[tuple[str, Part], set[str]] = {}
    for case in cases:
        for what, id_ in case.ids.items():
            groups.setdefault((what, case.part), set()).add(id_)
    released: dict[str, list[Block]] = {}
    lines: list[str] = []
    for (what, part), ids in sorted(groups.items()):
        blocks, now = release(blocks, frozenset(ids), fewest)
        held = ids.difference(*now)
        new = held.difference(*blocks)
        released.setdefault(what, []).extend(now)
        noun = _noun(what, part)
        if len(ids) >= fewest:
            lines += _reasons(noun, len(new), len(held - new), fewest)
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


def _noun(what: str, part: Part) -> str:
    if what.startswith(FINGERPRINT):
        return f"the {what}"
    if what == EXPECTED:
        return "the expected scores of unlabelled scans"
    if what == TWIN:
        return "the comparison with supervised twins"
    return "the organ box" if what == BOX else f"{part} scores of {what}"


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
    content = _Released(blocks=plain(release.blocks))
    file = released_file(config)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(file, content.model_dump_json(), PRIVATE)


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
