"""centre/alerts.jsonl: what was alerted, over which channels it has gone, and what has ended.

A restart reads it, and so sends nothing again.  What cannot be written, on a full disk, is sent
nevertheless.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from asdnet_models.fields import Frozen
from protocol.files import append_line
from server.service.alert_rules import Condition
from server.service.alert_settings import Kind

LOG_FILE = "alerts.jsonl"
# What had happened so long before the first start is alerted too.
_BEFORE = timedelta(days=1)
# What ends and comes back is alerted again after this, not before.
_QUIET = timedelta(hours=1)
_REMINDED: dict[Kind, timedelta] = dict.fromkeys(("certificate", "disk"), timedelta(days=1))

log = logging.getLogger(__name__)


class Alert(Frozen):
    """One alert, as a command gets it on its input."""

    number: int
    time: AwareDatetime
    kind: Kind | Literal["test"]
    study: str = ""
    site: str = ""
    message: str

    @property
    def title(self) -> str:
        """A line for a subject."""
        of = " ".join(filter(None, (self.study, self.site)))
        return f"ASDNet: {self.kind.replace('_', ' ')}{': ' if of else ''}{of}"


class _Begun(Frozen):
    event: Literal["begun"] = "begun"
    time: AwareDatetime


class _Alerted(Frozen):
    event: Literal["alert"] = "alert"
    key: str
    to: tuple[str, ...]
    alert: Alert


class _Ended(Frozen):
    event: Literal["ended"] = "ended"
    key: str
    time: AwareDatetime


class _Sent(Frozen):
    event: Literal["sent"] = "sent"
    number: int
    channel: str
    time: AwareDatetime
    given_up: bool = False


_Line = _Begun | _Alerted | _Ended | _Sent
_LINE: TypeAdapter[_Line] = TypeAdapter(Annotated[_Line, Field(discriminator="event")])


class AlertLog:
    """The state of the alerts of one centre.

    Attributes:
        alerts: All of them, by number.
        waiting: The channels over which each has still to go, by number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: datetime | None = None
        self._last: dict[str, Alert] = {}
        self._ended: set[str] = set()
        self.alerts: dict[int, Alert] = {}
        self.waiting: dict[int, set[str]] = {}
        for line in _lines(path):
            self._take(line)

    def since(self, now: datetime) -> datetime:
        """What had ended before is nobody's business any more."""
        return (self._begun or now) - _BEFORE

    def begin(self, now: datetime) -> None:
        """Once: from now on."""
        if self._begun is None:
            self._add(_Begun(time=now))

    def lasting(self) -> dict[str, Alert]:
        """The last alert of everything that has not ended, by the condition's key."""
        return {key: alert for key, alert in self._last.items() if key not in self._ended}

    def due(self, conditions: Iterable[Condition], now: datetime) -> list[Condition]:
        """What a person has not been told, or is to be told again."""
        return [condition for condition in conditions if self._is_due(condition, now)]

    def _is_due(self, condition: Condition, now: datetime) -> bool:
        if (last := self._last.get(condition.key)) is None:
            return True
        pause = _QUIET if condition.key in self._ended else _REMINDED.get(condition.kind)
        return pause is not None and now - last.time >= pause

    def add(self, condition: Condition, channels: Iterable[str], now: datetime) -> Alert:
        """A new alert, which has to go over these channels."""
        alert = Alert(
            number=max(self.alerts, default=0) + 1,
            time=now.replace(microsecond=0),
            kind=condition.kind,
            study=condition.study,
            site=condition.site,
            message=condition.message,
        )
        self._add(_Alerted(key=condition.key, to=tuple(channels), alert=alert))
        return alert

    def end_others(
        self, conditions: Iterable[Condition], unknown: set[Kind], now: datetime
    ) -> None:
        """What is not there any more has ended, but for kinds of which nothing is known now."""
        there = {condition.key for condition in conditions}
        for key, alert in self._last.items():
            if key not in there | self._ended and alert.kind not in unknown:
                self._add(_Ended(key=key, time=now))

    def settle(self, alert: Alert, channel: str, now: datetime, *, given_up: bool = False) -> None:
        """It has gone over this channel, or never will."""
        self._add(_Sent(number=alert.number, channel=channel, time=now, given_up=given_up))

    def _add(self, line: _Line) -> None:
        self._take(line)
        try:
            append_line(self._path, line.model_dump_json())
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            log.error("%s: %s; after a restart an alert may be sent again", self._path.name, reason)

    def _take(self, line: _Line) -> None:
        if isinstance(line, _Begun):
            self._begun = self._begun or line.time
        elif isinstance(line, _Alerted):
            self._last[line.key] = self.alerts[line.alert.number] = line.alert
            self._ended.discard(line.key)
            self.waiting[line.alert.number] = set(line.to)
        elif isinstance(line, _Ended):
            self._ended.add(line.key)
        else:
            self.waiting.get(line.number, set()).discard(line.channel)


def _lines(path: Path) -> list[_Line]:
    """Those that are whole; a torn one, or one of a later version, is left out."""
    found = []
    try:
        content = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for number, line in enumerate(content, start=1):
        try:
            found.append(_LINE.validate_json(line))
        except ValidationError:
            log.warning("%s: line %d is no line of it, and is passed over", path.name, number)
    return found
