"""Studies that a centre has signed, for tests of who believes them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.agreement.manifest import InitialWeights, Manifest, StudyFile
from protocol.config.schedule import evaluation_rounds
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.files import write_bytes
from protocol.keys import PRIVATE_MODE, make_key, make_signing_key, openssh_line, openssh_private

ISSUED = datetime(2026, 11, 29, 14, 0, tzinfo=UTC)


@dataclass
class SigningCentre:
    """A centre's key, and the keys of its sites."""

    sites: str = "AB"
    key: Ed25519PrivateKey = field(default_factory=make_signing_key)
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = {site: make_key() for site in self.sites}

    def line(self, site: str) -> str:
        return openssh_line(self.keys[site].public_key())

    def manifest(self, protocol: StudyProtocol, **changes: Any) -> Manifest:
        facts: dict[str, Any] = {
            "version": 1,
            "run": "tiny-1",
            "revision": 1,
            "protocol_digest": protocol.digest,
            "code": "c" * 64,
            "weights": InitialWeights(
                segmenter="a" * 64,
                confidence="b" * 64 if protocol.method.trains_confidence else None,
            ),
            "rounds": protocol.training.rounds,
            "evaluation_rounds": evaluation_rounds(protocol),
            "sites": {site: self.line(site) for site in self.sites},
            "issued": ISSUED,
        }
        return Manifest.model_validate(facts | changes)

    def study(self, protocol: StudyProtocol, **changes: Any) -> StudyFile:
        """Signed, with its protocol."""
        signed = self.manifest(protocol, **changes).signed(self.key)
        return StudyFile(
            manifest=signed.text, signature=signed.signature, protocol=protocol.canonical_json()
        )

    def enrol(self, folder: Path, site: str) -> SiteConfig:
        """A site of this centre as `asdnet-site enrol` leaves it, with the centre's key pinned."""
        state = folder / site / "state"
        state.mkdir(parents=True, mode=0o700)
        write_bytes(state / "site.key", openssh_private(self.keys[site]), PRIVATE_MODE)
        self.pin(state / "centre.pub")
        return SiteConfig(
            site=site, data=folder / site / "data", cache=folder / site / "cache", state=state
        )

    def pin(self, path: Path) -> None:
        """Write the centre's public key there."""
        path.write_text(openssh_line(self.key.public_key(), "centre") + "\n", encoding="utf-8")
