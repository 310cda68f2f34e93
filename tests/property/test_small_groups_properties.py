"""For random cases, cohorts and runs no number, nor a difference of two, is of 1 to k - 1 cases."""

from dataclasses import dataclass
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from asdnet_models.reliability import BINS, Reliability
from asdnet_models.sums import ScoreSum
from client.data.blocks import Block, release
from protocol.config.study import StudyProtocol
from protocol.wire.group_checks import refuse_small_groups
from protocol.wire.reports import EvaluationReport
from protocol.wire.small_groups import behind, merged_bins, score_sums, small

PROTOCOL = StudyProtocol(organs={"organ": 1})


@dataclass(frozen=True)
class Case:
    dsc: float
    asd_mm: float | None
    failure: bool


FEWEST = st.integers(1, 5)
CASE = st.one_of(
    st.just(Case(0.0, None, True)),
    st.just(Case(1.0, None, False)),
    st.just(Case(1.0, 0.0, False)),
    st.just(Case(0.0, 40.0, False)),
    st.builds(
        Case,
        st.floats(1e-4, 1.0),
        st.floats(0.01, 50.0),
        st.just(False),
    ),
)
BLOCKS = st.lists(st.lists(CASE, min_size=1, max_size=9), max_size=3)


@given(BLOCKS, FEWEST)
def test_no_score_is_of_a_small_group(blocks: list[list[Case]], fewest: int) -> None:
    kept, dsc, asd = score_sums(blocks, fewest)
    groups = [blocks[number] for number in kept]
    assert dsc.count == sum(map(len, groups))
    # Every subset of the blocks is a difference of two answers.
    for size in range(1, len(groups) + 1):
        for chosen in combinations(groups, size):
            cases = [case for block in chosen for case in block]
            both = [case for case in cases if case.asd_mm is not None]
            assert len(cases) >= fewest
            assert not small(len(both), fewest)
            assert not small(sum(not case.failure for case in cases), fewest)
            if asd != ScoreSum():
                failed = sum(case.failure for case in cases)
                numbers = (len(cases), len(both), failed, len(cases) - len(both) - failed)
                assert not any(small(count, fewest) for count in numbers)
                differences = [abs(a - b) for a, b in combinations(numbers, 2)]
                # n less d or f is what is left of n; d less f is no group's number.
                assert not any(small(count, fewest) for count in differences[:3])
    for block in groups:
        assert not small(behind(c.dsc for c in block if c.asd_mm is not None), fewest)


@given(BLOCKS, FEWEST)
def test_what_may_leave_passes_the_way_out(blocks: list[list[Case]], fewest: int) -> None:
    kept, dsc, asd = score_sums(blocks, fewest)
    none = {"organ": ScoreSum()}
    report = EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": sum(len(blocks[n]) for n in kept)},
        dsc={"validation": none, "test": {"organ": dsc}},
        asd_mm={"validation": none, "test": {"organ": asd}},
    )
    refuse_small_groups(report, PROTOCOL, fewest)


VOXELS = st.lists(st.sampled_from([0, 0, 0, 1, 5, 40, 3000]), min_size=BINS, max_size=BINS)


@given(st.lists(st.tuples(VOXELS, VOXELS), min_size=1, max_size=6), FEWEST)
def test_no_count_of_voxels_is_of_a_small_group(
    voxels: list[tuple[list[int], list[int]]], fewest: int
) -> None:
    cases = [Reliability(right=tuple(right), wrong=tuple(wrong)) for right, wrong in voxels]
    merged = merged_bins(cases, fewest)
    whole = sum(cases, Reliability())
    if merged == Reliability():
        return
    for kind in ("right", "wrong"):
        counts, of_all = getattr(merged, kind), getattr(whole, kind)
        # Nothing is lost, and each bin is a sum of the neighbours below it.
        assert sum(counts) == sum(of_all)
    edges = [n for n in range(BINS) if merged.right[n] or merged.wrong[n]]
    for low, high in zip([-1, *edges[:-1]], edges, strict=True):
        span = slice(low + 1, high + 1)
        for kind in ("right", "wrong"):
            mine = [sum(getattr(case, kind)[span]) for case in cases]
            assert sum(mine) == getattr(merged, kind)[high]
            assert not small(behind(mine), fewest)


NAMES = [f"case-{n}" for n in range(14)]
RUNS = st.lists(
    st.tuples(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES))),
    min_size=1,
    max_size=8,
)


@given(RUNS, FEWEST)
def test_no_difference_of_any_runs_is_of_a_small_group(
    runs: list[tuple[set[str], set[str]]], fewest: int
) -> None:
    """Cases come, go and move between validation and test; all answers may be added up."""
    blocks: list[Block] = []
    answers: list[frozenset[str]] = []
    for validation, test in runs:
        for part in (frozenset(validation), frozenset(test - validation)):
            blocks, now = release(blocks, part, fewest)
            answers += [frozenset[str]().union(*now)]
            assert answers[-1] <= part
            if fewest == 1:
                assert answers[-1] == part
    # Cases that are in the same answers cannot be told apart by any sum or difference of them.
    alike: dict[tuple[bool, ...], int] = {}
    for name in NAMES:
        row = tuple(name in answer for answer in answers)
        if any(row):
            alike[row] = alike.get(row, 0) + 1
    assert all(count >= fewest for count in alike.values())


@given(st.sets(st.sampled_from(NAMES)), FEWEST)
def test_the_same_cohort_leaves_the_same_way(cases: set[str], fewest: int) -> None:
    blocks, first = release([], frozenset(cases), fewest)
    again, second = release(blocks, frozenset(cases), fewest)
    assert (again, second) == (blocks, first)
