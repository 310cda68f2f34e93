"""Which numbers may leave: each rule by hand, and the attacks that it is for."""

from dataclasses import replace

import pytest
from made_scores import ABSENT, BESIDE, MADE_UP, MISSED, seen, sums_of

from asdnet_models.metrics import OrganScore
from asdnet_models.reliability import BINS, Reliability
from asdnet_models.sums import FailureCount, OrganSums, ScoreSum, SumCount
from protocol.config.study import StudyProtocol
from protocol.wire.consistency import consistent_evaluation
from protocol.wire.group_checks import refuse_small_groups
from protocol.wire.metrics import allowed_metrics
from protocol.wire.reports import EvaluationReport, ExpectedSums, SiteFacts, TrainReport
from protocol.wire.small_groups import (
    behind,
    difference_sums,
    expected_beside,
    expected_of_scans,
    group_of,
    merged_bins,
    score_sums,
    small,
    withhold_few,
)
from protocol.wire.weights import MessageError

FAR = replace(seen(0.5, 40.0), failure="far_off")
PROTOCOL = StudyProtocol(organs={"prostate": 2, "bladder": 1}, seed=5)
NOTHING = ScoreSum()


def test_every_number_on_the_allow_list_has_a_group() -> None:
    """A new name must say of which cases it is made."""
    groups = {
        kind: {group_of(kind, name) for name in allowed_metrics(kind, PROTOCOL)}
        for kind in ("facts", "train", "evaluate")
    }
    assert groups == {
        "facts": {"census", "boxes"},
        "train": {"census", "work", "labelled", "unlabelled", "both", "scores"},
        "evaluate": {"work", "scores", "expected", "voxels"},
    }
    for kind, name in (("train", "loss/new/sum"), ("facts", "volume/sum"), ("evaluate", "x")):
        with pytest.raises(KeyError, match="of which cases"):
            group_of(kind, name)


def test_small_is_some_but_too_few() -> None:
    assert [small(count, 3) for count in (0, 1, 2, 3)] == [False, True, True, False]
    assert not any(small(count, 1) for count in range(3))


def test_next_to_nothing_is_not_behind_a_sum() -> None:
    assert behind([0.8, 0.9, 0.7]) == 3
    assert behind([10_000, 1, 1]) == 1
    assert (behind([0.0, 0.0]), behind([])) == (0, 0)


# ---- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cases", "why"),
    [
        ([seen(0.8), seen(0.7)], "two cases"),
        ([seen(0.8), MISSED, MISSED], "a sum over three is one patient's DSC"),
        ([seen(0.8), seen(0.6), MISSED], "or two patients'"),
        (
            [seen(0.8), BESIDE, BESIDE],
            "the others' are predicted beside the organ",
        ),
        ([seen(0.9), seen(0.001), seen(0.001)], "or but one voxel into it"),
        ([seen(0.8), ABSENT, ABSENT], "of absent organs DSC is 1"),
        ([MISSED, MISSED, MISSED, ABSENT], "the sum counts the patients without the organ"),
        ([BESIDE, BESIDE, BESIDE, ABSENT], "likewise"),
    ],
)
def test_nothing_of_a_small_group_leaves(cases: list[OrganScore], why: str) -> None:
    assert score_sums([cases], 3) == ([], OrganSums()), why


@pytest.mark.parametrize("odd", [[MISSED], [MISSED, MISSED], [ABSENT], [seen(1.0, 0.0)] * 9])
def test_few_failures_stay_with_all_their_kin(odd: list[OrganScore]) -> None:
    """DSC's count less ASD's would say how many; where few are not perfect, ASD is theirs."""
    cases = [seen(0.8), seen(0.7), seen(0.6), *odd]
    if len(odd) == 9:
        cases = cases[1:]
    _, sums = score_sums([cases], 3)
    assert sums.dsc.count == len(cases)
    assert sums.asd_mm == sums.hd95_mm == NOTHING
    assert sums.failures == (FailureCount(cases=11) if len(odd) == 9 else FailureCount())
    assert sums.dsc.sum == pytest.approx(sum(case.dsc for case in cases))


def test_groups_that_are_large_enough_leave_whole() -> None:
    cases = [seen(0.8, 1.0), seen(0.7, 2.0), seen(0.6, 3.0), MISSED, MISSED, MISSED]
    assert score_sums([cases], 3) == ([0], sums_of(*cases))
    everything = [*cases, *[MADE_UP] * 3, *[BESIDE] * 3, *[ABSENT] * 3]
    assert score_sums([everything], 3) == ([0], sums_of(*everything))
    assert score_sums([[MISSED] * 4], 3) == ([0], sums_of(*[MISSED] * 4))


@pytest.mark.parametrize(
    ("cases", "why"),
    [
        ([*[seen(0.8)] * 9, BESIDE], "one is far off"),
        ([*[seen(0.8)] * 2, *[FAR] * 9], "two are not"),
        ([*[seen(0.8)] * 4, *[MISSED] * 3, MADE_UP], "one was made up"),
        ([*[seen(0.8)] * 4, *[MADE_UP] * 3, MISSED, MISSED], "two were missed"),
    ],
)
def test_few_of_one_kind_of_failure_are_not_counted(cases: list[OrganScore], why: str) -> None:
    """How many have one mask, the counts of DSC and ASD say; how they failed, nothing does."""
    _, sums = score_sums([cases], 3)
    assert sums == replace(sums_of(*cases), failures=FailureCount()), why


def test_few_surfaces_that_differ_are_not_told() -> None:
    """Of a sum of n surface Dice near n, and of HD95 that are mostly 0, the rest is one's."""
    close = replace(seen(0.9, 0.1), hd95_mm=0.0, nsd=1.0)
    cases = [*[close] * 4, replace(seen(0.5, 9.0), nsd=0.6)]
    _, sums = score_sums([cases], 3)
    assert (sums.asd_mm.count, sums.hd95_mm, sums.nsd) == (5, NOTHING, NOTHING)
    _, sums = score_sums([[*cases, *[seen(0.5, 9.0)] * 2]], 3)
    assert (sums.hd95_mm.count, sums.nsd.count) == (7, 7)
    # One within the tolerance, the others nowhere near: the sum is that one's.
    _, sums = score_sums([[*[replace(seen(0.3), nsd=0.0)] * 4, seen(0.3)]], 3)
    assert (sums.dsc.count, sums.nsd) == (5, NOTHING)


def test_each_block_is_judged_by_itself() -> None:
    """Blocks may be subtracted from each other: one of three with two missed is one's score."""
    old, new = [seen(0.8)] * 4, [seen(0.5), MISSED, MISSED]
    kept, sums = score_sums([old, new], 3)
    assert (kept, sums.dsc.count) == ([0], 4)
    # One far off in each: two blocks of one, not one of two.
    kept, sums = score_sums([[*old, BESIDE], [*old, BESIDE], [*old, BESIDE]], 3)
    assert (kept, sums.failures) == ([0, 1, 2], FailureCount())


def test_one_case_is_reported_where_the_site_says_so() -> None:
    assert score_sums([[MISSED]], 1) == ([0], sums_of(MISSED))


# ---- expected DSC -------------------------------------------------------------------------------


def test_expected_dsc_leave_beside_the_true_ones_or_not_at_all() -> None:
    block = [(0.9, 0.8), (0.8, 0.7), (0.7, 0.6)]
    sums = expected_beside([block, block], 3)
    assert (sums.validation.count, sums.products) == (6, pytest.approx(2 * 1.7))
    # One map value behind the sum, or one product: in whichever block, all of it stays.
    for odd in ([(0.9, 0.8), (0.01, 0.8), (0.01, 0.8)], [(0.9, 0.8), (0.9, 0.01), (0.9, 0.01)]):
        assert expected_beside([block, odd], 3) == ExpectedSums()
    assert expected_beside([], 3) == ExpectedSums()


def test_expected_dsc_of_scans_leave_block_by_block() -> None:
    assert expected_of_scans([[0.9, 0.8, 0.7]], 3).count == 3
    assert expected_of_scans([[0.9, 0.8]], 3) == NOTHING
    assert expected_of_scans([[0.9, 0.01, 0.0], [0.5] * 4], 3) == ScoreSum.of([0.5] * 4)


@pytest.mark.parametrize(
    ("expected", "what"),
    [
        (ExpectedSums(validation=ScoreSum.of([0.9] * 2)), "a small group"),
        (ExpectedSums(validation=ScoreSum.of([0.9] * 4)), "other cases than the DSC"),
        (ExpectedSums(unlabelled=ScoreSum.of([0.9] * 2)), "two scans"),
        (ExpectedSums(products=0.5), "products of nothing"),
        (ExpectedSums(unlabelled=ScoreSum(sum=0.5)), "a sum of nothing"),
    ],
)
def test_expected_dsc_of_a_small_group_do_not_pass_the_way_out(
    expected: ExpectedSums, what: str
) -> None:
    report = replace(evaluation(OrganSums()), expected={"softmax": {"bladder": expected}})
    with pytest.raises(MessageError, match="expected/softmax/bladder"):
        refuse_small_groups(report, PROTOCOL, 3)


def test_products_that_none_can_be_are_refused() -> None:
    scores = {"bladder": OrganSums(dsc=ScoreSum.of([0.5] * 3)), "prostate": OrganSums()}
    report = replace(
        evaluation(OrganSums()),
        cases={"validation": 3, "test": 0},
        scores={"validation": scores, "test": dict.fromkeys(scores, OrganSums())},
    )
    own = ScoreSum.of([0.8] * 3)
    for products, fits in ((1.2, True), (1.6, False)):
        told = {"softmax": {"bladder": ExpectedSums(validation=own, products=products)}}
        if fits:
            consistent_evaluation(replace(report, expected=told))
        else:
            with pytest.raises(MessageError, match=r"1\.6 is no sum of products"):
                consistent_evaluation(replace(report, expected=told))
    more = {"softmax": {"bladder": ExpectedSums(validation=ScoreSum.of([0.8] * 4))}}
    with pytest.raises(MessageError, match="is of 4 cases, the DSC of 3"):
        consistent_evaluation(replace(report, expected=more))


# ---- voxels -------------------------------------------------------------------------------------


def bins(right: dict[int, int], wrong: dict[int, int] | None = None) -> Reliability:
    def counts(of: dict[int, int]) -> tuple[int, ...]:
        return tuple(of.get(number, 0) for number in range(BINS))

    return Reliability(right=counts(right), wrong=counts(wrong or {}))


def test_an_organs_volume_cannot_be_put_into_a_bin_of_its_own() -> None:
    """A crafted confidence network gives each patient one value: a bin was its organ's volume."""
    cases = [bins({30: 5012}), bins({20: 4711}), bins({10: 6023})]
    merged = merged_bins(cases, 3)
    assert merged == bins({30: 5012 + 4711 + 6023})


def test_the_volume_of_the_one_patient_that_was_predicted_stays() -> None:
    """A crafted segmenter sees an organ in one scan alone, or next to nothing in the others."""
    assert merged_bins([bins({30: 5012}), bins({}), bins({})], 3) == Reliability()
    assert merged_bins([bins({30: 5012}), bins({30: 1}), bins({31: 2})], 3) == Reliability()
    few_wrong = [bins({30: 50}, {30: 7}), bins({30: 60}), bins({30: 70})]
    assert merged_bins(few_wrong, 3) == Reliability()


def test_bins_of_enough_cases_stay_as_they_are() -> None:
    cases = [bins({31: 90 + n, 28: 50, 3: 9}, {28: 10, 3: 8 + n}) for n in range(3)]
    assert merged_bins(cases, 3) == sum(cases, Reliability())


def test_merged_voxels_stand_in_the_highest_bin() -> None:
    cases = [bins({31: 90, 20: 40}), bins({31: 80, 19: 30}), bins({31: 85, 17: 35})]
    assert merged_bins(cases, 3) == bins({31: 255, 20: 105})
    tail = [bins({31: 90}), bins({31: 80}), bins({31: 85, 2: 20})]
    assert merged_bins(tail, 3) == bins({31: 275})


def test_of_one_case_every_bin_is_counted_where_the_site_says_so() -> None:
    case = bins({30: 5, 4: 1}, {30: 2})
    assert merged_bins([case], 1) == case
    assert merged_bins([], 1) == merged_bins([], 3) == Reliability()


# ---- training -----------------------------------------------------------------------------------

ALL = TrainReport(
    labelled=9,
    unlabelled=9,
    steps=50,
    seconds=1.0,
    losses={
        name: SumCount(sum=3.0, count=50) for name in ("dice", "region", "total", "confidence")
    },
    attention=SumCount(sum=2.0, count=50),
    trusted={"bladder": SumCount(sum=5, count=9)},
)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "left"),
    [
        (9, 9, {"dice", "region", "total", "confidence", "attention", "trusted"}),
        (2, 9, {"region", "trusted"}),  # the total less the region's is the labelled ones'
        (9, 2, {"dice", "attention"}),
        (0, 9, {"dice", "region", "total", "confidence", "attention", "trusted"}),
        (0, 1, {"dice", "attention"}),
    ],
)
def test_what_few_cases_patches_measured_stays(
    labelled: int, unlabelled: int, left: set[str]
) -> None:
    report = withhold_few(ALL, labelled, unlabelled, 3)
    kept = {name for name, total in report.losses.items() if total.count}
    kept |= {"attention"} if report.attention.count else set()
    kept |= {"trusted"} if report.trusted else set()
    assert kept == left


# ---- on the way out -----------------------------------------------------------------------------


def evaluation(sums: OrganSums, cases: int = 6) -> EvaluationReport:
    none = dict.fromkeys(("bladder", "prostate"), OrganSums())
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": cases},
        scores={"validation": none, "test": none | {"bladder": sums}},
    )


def told(**parts: ScoreSum | FailureCount) -> OrganSums:
    return replace(OrganSums(dsc=GOOD), **parts)  # type: ignore[arg-type]


GOOD = ScoreSum(sum=4.0, sum_of_squares=2.9, count=6)
FEW = ScoreSum(sum=1.5, sum_of_squares=1.2, count=2)
FIVE = ScoreSum(sum=5.0, sum_of_squares=5.0, count=5)
SIX = ScoreSum(sum=6.0, sum_of_squares=7.0, count=6)
THREE = ScoreSum(sum=3.0, sum_of_squares=3.0, count=3)


@pytest.mark.parametrize(
    "sums",
    [
        OrganSums(dsc=FEW),
        OrganSums(failures=FailureCount(cases=1)),
        OrganSums(dsc=ScoreSum(sum=0.5)),
        OrganSums(dsc=ScoreSum(sum=4.0, sum_of_squares=1.0, count=6)),
        OrganSums(nsd=SIX),
        told(asd_mm=FEW),
        told(asd_mm=FIVE),
        told(asd_mm=ScoreSum(count=7)),
        told(hd95_mm=SIX),  # without the ASD
        told(asd_mm=SIX, hd95_mm=FIVE),
        told(asd_mm=SIX, hd95_mm=ScoreSum(sum=9.0, sum_of_squares=1.0, count=6)),
        told(nsd=FIVE),
        told(nsd=ScoreSum(sum=1.0)),
        told(failures=FailureCount(cases=5)),
        told(failures=FailureCount(cases=6, missed=1)),
        told(failures=FailureCount(cases=6, missed=2, made_up=2)),
        told(failures=FailureCount(cases=6, far_off=5)),
        told(failures=FailureCount(missed=3)),
        told(asd_mm=SIX, failures=FailureCount(cases=6, missed=3)),
        told(asd_mm=THREE, failures=FailureCount(cases=6, missed=2)),
        told(asd_mm=THREE, failures=FailureCount(cases=6, missed=3, far_off=1)),
    ],
)
def test_scores_of_a_small_group_do_not_pass_the_way_out(sums: OrganSums) -> None:
    with pytest.raises(MessageError, match="at least 3 cases must stand behind"):
        refuse_small_groups(evaluation(sums), PROTOCOL, 3)


def test_voxels_need_cases() -> None:
    report = evaluation(OrganSums(), cases=0)
    with pytest.raises(MessageError, match="of no validation case"):
        refuse_small_groups(replace(report, reliability={"softmax": bins({30: 5012})}), PROTOCOL, 3)
    with pytest.raises(MessageError, match="cases/test: 2"):
        refuse_small_groups(replace(report, cases={"validation": 0, "test": 2}), PROTOCOL, 3)


def test_good_reports_pass_the_way_out() -> None:
    failures = FailureCount(cases=6, far_off=3)
    whole = told(asd_mm=SIX, hd95_mm=SIX, nsd=SIX, failures=failures)
    missed = told(asd_mm=THREE, failures=FailureCount(cases=6, missed=3))
    for sums in (OrganSums(), told(), told(asd_mm=SIX), told(nsd=SIX), whole, missed):
        refuse_small_groups(evaluation(sums), PROTOCOL, 3)
    refuse_small_groups(ALL, PROTOCOL, 3)
    facts = SiteFacts(labelled=3, unlabelled=1, validation=1, test=1)
    refuse_small_groups(facts, PROTOCOL, 3)
    refuse_small_groups(replace(facts, box=(SumCount(sum=1, count=3),) * 6), PROTOCOL, 3)


def test_boxes_and_losses_of_few_cases_do_not_pass_the_way_out() -> None:
    facts = SiteFacts(labelled=2, unlabelled=1, validation=1, test=1)
    for box in ((SumCount(sum=1, count=2),) * 6, (SumCount(sum=1),) * 6):
        with pytest.raises(MessageError, match="box"):
            refuse_small_groups(replace(facts, box=box), PROTOCOL, 3)
    for report in (replace(ALL, labelled=2), replace(ALL, unlabelled=2), replace(ALL, steps=1)):
        with pytest.raises(MessageError, match="measured on patches"):
            refuse_small_groups(report, PROTOCOL, 3)
    # In a warm-up no unlabelled patch is drawn: the total is the labelled cases'.
    warm_up = withhold_few(replace(ALL, unlabelled=2, trusted={}), 9, 0, 3)
    warm_up = replace(warm_up, losses=dict(warm_up.losses) | {"region": SumCount()})
    refuse_small_groups(warm_up, PROTOCOL, 3)


def test_a_comparison_with_the_twin_is_of_enough_cases_that_differ() -> None:
    assert difference_sums([[0.1, -0.2, 0.3]], 3) == SumCount(sum=pytest.approx(0.2), count=3)
    # Two that do not differ: the sum is the third patient's difference.
    assert difference_sums([[0.1, 0.0, 0.0]], 3) == SumCount()
    assert difference_sums([[0.1, 0.2], [0.1] * 3], 3) == SumCount(sum=pytest.approx(0.3), count=3)
    for twin in (SumCount(sum=0.1, count=2), SumCount(sum=0.1)):
        with pytest.raises(MessageError, match="twin: of"):
            refuse_small_groups(replace(ALL, twin=twin), PROTOCOL, 3)
    refuse_small_groups(replace(ALL, twin=SumCount(sum=-0.1, count=3)), PROTOCOL, 3)
