"""Studies planned from made fingerprints: what changes with the data, the memory and the time."""

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_fingerprints import flat, made_fingerprint

from protocol.config.presets import preset
from protocol.config.study import StudyProtocol, merged
from protocol.config.study_file import read_study
from protocol.planning.budget import Budget, PlanError, machines_of, parse_memory
from protocol.planning.cost import GIB, step_cost
from protocol.planning.fingerprint import Fingerprint, Share, Spread
from protocol.planning.plan import plan_study
from protocol.planning.rules import (
    BATCH_SHARE,
    COARSER,
    COVER,
    LEAST_LOCAL_STEPS,
    LONG_PREDICTION_S,
    MAX_WIDTH,
    MOST_BATCH,
    MOST_LOCAL_STEPS,
    MOST_VOXELS,
    ONE_PIECE,
    PATCHES_LEAST,
    PATCHES_WIDER,
    PATCHES_WISHED,
    ROUNDS,
    SCAN_COVER,
    STEPS_BEFORE_BATCH,
    TIMES_WIDTH,
    USABLE_MEMORY,
    WIDTHS,
)
from protocol.planning.yaml_writer import plan_yaml, write_study

BASE = preset("planned").model_copy(update={"organs": {"ball": 1}})
AMPLE = Budget(memory_gib=64, minutes_a_round=60)
SHORT = Budget(memory_gib=4, minutes_a_round=0.4)
CARDIAC = made_fingerprint(
    spacing_mm=(1.5, 1.5, 8.0), size=(150.0, 170.0, 10.0), organ_mm=(60.0, 60.0, 60.0)
)


def patches(study: StudyProtocol) -> int:
    training = study.training
    return training.rounds * training.local_steps * training.batch_size


def test_small_scans_with_ample_time_are_one_patch_of_the_widest_network() -> None:
    many = made_fingerprint(gigamacs_s=3000.0).model_copy(update={"labelled": 200})
    study = plan_study({"A": many}, AMPLE, BASE).protocol
    assert study.spacing_mm == (1.0, 1.0, 1.0)
    assert study.patch_voxels == (40, 56, 40)  # nnU-Net's, too
    assert study.network.strides == ((2, 2, 2),) * 3
    assert (study.network.width, study.network.max_width) == (32, 320)
    assert study.training.batch_size > 2
    few = plan_study({"A": made_fingerprint(gigamacs_s=3000.0)}, AMPLE, BASE).protocol
    assert few.training.batch_size == 2  # 5 % of twenty scans are less than two patches
    assert study.evaluation.overlap == 0.5


def test_a_coarse_axis_is_halved_late_and_keeps_its_finest_spacings() -> None:
    varied = CARDIAC.model_copy(
        update={
            "spacing_mm": (
                *CARDIAC.spacing_mm[:2],
                Spread(cases=20, means=(5.0, 8.0, 8.0, 8.0, 10.0)),
            )
        }
    )
    plan = plan_study({"A": varied}, AMPLE, BASE)
    study = plan.protocol
    assert study.spacing_mm == (1.5, 1.5, 5.0)  # the tenth percentile
    assert "coarse" in plan.reasons["spacing_mm"]
    assert study.network.strides is not None
    assert study.network.kernels is not None
    assert study.network.strides[0] == (2, 2, 1)
    assert study.network.kernels[0] == (3, 3, 1)
    assert study.network.kernels[-1] == (3, 3, 3)


@pytest.mark.parametrize("step_seconds", [0.3, 1.0, 3.0])
def test_a_patch_covers_most_of_the_scan_before_the_grid_is_fine(step_seconds: float) -> None:
    site = CARDIAC.model_copy(update={"step_seconds": step_seconds})
    study = plan_study({"A": site}, SHORT, BASE).protocol
    covered_mm = [n * mm for n, mm in zip(study.patch_voxels, study.spacing_mm, strict=True)]
    shares = [mm / spread.means[0] for mm, spread in zip(covered_mm, site.extent_mm, strict=True)]
    assert min(shares) >= SCAN_COVER


def test_without_unlabelled_scans_no_confidence_network_is_trained() -> None:
    with_some, without = (
        plan_study({"A": CARDIAC.model_copy(update={"unlabelled": n})}, AMPLE, BASE) for n in (9, 0)
    )
    assert with_some.protocol.method.trains_confidence
    assert not without.protocol.method.trains_confidence
    assert "no site has unlabelled scans" in without.reasons["method.lambda_region"]


def test_little_time_makes_a_smaller_network_on_a_coarser_grid_and_no_few_steps() -> None:
    quick, slow = (
        plan_study({"A": CARDIAC.model_copy(update={"step_seconds": s})}, SHORT, BASE)
        for s in (1.0, 4.0)
    )
    assert patches(quick.protocol) >= PATCHES_LEAST <= patches(slow.protocol)
    assert slow.protocol.network.width <= quick.protocol.network.width
    assert slow.protocol.spacing_mm[0] > quick.protocol.spacing_mm[0]
    assert slow.protocol.spacing_mm[2] == 8.0  # what is coarse is made no coarser
    assert "site A has time for" in slow.reasons["spacing_mm"]


def test_the_slowest_and_the_smallest_site_decide() -> None:
    fast = made_fingerprint(gigamacs_s=300.0, memory_gib=32)
    slow = made_fingerprint(gigamacs_s=3.0)
    small = made_fingerprint(gigamacs_s=300.0, memory_gib=0.5)
    alone = plan_study({"A": slow}, AMPLE, BASE).protocol
    assert plan_study({"A": slow, "B": fast}, AMPLE, BASE).protocol.network == alone.network
    plan = plan_study({"A": fast, "B": small}, AMPLE, BASE)
    assert step_cost(plan.protocol).bytes <= USABLE_MEMORY * 0.5 * GIB
    assert "at site B" in plan.reasons["network.width"]
    assert plan.protocol.aggregation.min_sites == 2


def test_a_patch_covers_an_organ_and_is_divisible() -> None:
    study = plan_study({"A": CARDIAC}, Budget(memory_gib=4, minutes_a_round=1), BASE).protocol
    for edge, mm, step, whole in zip(
        study.patch_voxels, (60, 60, 60), study.spacing_mm, (150, 170, 10), strict=True
    ):
        assert edge >= min(COVER * mm / step, whole * 1.5 / step * step / 1.5) - 1


def test_evidence_decides_on_windows_and_components() -> None:
    wide = made_fingerprint(wider=15, pieces=15)
    assert (evaluation := plan_study({"A": wide}, AMPLE, BASE).protocol.evaluation)
    assert (evaluation.windows, evaluation.largest_component) == ("body", False)
    whole = plan_study({"A": made_fingerprint()}, AMPLE, BASE).protocol.evaluation
    assert (whole.windows, whole.largest_component) == ("all", True)


def test_the_largest_component_is_planned_by_organ() -> None:
    site = made_fingerprint()
    organ = site.organs["ball"]
    pieces = organ.model_copy(update={"one_component": Share(cases=20, holding=15)})
    torn = site.model_copy(update={"organs": {**site.organs, "vessel": pieces}})
    base = merged(BASE, {"organs": {"ball": 1, "vessel": 2}})
    plan = plan_study({"A": torn}, AMPLE, base)
    assert plan.protocol.evaluation.largest_component == ("ball",)
    assert "vessel 15/20" in plan.reasons["evaluation.largest_component"]


def test_a_site_without_labels_counts_for_the_grid() -> None:
    unlabelled = made_fingerprint(spacing_mm=(2.0, 2.0, 2.0), unlabelled=20).model_copy(
        update={"labelled": 0, "organs": {}}
    )
    study = plan_study({"A": made_fingerprint(), "F": unlabelled}, AMPLE, BASE).protocol
    assert study.spacing_mm == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    ("fingerprints", "budget", "said"),
    [
        ({"A": CARDIAC}, Budget(memory_gib=4, minutes_a_round=0.001), "minutes a round, given"),
        ({"A": CARDIAC}, Budget(memory_gib=0.1, minutes_a_round=60), "give more memory"),
        ({"A": made_fingerprint(memory_gib=0.1)}, AMPLE, "site A has 0.1"),
        ({"A": Fingerprint(labelled=2, unlabelled=0)}, AMPLE, "training cases: A 2"),
        (
            {"A": made_fingerprint().model_copy(update={"organs": {}})},
            AMPLE,
            "labelled cases: A 20",
        ),
        (
            {"A": made_fingerprint().model_copy(update={"step_seconds": 0.0})},
            AMPLE,
            "A does not say how fast",
        ),
    ],
)
def test_what_cannot_be_planned_is_told(
    fingerprints: dict[str, Fingerprint], budget: Budget, said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        plan_study(fingerprints, budget, BASE)


def test_memory_is_read() -> None:
    assert parse_memory("4GiB") == 4
    assert parse_memory("512 MiB") == 0.5
    with pytest.raises(PlanError, match="4 apples"):
        parse_memory("4 apples")
    with pytest.raises(PlanError, match="must be positive"):
        Budget(memory_gib=0, minutes_a_round=1)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["planned", "quick", "paper", "own"]),
    st.tuples(*[st.floats(0.4, 4.0)] * 3),
    st.tuples(*[st.integers(12, 120)] * 3),
    st.integers(1, 50),
)
def test_the_file_reads_back_to_the_study(
    tmp_path_factory: pytest.TempPathFactory,
    base: str,
    spacing: tuple[float, float, float],
    size: tuple[int, int, int],
    rounds: int,
) -> None:
    recipe = merged(BASE, {"training": {"lr_segmenter": 0.0123}, "name": "own"})
    if base != "own":
        recipe = preset(base).model_copy(update={"organs": {"ball": 1}})  # type: ignore[arg-type]
    found = made_fingerprint(spacing_mm=spacing, size=size, gigamacs_s=3000.0)
    budget = Budget(memory_gib=8, minutes_a_round=30, rounds=rounds)
    plan = plan_study({"A": found}, budget, recipe, steps=17)
    path = tmp_path_factory.mktemp("plan") / "study.yaml"
    text = plan_yaml(plan, recipe)
    write_study(path, text)
    assert read_study(path) == plan.protocol
    assert (f"base: {base}" in text) == (base != "own")
    for field in plan.reasons:
        assert f"{field.rpartition('.')[2]}: " in text
    with pytest.raises(FileExistsError):
        write_study(Path(path), "")


def test_a_reason_stands_above_its_value() -> None:
    text = plan_yaml(plan_study({"A": made_fingerprint()}, AMPLE, BASE), BASE)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("local_steps:"):
            assert lines[number - 1].strip().startswith("#")
    assert all(len(line) <= 110 or "kernels" in line for line in lines)
    assert flat(1.0).smallest_part == 4


@pytest.mark.parametrize("minutes", [float("inf"), 1e308, 1e8, 14_401.0])
def test_no_round_is_planned_to_outlast_a_centres_patience(minutes: float) -> None:
    with pytest.raises(PlanError, match="minutes a round must be 14,400"):
        Budget(memory_gib=4, minutes_a_round=minutes)


def test_the_centres_guide_has_the_planners_constants() -> None:
    guide = Path(__file__).parents[4] / "docs" / "guides" / "centre.md"
    text = guide.read_text(encoding="utf-8")
    for said in (
        f"the widest of {', '.join(map(str, WIDTHS))} channels",
        f"up to {TIMES_WIDTH} times as many, and to {MAX_WIDTH}",
        f"to {100 * SCAN_COVER:.0f} % of the scan along each axis",
        f"{COVER} times the largest organ",
        f"| 1 | {100 * SCAN_COVER:.0f} % | {PATCHES_WISHED:,} |",
        f"| 2 | {100 * SCAN_COVER:.0f} % | {PATCHES_LEAST:,} |",
        f"for {PATCHES_WIDER:,} patches",
        f"by {COARSER[1]} to {COARSER[-1]:g} times",
        f"{LEAST_LOCAL_STEPS} to {MOST_LOCAL_STEPS} |",
        f"up to {MOST_BATCH}, where it still leaves {STEPS_BEFORE_BATCH:,} steps, and holds"
        f" {100 * BATCH_SHARE:.0f} %",
        f"within {100 * USABLE_MEMORY:.0f} % of the weakest site's memory",
        f"`--rounds`, else {ROUNDS} |",
        f"in {100 * ONE_PIECE:.0f} % of its cases",
        f"over {LONG_PREDICTION_S:.0f} s at the slowest site",
    ):
        assert said in text


def test_views_of_a_flat_patch_are_turned_any_way_in_its_plane() -> None:
    plan = plan_study({"A": CARDIAC}, AMPLE, BASE)
    assert plan.protocol.training.turn_deg == 180
    assert "flat patch" in plan.reasons["training.turn_deg"]
    weak = merged(BASE, {"training": {"views": "weak"}})
    for base, site in ((weak, CARDIAC), (BASE, made_fingerprint())):
        plan = plan_study({"A": site}, AMPLE, base)
        assert plan.protocol.training.turn_deg == base.training.turn_deg
        assert "training.turn_deg" not in plan.reasons


def test_a_narrow_network_is_slower_than_its_work_says() -> None:
    machines = machines_of({"A": made_fingerprint(gigamacs_s=60.0)}, AMPLE)
    assert machines.seconds(60.0, 16) == pytest.approx(1.0)
    assert machines.seconds(60.0, 8) == pytest.approx(1 / 0.6)


@pytest.mark.parametrize("edge", [200.0, 256.0])
def test_no_patch_has_more_voxels_than_sites_allow_unasked(edge: float) -> None:
    site = made_fingerprint(
        size=(edge, edge, edge), organ_mm=(60.0, 60.0, 60.0), gigamacs_s=3000.0, memory_gib=64.0
    )
    plan = plan_study({"A": site}, AMPLE, BASE)
    assert math.prod(plan.protocol.patch_voxels) <= MOST_VOXELS
    assert min(plan.protocol.spacing_mm) > 1
    assert "which is more than sites allow unasked" in plan.reasons["spacing_mm"]


def test_a_round_is_waited_for_as_long_as_the_steps_that_were_asked_for_take() -> None:
    sites = {"A": made_fingerprint()}
    budget = Budget(memory_gib=4, minutes_a_round=20)
    usual, asked = (plan_study(sites, budget, BASE, steps=n) for n in (None, 40_000))
    assert usual.protocol.aggregation.round_timeout_s == 3600
    assert asked.protocol.aggregation.round_timeout_s > 3600
    assert any("more than the 20 minutes given" in line for line in asked.summary)


def test_turns_that_a_recipe_names_stay() -> None:
    own = merged(BASE, {"training": {"turn_deg": 15}})
    plan = plan_study({"A": CARDIAC}, AMPLE, own)
    assert plan.protocol.training.turn_deg == 15 and "training.turn_deg" not in plan.reasons


def test_a_plan_says_where_memory_is_the_bound_and_sites_have_more() -> None:
    site = made_fingerprint(size=(200.0, 200.0, 200.0), gigamacs_s=3000.0, memory_gib=16.0)
    bound, free = (
        plan_study({"A": site}, Budget(memory_gib=gib, minutes_a_round=60), BASE).summary
        for gib in (2, 16)
    )
    assert any(line.startswith("memory is the bound: with more than 2 GiB") for line in bound)
    assert not any("memory is the bound" in line for line in free)


def test_scans_of_a_few_voxels_are_no_scans() -> None:
    site = made_fingerprint(size=(1.0, 1.0, 1.0), organ_mm=(1.0, 1.0, 1.0))
    with pytest.raises(PlanError, match="no axis is long enough to be halved"):
        plan_study({"A": site}, AMPLE, BASE)
