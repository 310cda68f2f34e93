"""What a site's launcher shows to Prometheus: counts and states, of no case and no study's name."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from client.node.standing import Standing
from protocol.config.site import SiteConfig
from protocol.keys import KeyFileError, read_certificate

_DIRECTIONS = ("sent", "received", "refused")


def serve_metrics(config: SiteConfig, standing: Standing, host: str, port: int) -> None:
    """Serve them over HTTP in threads of this process, until it ends.

    Raises:
        OSError: The address cannot be listened at.
    """
    registry = CollectorRegistry()
    registry.register(SiteFamilies(config, standing))
    start_http_server(port, addr=host, registry=registry)


class SiteFamilies(Collector):
    """Made at each look, of the launcher's state, the audit log and the disk."""

    def __init__(self, config: SiteConfig, standing: Standing) -> None:
        self._config, self._standing = config, standing
        self._log = _AuditCounts(config.audit_file)

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        now = self._standing
        yield _gauge("asdnet_site_connected", "1 while the centre knows this site.", now.connected)
        yield _gauge("asdnet_site_answering", "1 while messages are answered.", now.answering)
        starts = CounterMetricFamily("asdnet_site_connections", "Starts of the SuperNode.")
        starts.add_metric([], now.starts)
        yield starts
        yield from self._log.families()
        free = GaugeMetricFamily("asdnet_disk_free_bytes", "Free on its disk.", labels=["folder"])
        for name in ("state", "cache"):
            with suppress(OSError):
                free.add_metric([name], shutil.disk_usage(getattr(self._config, name)).free)
        yield free
        with suppress(KeyFileError):
            ends = read_certificate(self._config.ca_file).not_valid_after_utc.timestamp()
            help = "When the centre's CA ends."
            yield _gauge("asdnet_certificate_expiry_timestamp_seconds", help, ends)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


class _AuditCounts:
    """Messages and bytes by direction; at each look what has been appended since is read."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self._messages: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def families(self) -> Iterator[Metric]:
        with self._lock:
            self._read()
            counts = (
                ("asdnet_site_messages", "Entries of the audit log.", self._messages),
                ("asdnet_site_message_bytes", "Of their contents.", self._bytes),
            )
            for name, help, found in counts:
                family = CounterMetricFamily(name, help, labels=["direction"])
                for direction in _DIRECTIONS:
                    family.add_metric([direction], found[direction])
                yield family

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new, _, _ = file.read().rpartition(b"\n")
        except OSError:  # nothing has come yet
            return
        self._offset += len(new) + bool(new)
        for line in new.splitlines():
            # A torn or changed line is the audit's to find.
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(line)
                self._messages[entry["direction"]] += 1
                self._bytes[entry["direction"]] += int(entry["bytes"])
