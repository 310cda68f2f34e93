"""`asdnet-centre alerts`: what it shows, and what its status is."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from postman import Postman

from server.admin.centre import Centre, create_centre
from server.cli import app
from server.service.alert_settings import read_alert_settings
from server.service.alerts import Alerts, Told


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


def write(centre: Centre, text: str) -> None:
    path = centre.folder / "alerts.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)


def alerts(centre: Centre, *options: str) -> Result:
    return CliRunner().invoke(app, ["alerts", "--centre", str(centre.folder), *options])


def test_a_new_centre_has_nothing_to_alert(centre: Centre) -> None:
    shown = alerts(centre)
    assert shown.exit_code == 0
    assert shown.stdout == (
        "now: nothing to alert\n"
        "no channel is in alerts.yaml of the centre's folder: nothing is sent\n"
    )
    # It only looks.
    assert not (centre.folder / "alerts.jsonl").exists()


def test_it_shows_what_is_the_matter_and_what_was_sent(centre: Centre) -> None:
    write(
        centre,
        "disk_free_gib: 1000000\n"
        "channels: [{name: mail, command: [x]}, {url_from: NO_SUCH_VARIABLE, kinds: [died]}]\n",
    )
    assert "GiB left, less than 1e+06; make room" in alerts(centre).stdout
    assert "(not alerted yet)" in alerts(centre).stdout
    postman = Postman()
    postman.failing.add("NO_SUCH_VARIABLE")
    service = Alerts(centre, read_alert_settings(centre.folder), postman.deliver)
    for _ in range(3):
        service.look(Told(died={"pelvis": "it is started again"}))
    shown = alerts(centre, "--last", "1").stdout
    assert "now: the disk" in shown and "(alert 2, " in shown
    assert "now: the ServerApp of study pelvis died; it is started again (alert 1, " in shown
    assert "\nalert 2, " in shown and "\nalert 1, " not in shown
    assert "(not sent over NO_SUCH_VARIABLE yet)" in alerts(centre).stdout
    assert "channel mail: all kinds\n" in shown
    assert "channel NO_SUCH_VARIABLE: died; the environment has no variable" in shown


def test_a_test_says_which_channel_fails(centre: Centre) -> None:
    good = f"{{name: good, command: ['{sys.executable}', '-c', '']}}"
    write(centre, f"channels: [{good}]")
    shown = alerts(centre, "--test")
    assert (shown.exit_code, shown.stdout) == (0, "channel good: sent\n")
    write(centre, f"channels: [{{name: bad, command: [/nowhere/x]}}, {good}]")
    shown = alerts(centre, "--test")
    assert (shown.exit_code, shown.stdout) == (1, "channel good: sent\n")
    assert "channel bad: not sent (it cannot be started" in shown.stderr
    assert not (centre.folder / "alerts.jsonl").exists()


def test_without_a_channel_a_test_fails(centre: Centre) -> None:
    shown = alerts(centre, "--test")
    assert shown.exit_code == 1 and "write one, such as" in shown.stderr


def test_a_wrong_file_is_status_2(centre: Centre) -> None:
    write(centre, "channel: []")
    shown = alerts(centre)
    assert shown.exit_code == 2 and "channel: unknown key" in shown.stderr
