"""Audit logs of some entries, and lines as a forger writes them."""

import hashlib
import json
from pathlib import Path

from protocol.audit.log import AuditLog


def filled(path: Path, entries: int = 5) -> list[bytes]:
    """A log of so many entries; its lines, with their ends."""
    log = AuditLog(path)
    for number in range(1, entries + 1):
        log.append("sent", "train reply", peer="centre:9092", run="r", round=number, bytes=10)
    return path.read_bytes().splitlines(keepends=True)


def sealed(line: bytes, **changes: object) -> bytes:
    """A line as a forger writes it: with fields changed and a hash that fits."""
    fields = json.loads(line) | changes
    del fields["hash"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    fields["hash"] = hashlib.sha256(canonical).hexdigest()
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"
