"""Each reason of a plan is true: it names what decided, and numbers that bear it out."""

import re
from functools import cache
from pathlib import Path

import pytest
from made_fingerprints import made_fingerprint

from protocol.config.presets import preset
from protocol.config.study import merged
from protocol.planning.budget import Budget, PlanError
from protocol.planning.fingerprint import Fingerprint
from protocol.planning.plan import Plan, plan_study
from protocol.planning.rules import PATCHES_LEAST, PATCHES_WIDER, PATCHES_WISHED, USABLE_MEMORY
from protocol.planning.yaml_writer import plan_yaml, study_name
from protocol.wording import counted, rounded_up

BASE = preset("planned").model_copy(update={"organs": {"ball": 1}})
CARDIAC = made_fingerprint(
    spacing_mm=(1.5, 1.5, 8.0), size=(230.0, 256.0, 10.0), organ_mm=(60.0, 60.0, 60.0)
)
_TIME = re.compile(r"has time for ([0-9,]+) labelled patches in the study, of ([0-9,]+) wanted")
_MEMORY = re.compile(r"a step takes ([0-9.]+) GiB, of ([0-9.]+) GiB")


@cache
def planned(budget: Budget, *, speed: float = 40.0, steps: int | None = None) -> Plan:
    site = CARDIAC.model_copy(update={"step_seconds": CARDIAC.step_gigamacs / speed})
    return plan_study({"A": site}, budget, BASE, steps=steps)


def patches_against(reason: str) -> list[tuple[int, int]]:
    return [(int(n.replace(",", "")), int(m.replace(",", ""))) for n, m in _TIME.findall(reason)]


@pytest.mark.parametrize("speed", [4.0, 40.0])
@pytest.mark.parametrize(("memory_gib", "rounds"), [(0.4, 20), (4.0, 2)])
def test_what_decided_was_too_much(speed: float, memory_gib: float, rounds: int) -> None:
    try:
        plan = planned(Budget(memory_gib=memory_gib, minutes_a_round=3, rounds=rounds), speed=speed)
    except PlanError:
        return  # says its own reasons
    for field in ("spacing_mm", "patch_voxels", "network.width"):
        reason = plan.reasons[field]
        for has, wanted in patches_against(reason):
            assert has < wanted <= min(PATCHES_WIDER, 500 * rounds)
        for takes, given in _MEMORY.findall(reason):
            assert float(takes) > USABLE_MEMORY * float(given) * 0.98
    own = plan.protocol.spacing_mm == (1.5, 1.5, 8.0)
    assert own == ("coarser than" not in plan.reasons["spacing_mm"])
    decided = bool(_TIME.search(plan.reasons["spacing_mm"]))
    assert own != (decided or bool(_MEMORY.search(plan.reasons["spacing_mm"])))


def test_memory_is_named_where_it_decides_and_time_where_it_does() -> None:
    small = planned(Budget(memory_gib=0.3, minutes_a_round=60), speed=400.0)
    slow = planned(Budget(memory_gib=64, minutes_a_round=1), speed=20.0)
    assert "GiB" in small.reasons["spacing_mm"]
    assert "has time for" not in small.reasons["spacing_mm"]
    assert "has time for" in slow.reasons["spacing_mm"]
    assert "GiB" not in slow.reasons["spacing_mm"]
    for plan in (small, slow):
        # The narrowest that is tried is named, not the one that is taken.
        assert "the narrowest network that is tried (width 8," in plan.reasons["spacing_mm"]


def test_the_rule_of_the_scans_share_is_named_where_it_decides() -> None:
    plan = planned(Budget(memory_gib=4, minutes_a_round=1))
    assert plan.protocol.spacing_mm[0] > 1.5
    assert "A smaller patch would fit there; but patches with 75%" in plan.reasons["spacing_mm"]
    # A scan that is no larger than what its organ needs has no smaller patch.
    site = made_fingerprint(size=(60.0, 60.0, 60.0), organ_mm=(50.0, 50.0, 50.0), gigamacs_s=4.0)
    whole = plan_study({"A": site}, Budget(memory_gib=4, minutes_a_round=1), BASE)
    assert "coarser than" in whole.reasons["spacing_mm"]
    assert "A smaller patch" not in whole.reasons["spacing_mm"]


def test_the_fewer_patches_are_said_to_be_the_least() -> None:
    plan = planned(Budget(memory_gib=4, minutes_a_round=0.2))
    training = plan.protocol.training
    patches = training.rounds * training.local_steps * training.batch_size
    assert PATCHES_LEAST <= patches < PATCHES_WISHED
    assert "of 1,500 wanted at least" in plan.reasons["spacing_mm"]


def test_steps_and_rounds_that_were_asked_for_are_said_to_be_so() -> None:
    free = planned(Budget.given("4GiB", 3, None))
    assert free.reasons["training.rounds"] == "the default"
    asked = planned(Budget.given("4GiB", 3, 2), steps=3)
    assert asked.reasons["training.rounds"] == "as asked"
    assert asked.protocol.training.local_steps == 3
    assert any(line.startswith("6 steps of 2 labelled patches") for line in asked.summary)
    reason = asked.reasons["training.local_steps"]
    assert reason.startswith("as asked: ")
    assert re.search(r"are planned for the [0-9]+ steps that there is time for", reason)
    one = planned(Budget.given("4GiB", 1, 1), speed=400.0, steps=1)
    assert one.summary[0] == "planned for 4 GiB, 1 minute a round, 1 round"
    assert any(
        line.startswith("1 step of 2 labelled patches at each of 1 site") for line in one.summary
    )
    assert one.reasons["evaluation.every_rounds"] == "scores after the only round"


def test_what_is_waited_for_and_scored_says_its_rule() -> None:
    reasons = planned(Budget(memory_gib=4, minutes_a_round=3)).reasons
    assert "2 in the recipe, but here is only one" in reasons["aggregation.min_sites"]
    assert "3 times its 3 minutes, or the recipe's 3600 s" in reasons["aggregation.round_timeout_s"]
    assert reasons["evaluation.every_rounds"].endswith("scores after rounds 5, 10, 15, 20")
    assert "in 0 of 20 scans much is air" in reasons["evaluation.windows"]
    assert "in 50% or more" in reasons["evaluation.windows"]


def test_sites_without_labels_take_no_labelled_patch() -> None:
    bare = {"labelled": 0, "unlabelled": 20, "organs": {}}
    sites = {"A": CARDIAC, "B": CARDIAC, "F": CARDIAC.model_copy(update=bare)}
    plan = plan_study(sites, Budget(memory_gib=4, minutes_a_round=3), BASE)
    assert any("labelled patches at each of 2 sites with labels" in line for line in plan.summary)
    assert "at each site with labels" in plan.reasons["training.local_steps"]


@pytest.mark.parametrize(("labelled", "few"), [(1, True), (9, True), (10, False)])
def test_few_labels_are_said_to_be_few(labelled: int, few: bool) -> None:
    site: Fingerprint = CARDIAC.model_copy(update={"labelled": labelled})
    plan = plan_study({"A": site}, Budget(memory_gib=4, minutes_a_round=3), BASE)
    said = [line for line in plan.summary if line.startswith("few labels: ")]
    assert bool(said) == few
    if labelled == 1:
        assert "few labels: 1 labelled training scan in all; a scan of site A" in said[0]
        once = plan_study({"A": site}, Budget(memory_gib=4, minutes_a_round=3), BASE, steps=1)
        assert "few labels: 1 labelled training scan in all" in once.summary
        assert "seconds of training at the slowest site, A" in once.summary[-2]


def test_the_file_names_the_recipe_that_it_stands_on() -> None:
    budget = Budget(memory_gib=4, minutes_a_round=3)
    lines = plan_yaml(planned(budget), BASE).splitlines()
    network = preset("planned").network.architecture
    at = lines.index(f"  architecture: {network}")
    assert "the recipe's (base: planned)" in lines[at - 1]
    for field in ("supervised", "lr_segmenter", "lr_schedule", "views"):
        assert sum(line.strip().startswith(f"{field}: ") for line in lines) == 1
    own = merged(BASE, {"training": {"lr_segmenter": 0.0123, "views": "none"}, "name": "own"})
    text = plan_yaml(plan_study({"A": CARDIAC}, budget, own), own)
    assert "base:" not in text
    assert "name: own\n" in text
    assert "that of the study planned on" in text
    assert "flips" not in text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("heart", "heart"),
        ("my hearts (2)", "my-hearts-2"),
        (".hidden", "hidden"),
        ("\N{GREEK SMALL LETTER ALPHA}", "planned"),
        ("x" * 80, "x" * 64),
    ],
)
def test_a_study_is_named_after_its_file(text: str, name: str) -> None:
    assert study_name(Path(f"{text}.yaml").stem) == name
    assert BASE.model_validate({**BASE.model_dump(), "name": name}).name == name


def test_numbers_have_their_nouns() -> None:
    assert [counted(n, "round") for n in (1, 2, 1500)] == ["1 round", "2 rounds", "1,500 rounds"]
    assert counted(1.0, "minute") == "1 minute"
    assert counted(2.5, "minute") == "2.5 minutes"
    assert counted(1234.5, "minute") == "1,234 minutes"
    assert counted(2, "labelled patch") == "2 labelled patches"
    assert [f"{rounded_up(x):.3g}" for x in (1.001, 0.0123, 14.0)] == ["1.1", "0.013", "14"]


def test_no_machine_has_more_memory() -> None:
    with pytest.raises(PlanError, match="memory must be 100,000 GiB at most"):
        Budget.given("100000000000000GiB", 1, None)
