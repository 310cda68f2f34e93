"""Which numbers may leave a site: none that only a few cases stand behind.

A number's group are the cases that it is in truth made of; a difference of two numbers that leave
together has a group too.  With k the site's `min_cases_reported`, a group of 1 to k - 1 cases is
small, and no number of it leaves, nor any that would give it away.  In truth made of: a case whose
value is known (DSC 0 of a missed organ) or next to nothing in a sum is not behind that sum.

What leaves over cases is therefore decided for all numbers of a group at once:

- Scores of one part and organ, of n cases: d with both masks, f with one, e with neither.  Nothing
  leaves unless n >= k and none of d, n - f and the DSCs behind the sum is small.  NSD leave unless
  those behind their sum, or those below 1, are small.  Distances leave unless d, f, e or the ASDs
  over 0 are small, HD95 besides unless those over 0 are.  Failures leave unless d, f, e, one kind's
  number or the d that are not far off are small.
- Counts of right and wrong voxels: neighbouring bins are merged until no count is of a small group.
- DSC that a map expects: of the cases whose DSC leave, all or none; those behind their sum, and
  behind that of their products with the DSC, are none or k at least.  Of unlabelled scans likewise.
- A round less its supervised twin: k validation cases at least; those behind the sum of the
  differences' magnitudes are none or k at least.
- Measures of training: of the cases that the round's patches were drawn from.  The total loss is
  withheld with either of its summands, the table of trusted voxels whole.
- The organ box: the labelled cases that are in it.
- A fingerprint: means of equal parts of the sorted values, of k cases at least; shares whose cases,
  and whose others, are none or k at least (`protocol/planning/fingerprint.py`).

Counts of the cases that a site has, uses and refuses leave as they are: the centre weighs by them
and holds the study's requirements against them.  They say nothing of what a scan shows.

What a group of k still says: a sum and a sum of squares over 3 values leave one free parameter, and
equal values (a standard deviation of 0) are all known.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asdnet_models.reliability import BINS, Reliability
from asdnet_models.sums import FailureCount, OrganSums, Score, ScoreSum, SumCount
from protocol.wire.metrics import BOX, COUNTS
from protocol.wire.reports import EVALUATED_PARTS, LOSSES, ExpectedSums, TrainReport

Group = Literal[
    "work",
    "census",
    "boxes",
    "labelled",
    "unlabelled",
    "both",
    "scores",
    "expected",
    "voxels",
    "parts",
]

# What is less than this share of a sum's largest value is next to nothing in it.
_REAL_SHARE = 0.1
# What a fingerprint says of cases: means of parts, or in how many of them something holds.
_FINGERPRINTED = frozenset(
    {"spacing_mm", "size_voxels", "extent_mm", "intensity", "wider_than_body"}
)
_UNLABELLED_LOSSES = frozenset({"region", "pseudo", "teacher", "agreement"})
_MIXED_LOSSES = frozenset(
    {"total", "adversarial", "embedding", "confidence_on_fake", "confidence", "drift"}
)


def group_of(kind: str, name: str) -> Group:
    """What a number on the allow-list is made of.

    "work" is of the machine, "census" counts cases that the site has; "labelled", "unlabelled" and
    "both" are the cases whose patches a round drew; "scores" are of one part and organ.

    Raises:
        KeyError: Nobody has decided it.
    """
    head, _, rest = name.partition("/")
    term = rest.partition("/")[0]
    if name in ("steps", "seconds", "step_seconds", "step_gigamacs", "memory_gib"):
        return "work"
    if kind == "fingerprint" and (head in _FINGERPRINTED or head == "organ"):
        return "parts"
    if name in COUNTS or head in ("refused", "annotated"):
        return "census"
    if kind == "facts" and head == "box" and term in BOX:
        return "boxes"
    if kind == "train" and (head == "attention" or (head == "loss" and term in LOSSES)):
        if term in _MIXED_LOSSES:
            return "both"
        return "unlabelled" if term in _UNLABELLED_LOSSES else "labelled"
    if kind == "train" and head == "trusted":
        return "unlabelled"
    if kind == "train" and head == "twin":
        return "scores"
    if kind == "evaluate" and (head in EVALUATED_PARTS or head == "cases"):
        return "scores"
    if kind == "evaluate" and head == "reliability":
        return "voxels"
    if kind == "evaluate" and head == "expected":
        return "expected"
    raise KeyError(f"{kind}: {name}: of which cases is it made?")


def small(count: float, fewest: int) -> bool:
    """Whether so many cases are some, but too few."""
    return 0 < count < fewest


def behind(values: Iterable[float]) -> int:
    """How many of the values, all at least 0, make up a real part of their sum."""
    known = list(values)
    largest = max(known, default=0.0)
    return sum(value >= _REAL_SHARE * largest for value in known) if largest > 0 else 0


# ---- scores -------------------------------------------------------------------------------------


def score_sums(blocks: Sequence[Sequence[Score]], fewest: int) -> tuple[list[int], OrganSums]:
    """The scores of one part and organ as they may leave.

    Args:
        blocks: The cases' scores, in blocks that may be subtracted from each other
            (`client/data/blocks.py`); each is judged by itself.
        fewest: k.

    Returns:
        Numbers of the blocks whose DSC leave, and the sums over those; a sum over nothing where
        it may not leave.
    """
    kept = [number for number, block in enumerate(blocks) if _dsc_may_leave(block, fewest)]
    chosen = [blocks[number] for number in kept]
    sums = OrganSums.of(score for block in chosen for score in block)
    masks = all(_masks_may_leave(block, fewest) for block in chosen)
    asd = masks and all(_may_leave(block, "asd_mm", fewest) for block in chosen)
    hd95 = asd and all(_may_leave(block, "hd95_mm", fewest) for block in chosen)
    nsd = all(_nsd_may_leave(block, fewest) for block in chosen)
    failures = masks and all(_failures_may_leave(block, fewest) for block in chosen)
    return kept, OrganSums(
        dsc=sums.dsc,
        asd_mm=sums.asd_mm if asd else ScoreSum(),
        hd95_mm=sums.hd95_mm if hd95 else ScoreSum(),
        nsd=sums.nsd if nsd else ScoreSum(),
        failures=sums.failures if failures else FailureCount(),
    )


def _masks(scores: Sequence[Score]) -> tuple[int, int, int]:
    """How many cases have both masks, one, and neither: d, f and e."""
    both = sum(score.asd_mm is not None for score in scores)
    one = FailureCount.of(score.failure for score in scores).one_empty
    return both, one, len(scores) - both - one


def _dsc_may_leave(scores: Sequence[Score], fewest: int) -> bool:
    both, one, neither = _masks(scores)
    shown = behind(score.dsc for score in scores if score.asd_mm is not None)
    counts = [both, len(scores) - one, shown]
    # Where all that overlap by nothing give 0, the sum is the number without the organ.
    counts += [] if shown else [neither]
    return len(scores) >= fewest and not any(small(count, fewest) for count in counts)


def _nsd_may_leave(scores: Sequence[Score], fewest: int) -> bool:
    """Of cases whose DSC leave.  Unlike those, many are 1: what the others lack is then a sum."""
    known = [s.nsd for s in scores if s.asd_mm is not None and s.nsd is not None]
    shown, imperfect = behind(known), sum(value < 1 for value in known)
    counts = [shown, imperfect] + ([] if shown else [_masks(scores)[2]])
    return not any(small(count, fewest) for count in counts)


def _masks_may_leave(scores: Sequence[Score], fewest: int) -> bool:
    return not any(small(count, fewest) for count in _masks(scores))


def _may_leave(
    scores: Sequence[Score], distance: Literal["asd_mm", "hd95_mm"], fewest: int
) -> bool:
    apart = sum((getattr(score, distance) or 0) > 0 for score in scores)
    return not small(apart, fewest)


def _failures_may_leave(scores: Sequence[Score], fewest: int) -> bool:
    failures = FailureCount.of(score.failure for score in scores)
    near = _masks(scores)[0] - failures.far_off
    counts = (failures.missed, failures.made_up, failures.far_off, near)
    return not any(small(count, fewest) for count in counts)


def expected_beside(blocks: Sequence[Sequence[tuple[float, float]]], fewest: int) -> ExpectedSums:
    """Expected DSC of one organ as they may leave beside the true ones.

    Args:
        blocks: Of each case of the blocks whose DSC leave, expected and true DSC.
        fewest: k.
    """
    pairs = [pair for block in blocks for pair in block]
    for block in blocks:
        own, products = [e for e, _ in block], [e * t for e, t in block]
        if any(small(behind(values), fewest) for values in (own, products)):
            return ExpectedSums()
    return ExpectedSums(
        validation=ScoreSum.of(e for e, _ in pairs), products=math.fsum(e * t for e, t in pairs)
    )


def expected_of_scans(blocks: Sequence[Sequence[float]], fewest: int) -> ScoreSum:
    """Expected DSC of one organ over unlabelled scans, in blocks, as they may leave."""
    chosen = [b for b in blocks if len(b) >= fewest and not small(behind(b), fewest)]
    return ScoreSum.of(value for block in chosen for value in block)


def difference_sums(blocks: Sequence[Sequence[float]], fewest: int) -> SumCount:
    """Differences of scores of the same cases, in blocks, as they may leave."""
    chosen = [b for b in blocks if len(b) >= fewest and not small(behind(map(abs, b)), fewest)]
    return SumCount(
        sum=math.fsum(value for block in chosen for value in block),
        count=sum(map(len, chosen)),
    )


# ---- voxels -------------------------------------------------------------------------------------


def merged_bins(cases: Sequence[Reliability], fewest: int) -> Reliability:
    """The sum over cases, neighbouring bins merged until no count is of a small group.

    Bins are taken from the surest down; a merged bin's voxels stand in its highest one, so that
    no threshold that is chosen by them trusts more voxels than were counted.  Zeros where even all
    bins together are of a small group.
    """
    right = np.array([case.right for case in cases], np.int64).reshape(len(cases), BINS)
    wrong = np.array([case.wrong for case in cases], np.int64).reshape(len(cases), BINS)
    merged: list[tuple[int, NDArray[np.int64]]] = []
    top, held = BINS - 1, np.zeros((2, len(cases)), np.int64)
    for number in reversed(range(BINS)):
        held += (right[:, number], wrong[:, number])
        if columns_may_leave(held.T, fewest):
            merged.append((top, held))
            top, held = number - 1, np.zeros((2, len(cases)), np.int64)
    while held.any() and merged and not columns_may_leave(held.T, fewest):
        top, more = merged.pop()
        held = held + more
    if columns_may_leave(held.T, fewest):
        merged.append((max(top, 0), held))
    counts = np.zeros((2, BINS), np.int64)
    for number, of_cases in merged:
        counts[:, number] += of_cases.sum(1)
    return Reliability(right=tuple(counts[0].tolist()), wrong=tuple(counts[1].tolist()))


def columns_may_leave(rows: Collection[Sequence[float]] | NDArray[np.int64], fewest: int) -> bool:
    """Whether each column of a table with a row for each case is a sum of enough of them."""
    return not any(small(behind(column), fewest) for column in zip(*rows, strict=True))


# ---- training -----------------------------------------------------------------------------------


def withhold_few(
    report: TrainReport,
    labelled: int,
    unlabelled: int,
    fewest: int,
    voxels: Collection[Sequence[float]] = (),
) -> TrainReport:
    """The report without what was measured on patches of too few cases.

    Args:
        report: All of it.
        labelled: Labelled cases that the round's patches were drawn from.
        unlabelled: Unlabelled ones.
        fewest: k.
        voxels: Of each unlabelled case, its counts in the table of trusted voxels.  All classes
            together are known, so that one class is withheld with all the others.
    """
    few = {"labelled": small(labelled, fewest), "unlabelled": small(unlabelled, fewest)}
    few["both"] = few["labelled"] or few["unlabelled"]
    table = not few["unlabelled"] and columns_may_leave(voxels, fewest)
    return replace(
        report,
        losses={
            name: SumCount() if few[group_of("train", f"loss/{name}")] else total
            for name, total in report.losses.items()
        },
        attention=SumCount() if few["labelled"] else report.attention,
        trusted=report.trusted if table else {},
    )
