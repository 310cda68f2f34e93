"""For random cases, cohorts and runs no number, nor a difference of two, is of 1 to k - 1 cases."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from made_scores import ABSENT, BESIDE, MADE_UP, MISSED, seen

from asdnet_models.metrics import OrganScore
from asdnet_models.reliability import BINS, Reliability
from asdnet_models.sums import FAILURE_KINDS, FailureCount, OrganSums, ScoreSum
from client.data.blocks import Block, release
from protocol.config.study import StudyProtocol
from protocol.wire.consistency import consistent_evaluation
from protocol.wire.group_checks import refuse_small_groups
from protocol.wire.reports import EvaluationReport
from protocol.wire.small_groups import behind, expected_beside, merged_bins, score_sums, small

PROTOCOL = StudyProtocol(organs={"organ": 1})


FEWEST = st.integers(1, 5)
FOUND = st.builds(
    OrganScore,
    dsc=st.floats(1e-4, 1.0),
    asd_mm=st.floats(0.01, 50.0),
    hd95_mm=st.one_of(st.just(0.0), st.floats(0.01, 90.0)),
    nsd=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
    failure=st.sampled_from([None, None, "far_off"]),
)
CASE = st.one_of(st.sampled_from([MISSED, MADE_UP, ABSENT, BESIDE, seen(1.0, 0.0)]), FOUND)
BLOCKS = st.lists(st.lists(CASE, min_size=1, max_size=9), max_size=3)


@given(BLOCKS, FEWEST)
def test_no_score_is_of_a_small_group(blocks: list[list[OrganScore]], fewest: int) -> None:
    kept, sums = score_sums(blocks, fewest)
    groups = [blocks[number] for number in kept]
    assert sums.dsc.count == sum(map(len, groups))
    assert sums.nsd.count in (0, sums.dsc.count)
    assert sums.hd95_mm.count in (0, sums.asd_mm.count)
    # Every subset of the blocks is a difference of two answers.
    for size in range(1, len(groups) + 1):
        for chosen in combinations(groups, size):
            cases = [case for block in chosen for case in block]
            both = [case for case in cases if case.asd_mm is not None]
            assert len(cases) >= fewest
            assert not small(len(both), fewest)
            failures = FailureCount.of(case.failure for case in cases)
            assert not small(len(cases) - failures.one_empty, fewest)
            if sums.asd_mm != ScoreSum():
                one = failures.one_empty
                numbers = (len(cases), len(both), one, len(cases) - len(both) - one)
                assert not any(small(count, fewest) for count in numbers)
                differences = [abs(a - b) for a, b in combinations(numbers, 2)]
                # n less d or f is what is left of n; d less f is no group's number.
                assert not any(small(count, fewest) for count in differences[:3])
            if sums.failures.cases:
                kinds = [getattr(failures, kind) for kind in FAILURE_KINDS]
                kinds += [len(both) - failures.far_off]
                assert not any(small(count, fewest) for count in kinds)
    for block in groups:
        found = [case for case in block if case.asd_mm is not None]
        assert not small(behind(case.dsc for case in found), fewest)
        if sums.hd95_mm.count:
            assert not small(sum((case.hd95_mm or 0) > 0 for case in found), fewest)
        if sums.nsd.count:
            assert not small(behind(case.nsd for case in found), fewest)
            assert not small(sum(case.nsd < 1 for case in found), fewest)


@given(BLOCKS, FEWEST)
def test_what_may_leave_passes_the_way_out(blocks: list[list[OrganScore]], fewest: int) -> None:
    kept, sums = score_sums(blocks, fewest)
    report = EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": sum(len(blocks[n]) for n in kept)},
        scores={"validation": {"organ": OrganSums()}, "test": {"organ": sums}},
    )
    # Both checks: of the groups, and of what the numbers must be to each other.
    consistent_evaluation(report)
    refuse_small_groups(report, PROTOCOL, fewest)


EXPECTED = st.lists(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9), max_size=3
)


@given(EXPECTED, FEWEST)
def test_no_expected_dsc_is_of_a_small_group(
    blocks: list[list[tuple[float, float]]], fewest: int
) -> None:
    blocks = [block for block in blocks if len(block) >= fewest]  # whose DSC leave
    sums = expected_beside(blocks, fewest)
    assert sums.validation.count in (0, sum(map(len, blocks)))
    if sums.validation.count:
        for block in blocks:
            assert not small(behind([e for e, _ in block]), fewest)
            assert not small(behind([e * t for e, t in block]), fewest)
    true = ScoreSum.of(t for block in blocks for _, t in block)
    report = EvaluationReport(
        seconds=1.0,
        cases={"validation": true.count, "test": 0},
        scores={"validation": {"organ": OrganSums(dsc=true)}, "test": {"organ": OrganSums()}},
        expected={"softmax": {"organ": sums}},
    )
    consistent_evaluation(report)


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
