"""What a study asks for beyond a site's limits: found before anything is stored, and cheaply."""

import resource
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asdnet_models.catalogue import NETWORKS
from client.node.guard import limits as guard
from client.node.guard.limits import broken_by_cases, broken_limits, closed
from protocol.config.limits import SiteLimits
from protocol.config.presets import preset
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged

PAPER = StudyProtocol()


def site(**limits: Any) -> SiteConfig:
    folder = Path("/nowhere")
    return SiteConfig(
        site="A", data=folder, cache=folder, state=folder, limits=SiteLimits(**limits)
    )


def broken(change: dict[str, Any], **limits: Any) -> list[str]:
    return broken_limits(site(**limits), merged(PAPER, change))


@pytest.mark.parametrize("name", ["paper", "quick", "planned"])
def test_the_studies_that_are_meant_are_within_the_defaults(name: Any) -> None:
    assert broken_limits(site(), preset(name)) == []


def test_a_study_of_one_step_and_one_patch_is_refused() -> None:
    """The update would be the gradient of one patient's patch."""
    found = broken({"training": {"local_steps": 1, "batch_size": 1, "views": "none"}})
    assert found == [
        "limits.min_local_steps of A.yaml: training.local_steps is 1, this site allows 10 at least;"
        " have the centre train longer between two updates: short ones show single patches",
        "limits.min_patches of A.yaml: training.local_steps * batch_size is 1 patches, this site"
        " allows 20 at least; have the centre train longer between two updates: short ones show"
        " single patches",
    ]
    # One step on many patches, and many on few.
    assert len(broken({"training": {"local_steps": 1, "batch_size": 32}})) == 1
    assert len(broken({"training": {"local_steps": 19, "batch_size": 1}})) == 1
    assert broken({"training": {"local_steps": 10, "batch_size": 2}}) == []


@pytest.mark.parametrize(
    ("change", "limit", "found"),
    [
        ({"training": {"rounds": 1001}}, "max_rounds", "training.rounds is 1,001"),
        ({"training": {"local_steps": 10**5}}, "max_local_steps", "local_steps is 100,000"),
        ({"training": {"batch_size": 33}}, "max_batch", "training.batch_size is 33"),
        (
            {"patch_voxels": (136, 128, 128)},
            "max_patch_voxels",
            "patch_voxels (136 x 128 x 128) is 2,228,224",
        ),
        ({"network": {"width": 65, "kernel": 3}}, "max_width", "network.width is 65"),
        ({"confidence": {"width": 65}}, "max_width", "confidence.width is 65"),
        ({"training": {"lr_segmenter": 0.02}}, "max_learning_rate", "lr_segmenter is 0.02"),
        ({"training": {"lr_confidence": 1.0}}, "max_learning_rate", "lr_confidence is 1"),
        ({"aggregation": {"max_update": 11}}, "max_update", "aggregation.max_update is 11"),
    ],
)
def test_each_setting_has_a_limit(change: dict[str, Any], limit: str, found: str) -> None:
    lines = broken(change, max_memory_gib=1e6, max_parameters=10**12)
    assert len(lines) == 1
    assert lines[0].startswith(f"limits.{limit} of A.yaml: ")
    assert found in lines[0]
    assert lines[0].endswith("; have the centre ask for less, or raise the limit")
    raised: Any = getattr(SiteLimits(), limit) * 200
    assert broken(change, max_memory_gib=1e6, max_parameters=10**12, **{limit: raised}) == []


def test_parameters_and_memory_are_limited() -> None:
    wide = {"network": {"architecture": "vnet", "width": 32}, "patch_voxels": (128, 128, 128)}
    parameters, memory = broken(wide)
    assert "max_parameters of A.yaml: the networks have 18" in parameters  # 4 * 45.6 M
    assert ",000 at most" in parameters
    assert "max_memory_gib of A.yaml: a training step takes about " in memory
    assert broken(wide, max_parameters=2 * 10**8, max_memory_gib=1000) == []


def test_steps_in_parts_take_less_memory() -> None:
    config = site(max_memory_gib=2.0)
    study = merged(PAPER, {"training": {"batch_size": 16}})
    assert len(broken_limits(config, study)) == 1
    assert broken_limits(config.model_copy(update={"accumulate": 8}), study) == []


@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_largest_study_that_can_be_written_is_looked_at_at_no_cost(architecture: str) -> None:
    """Its weights alone would be tens of GB, a step millions of GiB."""
    content = PAPER.model_dump() | {"organs": {f"organ{n}": n for n in range(1, 256)}}
    worst = merged(
        StudyProtocol.model_validate(content),
        {
            "network": {"architecture": architecture, "width": 256, "kernel": 5},
            "confidence": {"width": 256},
            "patch_voxels": (1024, 1024, 1024),
            "training": {"batch_size": 1024, "local_steps": 10**5, "rounds": 10**5},
        },
    )
    broken_limits(site(), PAPER)  # imports
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = broken_limits(site(), worst)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
    assert [line.partition(" of ")[0].removeprefix("limits.") for line in found] == [
        *("max_rounds", "max_local_steps", "max_batch", "max_patch_voxels"),
        *("max_width", "max_width", "max_parameters", "max_memory_gib"),
    ]


def test_a_network_that_cannot_be_looked_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def values_needed(*_: object) -> None:
        raise NotImplementedError("no value")

    monkeypatch.setattr(guard, "footprint", values_needed)
    [line] = broken({})
    assert "cannot be estimated (NotImplementedError)" in line


# ---- cases --------------------------------------------------------------------------------------


def plan(*, ramp: float) -> RoundPlan:
    return RoundPlan(round=1, lr_factor=1.0, adversarial_ramp=ramp, region_ramp=ramp)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "ramp", "enough"),
    [
        (3, 0, 0.0, True),
        (2, 0, 1.0, False),
        (2, 1, 1.0, True),
        # In warm-up unlabelled cases rest, and the update is of two patients.
        (2, 40, 0.0, False),
        (0, 3, 1.0, True),
        (0, 2, 1.0, False),
        (0, 40, 0.0, False),
    ],
)
def test_an_update_rests_on_enough_cases(
    labelled: int, unlabelled: int, ramp: float, enough: bool
) -> None:
    found = broken_by_cases(site(), labelled, unlabelled, plan(ramp=ramp))
    assert (found == []) is enough


def test_a_site_of_two_cases_is_told_so() -> None:
    assert broken_by_cases(site(), 2, 0) == [
        "limits.min_cases of A.yaml: an update would rest on 2 training cases, this site allows 3"
        " at least; add cases, or leave the study: so few can be read out of an update"
    ]
    assert broken_by_cases(site(), 2, 1) == []
    assert broken_by_cases(site(min_cases=1), 1, 0) == []
    [line] = broken_by_cases(site(), 2, 40, plan(ramp=0.0))
    assert "on 2 training cases; 40 unlabelled ones rest in this round, this site" in line


# ---- hours --------------------------------------------------------------------------------------


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-29T{clock}")


@pytest.mark.parametrize(
    ("clock", "is_open"),
    [
        ("00:00", True),
        ("05:59:59", True),
        ("06:00", False),
        ("11:59", False),
        ("12:00", True),
        ("13:29", True),
        ("13:30", False),
        ("19:59:59", False),
        ("20:00", True),
        ("23:59", True),
    ],
)
def test_hours_go_over_midnight(clock: str, is_open: bool) -> None:
    config = site(hours=("20:00-06:00", "12:00-13:30"))
    assert (not closed(config, at(clock))) is is_open


def test_without_hours_a_site_always_works() -> None:
    assert not any(closed(site(), at(f"{hour:02}:30")) for hour in range(24))


@pytest.mark.parametrize(
    ("clock", "opens"), [("07:00", "12:00"), ("14:00", "20:00"), ("06:00", "12:00")]
)
def test_a_closed_site_says_when_it_opens(clock: str, opens: str) -> None:
    config = site(hours=("20:00-06:00", "12:00-13:30"))
    assert closed(config, at(clock)) == (
        f"limits.hours of A.yaml: it is {clock}, this site allows 20:00-06:00, 12:00-13:30 alone;"
        f" this site works again at {opens}"
    )
    assert closed(config, at("21:00")) == ""


def test_an_aware_time_is_taken_as_local() -> None:
    config = site(hours=("20:00-06:00",))
    assert closed(config, at("12:00").astimezone())
    assert "again at 20:00" in closed(config, at("12:00").astimezone())
