"""Alerts: a person hears once of what a federation that nobody watches cannot mend by itself.

The service's loop calls `Alerts.look` as often as it likes.  It returns at once: what is sent is
sent by processes of their own.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from protocol.escaping import printable
from reporting.unexpected import log_unexpected, unexpected_place
from server.admin.centre import Centre
from server.service.alert_channels import Delivery, Outbox
from server.service.alert_log import LOG_FILE, Alert, AlertLog
from server.service.alert_rules import (
    Condition,
    RunRules,
    certificate_conditions,
    disk_conditions,
    told_conditions,
)
from server.service.alert_settings import AlertSettings, Channel, Kind

log = logging.getLogger(__name__)

_OF_RUNS: tuple[Kind, ...] = ("finished", "left_out_twice", "no_improvement")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the caller knows and no file says; as long as it holds, at every look.

    None: not known now, so that nothing of the kind begins or ends.  The words go into the alert's
    sentence: they must hold no path and no text of an exception.

    Attributes:
        died: By study whose ServerApp died, what happens next, as "it is started again".
        needs_you: By study that cannot go on, what a person has to do.
        site_absent: By site, since when, as "for 7 hours".
    """

    died: Mapping[str, str] | None = None
    needs_you: Mapping[str, str] | None = None
    site_absent: Mapping[str, str] | None = None


_NOTHING = Told()


class Alerts:
    """The alerts of one centre.

    Args:
        centre: The centre.
        settings: Of its alerts.yaml.
        deliver: Sends one alert over one channel.
    """

    def __init__(
        self,
        centre: Centre,
        settings: AlertSettings,
        deliver: Callable[[Channel, Alert], Delivery] = Delivery,
    ) -> None:
        self._centre, self._settings = centre, settings
        self._runs = RunRules(centre.runs, settings)
        self._failed: dict[str, str] = {}
        self.log = AlertLog(centre.folder / LOG_FILE)
        self._outboxes = {
            name: Outbox(name, partial(deliver, channel), self.log)
            for name, channel in settings.by_name.items()
        }
        for number, channels in self.log.waiting.items():
            for name in sorted(channels & self._outboxes.keys()):
                self._outboxes[name].put(self.log.alerts[number])

    def look(self, told: Told = _NOTHING, now: datetime | None = None) -> list[Alert]:
        """Alert what is new, and see to what has still to be sent; no error of a rule is raised.

        Args:
            told: What the caller knows.
            now: The time, with its zone.

        Returns:
            The new alerts.
        """
        now = now or datetime.now(UTC)
        self.log.begin(now)
        conditions, unknown = self.conditions(told, now)
        self.log.end_others(conditions, unknown, now)
        new = [self._alert(condition, now) for condition in self.log.due(conditions, now)]
        for outbox in self._outboxes.values():
            outbox.look(now)
        return new

    def conditions(self, told: Told, now: datetime) -> tuple[list[Condition], set[Kind]]:
        """What is the matter now, and of which kinds that is not known."""
        folder, settings = self._centre.folder, self._settings
        rules: list[tuple[tuple[Kind, ...], Callable[[], list[Condition]]]] = [
            (_OF_RUNS, lambda: self._runs.conditions(self.log.since(now))),
            (
                ("certificate",),
                lambda: certificate_conditions(self._centre, settings.certificate_days, now),
            ),
            (("disk",), lambda: disk_conditions(folder, settings.disk_free_gib)),
        ]
        found: list[Condition] = []
        unknown: set[Kind] = set()
        given: dict[Kind, Mapping[str, str] | None] = {
            "died": told.died,
            "needs_you": told.needs_you,
            "site_absent": told.site_absent,
        }
        for kind, words in given.items():
            if words is None:
                unknown.add(kind)
            else:
                found += told_conditions(kind, words)
        for kinds, rule in rules:
            try:
                found += rule()
                self._failed.pop(kinds[0], None)
            except Exception as error:
                self._say_once(kinds[0], error)
                unknown.update(kinds)
        return found, unknown

    def wait(self, now: datetime | None = None) -> None:
        """For what is on its way, at most its time limit."""
        for outbox in self._outboxes.values():
            outbox.wait(now or datetime.now(UTC))

    def close(self) -> None:
        """End what is on its way; it is sent again after the next start."""
        for outbox in self._outboxes.values():
            outbox.close()

    def _alert(self, condition: Condition, now: datetime) -> Alert:
        channels = self._settings.by_name
        wanted = [name for name in channels if condition.kind in channels[name].kinds]
        alert = self.log.add(condition, wanted, now)
        for name in wanted:
            self._outboxes[name].put(alert)
        log.warning("alert %d: %s", alert.number, printable(alert.message))
        return alert

    def _say_once(self, rule: str, error: Exception) -> None:
        """Not at every look: until it goes well, or goes wrong elsewhere."""
        place = unexpected_place(error)
        if self._failed.get(rule) != place:
            self._failed[rule] = place
            log.error(
                "alerts: %s could not be looked at (%s); %s", rule, place, log_unexpected(error)
            )
