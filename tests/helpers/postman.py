"""Deliveries that take no time, and note what they were given."""

from collections import Counter

from server.service.alert_channels import Delivery
from server.service.alert_log import Alert
from server.service.alert_settings import Channel


class _Delivered(Delivery):
    def __init__(self, failure: str) -> None:
        self._outcome = failure

    def result(self) -> str | None:
        return self._outcome


class Postman:
    """Sends over every channel but those that fail, and no alert that is refused."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.tried: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.refused: set[int] = set()

    def deliver(self, channel: Channel, alert: Alert) -> Delivery:
        self.tried[channel.title] += 1
        if channel.title in self.failing or alert.number in self.refused:
            return _Delivered("refused")
        self.sent.append((channel.title, alert.number))
        return _Delivered("")
