"""A site's metrics: states and counts, and no word of a case, a study or a run."""

import re
import socket
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from client.node.site_metrics import SiteFamilies, serve_metrics
from client.node.standing import Standing
from protocol.audit.log import AuditLog
from protocol.config.site import SiteConfig

ROOT = Path(__file__).parents[4]


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    (tmp_path / "state").mkdir()
    return SiteConfig(
        site="A", data=tmp_path / "data", cache=tmp_path / "cache", state=tmp_path / "state"
    )


def values(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def look(families: SiteFamilies) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(families)
    return values(generate_latest(registry).decode())


def test_a_site_that_has_just_begun(config: SiteConfig) -> None:
    found = look(SiteFamilies(config, Standing()))
    assert found["asdnet_site_connected"] == 0
    assert found["asdnet_site_messages_total received"] == 0
    assert found["asdnet_disk_free_bytes state"] > 0
    assert "asdnet_disk_free_bytes cache" not in found  # there is none yet
    assert "asdnet_certificate_expiry_timestamp_seconds" not in found


def test_messages_are_counted_as_they_come(config: SiteConfig) -> None:
    log, standing = AuditLog(config.audit_file), Standing()
    families = SiteFamilies(config, standing)

    def note(direction: str, count: int) -> None:
        facts = {"what": "train reply", "round": 1, "sha256": "", "bytes": count, "items": {}}
        log.append(direction, peer="centre", run="secret-study", reason="", **facts)  # type: ignore[arg-type]

    note("received", 70)
    note("sent", 60)
    before = look(families)
    standing.connected, standing.answering, standing.starts = True, True, 2
    note("received", 5)
    with config.audit_file.open("ab") as file:
        file.write(b'{"direction": "sent", "by')  # being written
    after = look(families)
    assert before["asdnet_site_messages_total received"] == 1
    assert after["asdnet_site_messages_total received"] == 2
    assert after["asdnet_site_messages_total sent"] == 1
    assert after["asdnet_site_message_bytes_total received"] == 75
    assert after["asdnet_site_connected"] == after["asdnet_site_answering"] == 1
    assert after["asdnet_site_connections_total"] == 2


def test_the_guide_has_every_metric(config: SiteConfig) -> None:
    config.ca_file.write_bytes(certificate())
    config.audit_file.touch()
    config.cache.mkdir()
    registry = CollectorRegistry()
    registry.register(SiteFamilies(config, Standing()))
    text = generate_latest(registry).decode()
    made = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[0] != "#"}
    guide = (ROOT / "docs" / "guides" / "hospital.md").read_text(encoding="utf-8")
    section = guide[guide.index("shows Prometheus") :].split("\n\n")[1]
    assert set(re.findall(r"`(asdnet_\w+)`", section)) == made


def certificate() -> bytes:
    """Of a CA, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_over_http(config: SiteConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError):
            serve_metrics(config, Standing(), "127.0.0.1", port)
    serve_metrics(config, Standing(connected=True), "127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert values(text)["asdnet_site_connected"] == 1
    assert str(config.state) not in text
