"""What is the matter: of runs, certificates and the disk."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.admin.centre import Centre
from server.monitoring.run_folder import RunFolder
from server.service import alert_rules
from server.service.alert_rules import (
    Condition,
    RunRules,
    certificate_conditions,
    disk_conditions,
    run_conditions,
    told_conditions,
)
from server.service.alert_settings import AlertSettings

Event = dict[str, Any]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def round_event(number: int, left_out: dict[str, str] | None = None, **dsc: float) -> Event:
    """A round of which each site that is named has scored one organ."""
    return {
        "kind": "round",
        "round": number,
        "left_out": left_out or {},
        "validation_dsc": {site: {"bladder": value} for site, value in dsc.items()},
    }


def conditions(events: list[Event], **settings: Any) -> list[Condition]:
    return run_conditions("pelvis", events, 20, AlertSettings(**settings))


def kinds(events: list[Event], **settings: Any) -> list[str]:
    return [condition.kind for condition in conditions(events, **settings)]


def test_a_site_is_left_out_twice_in_a_row() -> None:
    away = {"B": "offline"}
    assert kinds([round_event(1, away)]) == []
    assert kinds([round_event(1, away), round_event(2)]) == []
    assert kinds([round_event(1, away), round_event(2), round_event(3, away)]) == []
    assert kinds([round_event(1, away), round_event(2, {"C": "offline"})]) == []
    (found,) = conditions([round_event(1), round_event(2, away), round_event(3, away)])
    assert (found.kind, found.study, found.site) == ("left_out_twice", "pelvis", "B")
    assert "rounds 2 and 3" in found.message and "(offline)" in found.message


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("ScanError", "ScanError"),
        ("no answer within 3600 s", "no answer within 3600 s"),
        ("offline for over 1e+03 s", "offline for over 1e+03 s"),
        ("/data/Smith_John.nii: dice is 7", "its answer was refused"),
        ("offline for over 60 s\nSubject: x", "its answer was refused"),
    ],
)
def test_why_is_said_in_the_centre_s_own_words(reason: str, shown: str) -> None:
    left_out = {"B": reason}
    (found,) = conditions([round_event(1, left_out), round_event(2, left_out)])
    assert f"({shown})" in found.message


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"kind": "finished", "reason": ""}, "has finished; read it: asdnet-centre report pelvis"),
        ({"kind": "failed", "reason": "OSError: /data/Smith"}, "failed; the SuperLink's log"),
        ({"kind": "stopped", "reason": "round 2: 1 site of Smith"}, "stopped early"),
        ({"kind": "stopped", "reason": "by a person"}, "ended by a person"),
    ],
)
def test_the_end_of_a_study_is_told_without_the_error_s_text(event: Event, words: str) -> None:
    (found,) = conditions([round_event(1), event])
    assert (found.kind, found.what) == ("finished", event["kind"])
    assert words in found.message and "Smith" not in found.message
    assert found.message.endswith("(1 of 20 rounds done)")
    # It goes on.
    assert conditions([round_event(1), event, {"kind": "online"}]) == []


def test_no_improvement_counts_rounds_with_scores() -> None:
    events = [round_event(1, A=0.5), round_event(2), round_event(3, A=0.5), round_event(4)]
    assert kinds(events, no_improvement_rounds=2) == []
    (found,) = conditions([*events, round_event(5, A=0.4)], no_improvement_rounds=2)
    assert found.kind == "no_improvement"
    assert "for 2 rounds with scores, since round 1" in found.message
    better = [*events, round_event(5, A=0.4), round_event(6, A=0.51)]
    assert kinds(better, no_improvement_rounds=2) == []


def test_scores_are_compared_on_the_sites_of_both() -> None:
    first = round_event(1, A=0.9, B=0.1)
    # The mean is higher because B is away, and A is not better.
    assert kinds([first, round_event(2, A=0.9)], no_improvement_rounds=1) == ["no_improvement"]
    assert kinds([first, round_event(2, A=0.91)], no_improvement_rounds=1) == []
    assert kinds([first, round_event(2, C=0.99)], no_improvement_rounds=1) == ["no_improvement"]


def test_a_certificate_is_told_as_often_as_it_is_near_its_end(centre: Centre) -> None:
    now = datetime.now(UTC)
    assert certificate_conditions(centre, 30, now) == []
    (soon,) = certificate_conditions(centre, 30, now + timedelta(days=380))
    assert soon.what == "server" and "ends in 16 days" in soon.message
    assert "asdnet-centre renew" in soon.message
    server, authority = certificate_conditions(centre, 30, now + timedelta(days=4000))
    assert "has ended" in server.message and authority.what == "CA"
    centre.server_file.write_text("no certificate", encoding="ascii")
    (broken,) = certificate_conditions(centre, 30, now)
    assert "cannot be read" in broken.message and str(centre.folder) not in broken.message


def test_the_disk(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 3 * 2**30})
    monkeypatch.setattr(alert_rules.shutil, "disk_usage", lambda folder: free)
    assert disk_conditions(centre.folder, 3.0) == []
    (found,) = disk_conditions(centre.folder, 3.5)
    assert "3.0 GiB left, less than 3.5" in found.message


def test_what_the_caller_tells_is_one_line() -> None:
    (died,) = told_conditions("died", {"pelvis": "it is started again"})
    assert died.study == "pelvis" and died.message.endswith("died; it is started again")
    (absent,) = told_conditions("site_absent", {"B": "for 7 hours\nSubject: x"})
    assert (absent.site, absent.study) == ("B", "")
    assert "\n" not in absent.message


def test_runs_are_read_when_they_have_changed(
    centre: Centre, ended_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, read = RunRules(centre.runs, AlertSettings()), []
    plain = alert_rules.read_events
    monkeypatch.setattr(alert_rules, "read_events", lambda path: read.append(path) or plain(path))
    assert [c.kind for c in rules.conditions(LONG_AGO)] == ["finished"]
    assert [c.kind for c in rules.conditions(LONG_AGO)] == ["finished"] and len(read) == 1
    ended_run.add_event("online", sites=[], awaited=2)
    assert rules.conditions(LONG_AGO) == [] and len(read) == 2


def test_what_ended_before_is_nobody_s_business(centre: Centre, ended_run: RunFolder) -> None:
    rules = RunRules(centre.runs, AlertSettings())
    assert rules.conditions(datetime.now(UTC) + timedelta(hours=1)) == []
    assert rules.conditions(datetime.now(UTC) - timedelta(hours=1)) != []


def test_a_run_that_only_asks_for_a_plan_and_a_damaged_one_are_none(
    centre: Centre, ended_run: RunFolder
) -> None:
    facts, _ = ended_run.read()
    ended_run.write(facts.model_copy(update={"asks": "fingerprint"}))
    assert RunRules(centre.runs, AlertSettings()).conditions(LONG_AGO) == []
    (ended_run.path / "run.json").write_text("{", encoding="utf-8")
    assert RunRules(centre.runs, AlertSettings()).conditions(LONG_AGO) == []


def test_what_the_service_keeps_is_tried_again_by_itself() -> None:
    events = [round_event(1), {"kind": "stopped", "reason": "too few"}]
    (kept,) = run_conditions("pelvis", events, 20, AlertSettings(), kept=True)
    (other,) = run_conditions("pelvis", events, 20, AlertSettings())
    assert "it is tried again by itself" in kept.message and "resume pelvis" not in kept.message
    assert "go on with: asdnet-centre resume pelvis" in other.message
