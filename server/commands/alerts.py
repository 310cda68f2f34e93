"""`asdnet-centre alerts`: what is the matter now, what was alerted, and whether alerts arrive."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reporting.terminal import make_console, print_errors, user_errors
from server.admin.centre import CENTRE, CentreError, read_centre
from server.service.alert_settings import (
    ALERTS_FILE,
    KINDS,
    AlertsError,
    AlertSettings,
    read_alert_settings,
)

if TYPE_CHECKING:
    from server.service.alert_log import Alert, AlertLog

_TEST = "this is a test; nothing is the matter, and alerts arrive here"


def alerts(
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
    last: Annotated[int, typer.Option(min=0, help="So many of the last alerts are shown.")] = 10,
    test: Annotated[
        bool, typer.Option("--test", help="Send a test alert over every channel, and wait for it.")
    ] = False,
) -> None:
    """Show what would be alerted now and what was, or send a test.

    What only the running service knows (died, needs_you, site_absent) is shown once it has alerted
    it.
    Exit status 1: a channel has failed.
    Exit status 2: there is no such centre, or its alerts.yaml is wrong.
    """
    with user_errors(CentreError, AlertsError):
        home = read_centre(centre)
        settings = read_alert_settings(home.folder)
        if test:
            raise typer.Exit(1 if _test(settings) else 0)
        from server.service.alerts import Alerts, Told

        known = Alerts(home, settings)
        now = datetime.now(UTC)
        conditions, unknown = known.conditions(Told(), now)
        console = make_console()
        lasting = known.log.lasting()
        for condition in conditions:
            console.print(f"now: {condition.message} ({_state(lasting.get(condition.key))})")
        told = [alert for alert in lasting.values() if alert.kind in unknown]
        for alert in told:
            console.print(f"now: {alert.message} ({_state(alert)})")
        if not conditions and not told:
            console.print("now: nothing to alert")
        for alert in list(known.log.alerts.values())[max(0, len(known.log.alerts) - last) :]:
            console.print(_shown(alert, known.log))
        _show_channels(settings)


def _state(alert: "Alert | None") -> str:
    return f"alert {alert.number}, {_time(alert)}" if alert else "not alerted yet"


def _time(alert: "Alert") -> str:
    return f"{alert.time:%Y-%m-%d %H:%M} UTC"


def _shown(alert: "Alert", log: "AlertLog") -> str:
    missing = ", ".join(sorted(log.waiting[alert.number]))
    state = f" (not sent over {missing} yet)" if missing else ""
    return f"alert {alert.number}, {_time(alert)}, {alert.kind}: {alert.message}{state}"


def _show_channels(settings: AlertSettings) -> None:
    console = make_console()
    for name, channel in settings.by_name.items():
        lacking = channel.command is None and not channel.target(os.environ)
        note = f"; the environment has no variable {channel.url_from}" if lacking else ""
        kinds = "all kinds" if channel.kinds == KINDS else ", ".join(channel.kinds)
        console.print(f"channel {name}: {kinds}{note}")
    if not settings.channels:
        console.print(f"no channel is in {ALERTS_FILE} of the centre's folder: nothing is sent")


def _test(settings: AlertSettings) -> bool:
    """Whether a channel has failed, or there is none."""
    from server.service.alert_channels import Delivery
    from server.service.alert_log import Alert

    if not settings.channels:
        print_errors(
            f"no channel is in {ALERTS_FILE} of the centre's folder; write one, such as"
            " `channels: [{url_from: ALERT_URL}]`"
        )
        return True
    alert = Alert(number=0, time=datetime.now(UTC), kind="test", message=_TEST)
    under_way = {name: Delivery(channel, alert) for name, channel in settings.by_name.items()}
    failed = False
    for name, delivery in under_way.items():
        if reason := delivery.wait():
            print_errors(f"channel {name}: not sent ({reason})")
            failed = True
        else:
            make_console().print(f"channel {name}: sent")
    return failed
