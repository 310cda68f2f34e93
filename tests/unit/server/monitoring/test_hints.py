"""What is said of a model's scores: each rule by hand, and nothing of a good one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from made_scores import BESIDE, MADE_UP, MISSED, seen, sums_of

from asdnet_models.metrics import OrganScore
from asdnet_models.sums import FailureCount, OrganSums, SumCount
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol, merged
from protocol.wire.reports import EvaluationReport, TrainReport
from server.monitoring.hints import Scans, has_learnt, hints_of
from server.monitoring.progress import round_line
from server.rounds.record import RoundRecord, StudyRecord

ORGANS = {"bladder": 1, "rectum": 2}
GOOD = [seen(0.9)] * 5
# Found, with a second piece far away, which a tenth of the scan's edge is beyond, or not quite.
FAR = OrganScore(dsc=0.6, asd_mm=34.0, hd95_mm=90.0, nsd=0.4, failure="far_off")
STRAY = replace(FAR, asd_mm=24.0, failure=None)


def report(part: str = "test", **organs: list[OrganScore] | OrganSums) -> EvaluationReport:
    scores = {o: s if isinstance(s, OrganSums) else sums_of(*s) for o, s in organs.items()}
    none = dict.fromkeys(scores, OrganSums())
    cases = max(sums.dsc.count for sums in scores.values())
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": 0} | {part: cases},
        scores={"validation": none, "test": none} | {part: scores},
    )


def study(
    sites: Mapping[str, EvaluationReport],
    curve: tuple[float | None, ...] = (0.5, 0.8, 0.8),
    **changes: Any,
) -> StudyRecord:
    protocol = merged(
        StudyProtocol(organs=ORGANS, training={"rounds": len(curve)}),  # type: ignore[arg-type]
        changes,
    )
    rounds = [
        RoundRecord(
            plan=plan_round(protocol, number),
            seconds=1.0,
            bytes_down={},
            bytes_up={},
            reports={},
            left_out={},
            evaluation=sites if number == len(curve) else None,
            validation_dsc=dsc,
        )
        for number, dsc in enumerate(curve, 1)
    ]
    return StudyRecord(
        run="tiny",
        protocol=protocol,
        facts={},
        segmenter={},
        confidence=None,
        rounds=rounds,
        best_round=len(curve),
    )


def only_hint(record: StudyRecord, **measured: OrganSums) -> str:
    (line,) = hints_of(record, measured or None)
    assert "\n" not in line
    return line


def test_of_a_good_model_nothing_is_said() -> None:
    site = report(bladder=GOOD, rectum=GOOD)
    assert hints_of(study({"A": site, "B": site, "C": site})) == ()
    assert hints_of(study({})) == ()


def test_what_lies_far_off_is_said_with_the_setting_that_may_help() -> None:
    sites = {"A": report(bladder=GOOD, rectum=[*GOOD, FAR, FAR]), "B": report(rectum=[*GOOD, FAR])}
    line = only_hint(study(sites))
    assert line == (
        "rectum: 3 of 13 test cases misplaced, ASD 9 mm, HD95 23 mm, DSC 0.83, mean; "
        "with rectum in evaluation.largest_component, what lies apart from its largest piece is "
        "dropped"
    )
    for kept in (True, ["rectum"]):
        line = only_hint(study(sites, evaluation={"largest_component": kept}))
        assert "is kept already" in line
    other = study(sites, evaluation={"largest_component": ["bladder"]})
    assert "with rectum in" in only_hint(other)


def test_failures_of_none_never_stand_beside_a_large_distance() -> None:
    """A scan's edge is far longer than a heart: 24 mm are no failure, and no segmentation."""
    line = only_hint(study({"A": report(rectum=[STRAY] * 4)}))
    assert line.startswith("rectum: ASD 24 mm, HD95 90 mm, DSC 0.60, mean; with rectum in")
    # Failures of too few cases are withheld: the distance is there all the same.
    withheld = replace(sums_of(*[STRAY] * 9, MISSED), failures=FailureCount())
    assert "ASD 24 mm" in only_hint(study({"A": report(rectum=withheld)}))


def test_what_the_setting_does_is_said_where_it_was_measured() -> None:
    record = study({"A": report(rectum=[*GOOD, FAR])})
    better = only_hint(record, rectum=sums_of(*GOOD, seen(0.8, 2.0)))
    assert better.endswith(
        "measured with evaluation.largest_component: ASD 1 mm, HD95 4 mm, DSC 0.88, mean, none "
        "failed: name rectum there"
    )
    worse = only_hint(record, rectum=sums_of(*GOOD, BESIDE))
    assert worse.endswith("DSC 0.75, mean: it does not help")


def test_an_organ_that_is_found_nowhere() -> None:
    nowhere = report(bladder=GOOD, rectum=[MISSED] * 3)
    line = only_hint(study({"A": nowhere, "B": nowhere}))
    assert line.startswith("rectum: found at no site, mean DSC 0.00 of 6 test cases; try ")
    assert "organ_patch_fraction above 0.67" in line
    assert "method.supervised: dice+ce" in line
    assert "an axis where the scans are finer than it (now 1 x 1 x 1 mm)" in line
    assert "windows" not in line
    # What touches it was found, and is wrong.
    line = only_hint(study({"A": nowhere, "B": report(rectum=[seen(0.05)] * 3)}))
    assert line.startswith("rectum: hardly overlaps at any site, mean DSC 0.03 of 6 test cases; ")


def test_no_grid_finer_than_the_scans_and_no_organ_patches_where_a_patch_is_the_scan() -> None:
    """A short-axis heart: slices of 8 mm, which a finer grid would invent."""
    sites = {"A": report(rectum=[MISSED] * 3)}
    record = study(sites, spacing_mm=(2.6, 2.6, 8.0), patch_voxels=(96, 96, 16))
    heart = Scans(spacing_mm=(1.5, 1.5, 8.0), extent_mm=(330.0, 330.0, 80.0))
    (line,) = hints_of(record, scans=heart)
    assert "a finer spacing_mm along x (grid 2.6 mm, scans 1.5 mm), y (grid 2.6 mm" in line
    assert ", z" not in line
    # 250 of 330 mm is over three quarters: an organ is in every patch.
    assert "organ_patch_fraction" not in line
    larger = replace(heart, spacing_mm=(2.6, 2.5, 10.0), extent_mm=(400.0, 330.0, 80.0))
    (line,) = hints_of(record, scans=larger)
    assert "spacing_mm" not in line
    assert "organ_patch_fraction above" in line


def trained(record: StudyRecord, steps: int) -> StudyRecord:
    """So many steps in the first round, at two sites."""
    report = TrainReport(labelled=2, unlabelled=0, steps=steps, seconds=1.0)
    record.rounds[0] = replace(record.rounds[0], reports={"A": report, "B": report})
    return record


def test_of_a_model_that_was_hardly_trained_that_alone_is_said() -> None:
    sites = {"A": report(bladder=GOOD, rectum=[*GOOD, MISSED])}
    line = only_hint(trained(study(sites), 4))
    assert line.startswith("no site trained for more than 4 steps, too few to learn from: ")
    assert (
        "training.rounds (now 3)" in line
        and "unless asked for fewer, a plan takes 750 steps" in line
    )
    assert not has_learnt(trained(study(sites), 4))
    assert only_hint(trained(study(sites), 100)).startswith("rectum: 1 of 6 test cases missed")
    assert has_learnt(trained(study(sites), 100))
    assert not has_learnt(study({"A": report(bladder=[MISSED] * 3, rectum=[seen(0.05)] * 3)}))
    # Nothing is wrong with what needs no more.
    assert hints_of(trained(study({"A": report(bladder=GOOD, rectum=GOOD)}), 4)) == ()


def test_an_organ_missed_in_some_cases() -> None:
    sites = {"A": report(rectum=[*GOOD, MISSED, MISSED])}
    assert only_hint(study(sites)).startswith("rectum: 2 of 7 test cases missed; try ")
    line = only_hint(study(sites, evaluation={"windows": "organs"}))
    assert "evaluation.windows: body" in line


def test_an_organ_made_up() -> None:
    line = only_hint(study({"A": report(rectum=[*GOOD, MADE_UP])}))
    assert "rectum: 1 of 6 test cases has it in the prediction alone" in line


def test_a_site_far_below_the_others() -> None:
    good = report(bladder=GOOD, rectum=GOOD)
    sites = {"A": good, "B": good, "C": report(bladder=[seen(0.5)] * 4)}
    line = only_hint(study(sites))
    assert line.startswith("site C: mean DSC 0.50 of its test cases, the others 0.90 to 0.90;")
    assert "asdnet-site check" in line
    # Of two nobody knows which is odd.
    assert hints_of(study({"A": sites["A"], "C": sites["C"]})) == ()


def test_validation_cases_are_looked_at_where_there_is_no_test_case() -> None:
    line = only_hint(study({"A": report("validation", rectum=[*GOOD, MISSED])}))
    assert line.startswith("rectum: 1 of 6 validation cases missed")


@pytest.mark.parametrize(
    ("curve", "rises"),
    [
        ((0.3, 0.5, 0.7, 0.74, 0.76, 0.78), True),
        ((0.3, 0.7, 0.78, 0.78, 0.785, 0.79), False),  # levelled out
        ((0.3, 0.5, 0.7, 0.74, 0.85, 0.78), False),  # better before
        ((0.3, None, None, None, None, 0.78), False),  # two points
        ((None, None, None, 0.5, 0.6, 0.7), True),
        ((None,) * 6, False),
    ],
)
def test_a_validation_score_that_still_rises(curve: tuple[float | None, ...], rises: bool) -> None:
    record = study({"A": report(bladder=GOOD)}, curve)
    lines = hints_of(record)
    assert len(lines) == rises
    if rises:
        assert lines[0].startswith("validation DSC still rose, from ")
        record.rounds.pop(0)  # a study that stopped early has not had its rounds
        assert hints_of(record) == ()


# ---- unlabelled scans that harm -----------------------------------------------------------------


def compared(*rounds: Mapping[str, float], steps: int = 100) -> StudyRecord:
    """A good study in whose rounds sites' updates differ by so much from their twins'."""
    record = study({"A": report(bladder=GOOD)}, curve=(0.8,) * len(rounds))
    for number, of_round in enumerate(rounds):
        reports = {
            site: TrainReport(
                labelled=3,
                unlabelled=9,
                steps=steps,
                seconds=1.0,
                twin=SumCount(sum=3 * mean, count=3),
            )
            for site, mean in of_round.items()
        }
        record.rounds[number] = replace(record.rounds[number], reports=reports)
    return record


def test_harm_is_said_with_its_size_and_what_to_change() -> None:
    line = only_hint(compared({"A": -0.010, "B": -0.012}, {"A": -0.014}))
    assert line.startswith(
        "unlabelled scans harm at sites A, B: with them the validation DSC of a round's update is "
        "-0.012 ± 0.001 against the same round without, over 3 comparisons in rounds 1 to 2; try a "
        "method.gamma above 0.2, a method.lambda_region below 0.3, fewer training.rounds than 2"
    )


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        ({"name": "copy-paste", "gate": "mask"}, "method.gamma above 0.2, a"),
        ({"name": "copy-paste", "gate": "none"}, "try method.gate mask, a"),
        ({"name": "copy-paste", "gate": "weight"}, "try a method.lambda_region"),
        ({"name": "mean-teacher"}, "try a method.lambda_region"),
        ({"name": "semi-fcn"}, "try a method.lambda_region"),
    ],
)
def test_what_to_change_is_a_setting_that_the_method_has(
    method: dict[str, str], advice: str
) -> None:
    record = compared({"A": -0.010, "B": -0.012}, {"A": -0.014})
    record.protocol = merged(record.protocol, {"method": method})
    assert advice in only_hint(record)


@pytest.mark.parametrize(
    ("rounds", "why"),
    [
        ([{"A": -0.05, "B": -0.05}], "two comparisons"),
        ([{"A": -0.10, "B": 0.05}, {"A": 0.02}], "as large as chance"),
        ([{"A": -0.001, "B": -0.001}, {"A": -0.001}], "sure, and nothing to speak of"),
        ([{"A": -0.05}] * 3 + [{"A": 0.01, "B": 0.012}] * 3, "over since three rounds"),
        ([{}, {}, {}], "no site has a twin"),
    ],
)
def test_of_less_than_harm_nothing_is_said(rounds: list[Mapping[str, float]], why: str) -> None:
    assert hints_of(compared(*rounds)) == (), why


def test_harm_shows_while_the_study_runs() -> None:
    record = compared({"A": -0.010, "B": -0.012}, {"A": -0.014})
    assert "unlabelled scans harm: validation DSC -0.012 ± 0.001" in round_line(record)
    assert "harm" not in round_line(compared({"A": 0.010, "B": 0.012}, {"A": 0.014}))
