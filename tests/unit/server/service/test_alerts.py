"""Alerts: each is sent once, over every channel that wants it, whatever fails."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from postman import Postman

from server.admin.centre import Centre
from server.monitoring.run_folder import RunFolder
from server.service import alerts
from server.service.alert_channels import Outbox
from server.service.alert_log import Alert, AlertLog
from server.service.alert_settings import AlertSettings, Channel
from server.service.alerts import Alerts, Told

# Far from the certificates' ends, whenever the test runs.
NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
DIED = Told(died={"pelvis": "it is started again"}, needs_you={}, site_absent={})
NOTHING = Told(died={}, needs_you={}, site_absent={})


def settings(*channels: dict[str, Any], **others: Any) -> AlertSettings:
    given = channels or ({"name": "mail", "command": ["x"]},)
    return AlertSettings.model_validate({"channels": given, "disk_free_gib": 0, **others})


@pytest.fixture
def postman() -> Postman:
    return Postman()


@pytest.fixture
def start(centre: Centre, postman: Postman) -> Callable[..., Alerts]:
    """The service, started anew."""
    return lambda *channels, **others: Alerts(
        centre, settings(*channels, **others), postman.deliver
    )


def test_an_alert_is_sent_once(start: Callable[..., Alerts], postman: Postman) -> None:
    service = start()
    (alert,) = service.look(DIED, NOW)
    assert (alert.number, alert.kind, alert.study) == (1, "died", "pelvis")
    for minutes in range(3):
        assert service.look(DIED, NOW + minutes * MINUTE) == []
    assert postman.sent == [("mail", 1)]


def test_a_restart_sends_nothing_again(start: Callable[..., Alerts], postman: Postman) -> None:
    first = start()
    first.look(DIED, NOW)
    first.look(DIED, NOW)
    assert start().look(DIED, NOW + MINUTE) == [] and postman.sent == [("mail", 1)]


def test_what_was_not_sent_is_sent_after_a_restart(
    start: Callable[..., Alerts], postman: Postman
) -> None:
    postman.failing.add("mail")
    for _ in range(2):
        start().look(DIED, NOW)
    postman.failing.clear()
    service = start()
    service.look(DIED, NOW + MINUTE)
    service.look(DIED, NOW + MINUTE)
    assert postman.sent == [("mail", 1)]
    start().look(DIED, NOW + MINUTE)
    assert postman.sent == [("mail", 1)]


def test_what_ends_and_comes_back_is_told_again_but_not_at_once(
    start: Callable[..., Alerts],
) -> None:
    service = start()
    service.look(DIED, NOW)
    service.look(NOTHING, NOW + MINUTE)
    assert service.look(DIED, NOW + 2 * MINUTE) == []
    service.look(NOTHING, NOW + 3 * MINUTE)
    assert [alert.number for alert in service.look(DIED, NOW + HOUR)] == [2]
    assert service.look(DIED, NOW + 3 * HOUR) == []


def test_what_the_caller_does_not_know_has_not_ended(start: Callable[..., Alerts]) -> None:
    service = start()
    service.look(DIED, NOW)
    service.look(Told(), NOW + MINUTE)
    assert service.look(DIED, NOW + DAY) == []


def test_a_disk_and_a_certificate_are_told_daily_and_others_are_not(
    start: Callable[..., Alerts],
) -> None:
    service = start(disk_free_gib=1e6)
    assert [alert.kind for alert in service.look(DIED, NOW)] == ["died", "disk"]
    assert service.look(DIED, NOW + DAY - MINUTE) == []
    assert [alert.kind for alert in service.look(DIED, NOW + DAY)] == ["disk"]


def test_a_channel_gets_the_kinds_it_wants(start: Callable[..., Alerts], postman: Postman) -> None:
    service = start(
        {"name": "all", "command": ["x"]}, {"name": "disk", "command": ["x"], "kinds": ["disk"]}
    )
    for _ in range(2):
        service.look(DIED, NOW)
    assert postman.sent == [("all", 1)]


def test_a_channel_that_fails_is_tried_with_growing_pauses_and_holds_no_other_up(
    start: Callable[..., Alerts], postman: Postman
) -> None:
    postman.failing.add("bad")
    service = start({"name": "bad", "command": ["x"]}, {"name": "good", "command": ["x"]})
    for minute in range(16):
        service.look(DIED, NOW + minute * MINUTE)
    assert postman.sent == [("good", 1)]
    # It is begun at 0, and noted a minute later: then pauses of 1, 2 and 4 minutes.
    assert postman.tried["bad"] == 4
    assert start().log.waiting[1] == {"bad"}


def test_after_a_week_an_alert_is_given_up(start: Callable[..., Alerts], postman: Postman) -> None:
    postman.failing.add("mail")
    service = start()
    service.look(DIED, NOW)
    service.look(DIED, NOW + 8 * DAY)
    tried = postman.tried["mail"]
    for _ in range(3):
        service.look(DIED, NOW + 9 * DAY)
    assert postman.tried["mail"] == tried and start().log.waiting[1] == set()


def test_one_that_is_never_taken_holds_no_other_up(centre: Centre, postman: Postman) -> None:
    log = AlertLog(centre.folder / "alerts.jsonl")
    outbox = Outbox("mail", lambda alert: postman.deliver(Channel(command=("x",)), alert), log)
    postman.refused.add(1)
    for number in (1, 2):
        outbox.put(Alert(number=number, time=NOW, kind="test", message="m"))
    for minute in range(4):
        outbox.look(NOW + minute * MINUTE)
    assert [number for _, number in postman.sent] == [2]


def test_a_rule_that_fails_stops_nothing_and_ends_nothing(
    start: Callable[..., Alerts],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    service = start(disk_free_gib=1e6)
    service.look(NOTHING, NOW)
    with monkeypatch.context() as broken:
        broken.setattr(alerts, "disk_conditions", lambda *_: 1 / 0)
        caplog.clear()
        assert [alert.kind for alert in service.look(DIED, NOW + MINUTE)] == ["died"]
        service.look(DIED, NOW + MINUTE)
    assert caplog.text.count("disk could not be looked at (ZeroDivisionError") == 1
    # Had it ended, it would be told again after an hour.
    assert service.look(DIED, NOW + 2 * HOUR) == []


def test_a_full_disk_does_not_keep_an_alert_here(
    start: Callable[..., Alerts],
    postman: Postman,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, line: str) -> None:
        raise OSError(28, "No space left on device")

    service = start(disk_free_gib=1e6)
    monkeypatch.setattr("server.service.alert_log.append_line", full)
    for _ in range(2):
        service.look(NOTHING, NOW)
    assert postman.sent == [("mail", 1)] and "no space left on device" in caplog.text


def test_a_torn_line_is_passed_over(start: Callable[..., Alerts], centre: Centre) -> None:
    service = start()
    service.look(DIED, NOW)
    path = centre.folder / "alerts.jsonl"
    path.write_text(path.read_text("utf-8") + '{"event":"ended","ke', "utf-8")
    again = start()
    assert again.look(DIED, NOW + MINUTE) == []
    again.look(NOTHING, NOW + MINUTE)
    assert start().log.lasting() == {}


def test_runs_of_before_the_first_start_are_left_alone(
    start: Callable[..., Alerts], centre: Centre, ended_run: RunFolder
) -> None:
    later = datetime.fromtimestamp(ended_run.events.stat().st_mtime, NOW.tzinfo)
    assert [a.kind for a in start().look(NOTHING, later + 2 * DAY)] == []
    (centre.folder / "alerts.jsonl").unlink()
    assert [a.kind for a in start().look(NOTHING, later + HOUR)] == ["finished"]
    assert start().look(NOTHING, later + 300 * DAY) == []
