"""The audit log of one side: every message that came, was refused or left, in a chain of hashes.

One JSON object a line, appended and never changed.  Each entry holds the hash of the entry before
it, so that a changed, removed, inserted or moved line shows.  One log alone cannot show that
its last lines were cut off, or that it was rewritten from some line on.  Two things show that: a
last hash which was kept elsewhere, and `verification.compare` with the other side's log.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from asdnet_models.fields import Frozen
from protocol.config.explanation import explain
from protocol.files import locked, sync_folder

ORIGIN = "0" * 64
REPAIRED = "audit repaired"

Direction = Literal["sent", "received", "refused", "note"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
# Half a UTF-16 pair, which JSON can write but not read, must not spoil a line.
Text = Annotated[str, AfterValidator(lambda t: t.encode(errors="backslashreplace").decode())]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_NOTHING = {"peer": "", "run": "", "round": 0, "bytes": 0, "sha256": "", "items": {}, "reason": ""}
_BLOCK = 8192  # bytes read at a time from the end of the log


class AuditError(Exception):
    """The log cannot be written or read; the message must not be sent."""


class AuditEntry(Frozen):
    """One message, or one note of the log about itself."""

    seq: Annotated[int, Field(ge=1, lt=2**63)] = Field(description="1, 2, 3, ...")
    time: Annotated[
        str, Field(pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}[.][0-9]{3}Z$")
    ] = Field(description="UTC, with milliseconds, by the clock of this machine")
    direction: Direction
    what: Text = Field(description="kind of message, such as 'train reply'")
    peer: Text = Field(description="the site's name at the centre; the centre's address at a site")
    run: Text = Field(description="name of the study run; empty: none")
    round: Count = Field(description="0: none")
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = Field(
        description="digest of the content; empty: none"
    )
    items: dict[Text, Count] = Field(description="what it consisted of: 'segmenter tensors', ...")
    reason: Text = Field(description="why it was refused, without patient data; else empty")
    previous: Hash = Field(description="hash of the entry before; zeros for the first")
    hash: Hash = Field(description="of all the other fields")


class AuditLog:
    """The log of one side.  Several processes and threads may append to one file at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(
        self,
        direction: Direction,
        what: str,
        *,
        peer: str,
        run: str = "",
        round: int = 0,
        bytes: int = 0,
        sha256: str = "",
        items: Mapping[str, int] | None = None,
        reason: str = "",
    ) -> AuditEntry:
        """Write one entry; it is on the disk when this returns.

        A half line, left by a process that was stopped while it wrote, is removed first and the
        removal is noted: that process had not got to sending what the line was about.

        Raises:
            AuditError: If the entry cannot be written (no part of it is in the log then), if a
                value is not valid, or if the log's last entry was changed.  The message names the
                log's path: it must not leave this side.
        """
        fields: dict[str, object] = {
            "direction": direction,
            "what": what,
            "peer": peer,
            "run": run,
            "round": round,
            "bytes": bytes,
            "sha256": sha256,
            "items": dict(items or {}),
            "reason": reason,
        }
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._path, mode=0o600) as file:
                end, last, torn = _read_tail(self._path, file)
                if torn:
                    last = _repair(file, end, last, torn)
                entry = _write(file, _following(last, fields))
                if last is None:
                    sync_folder(self._path.parent)
                return entry
        except ValidationError as error:
            raise AuditError(explain(error, "audit entry")) from None
        except OSError as error:
            raise AuditError(
                f"{self._path}: the audit log cannot be written ({error.strerror}), and nothing "
                "may leave unlogged; check free space and rights of the folder"
            ) from error


# ---- lines --------------------------------------------------------------------------------------


def _canonical(fields: Mapping[str, object]) -> bytes:
    """Sorted, compact and pure ASCII: equal entries are equal bytes, whatever text they hold."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def _line(entry: AuditEntry) -> bytes:
    return _canonical(entry.model_dump()) + b"\n"


def _hash_of(entry: AuditEntry) -> str:
    return hashlib.sha256(_canonical(entry.model_dump(exclude={"hash"}))).hexdigest()


def _following(before: AuditEntry | None, fields: Mapping[str, object]) -> AuditEntry:
    now = datetime.now(UTC).replace(tzinfo=None)
    chain = {
        "seq": before.seq + 1 if before else 1,
        "time": now.isoformat(timespec="milliseconds") + "Z",
        "previous": before.hash if before else ORIGIN,
        "hash": ORIGIN,
    }
    entry = AuditEntry.model_validate({**_NOTHING, **fields, **chain})
    return entry.model_copy(update={"hash": _hash_of(entry)})


def parse_line(line: bytes) -> tuple[AuditEntry | None, str]:
    """The entry of a line, None where it is none; and what is wrong with the line by itself."""
    try:
        entry = AuditEntry.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return None, "is malformed: it is not JSON"
        field = ".".join(str(part) for part in first["loc"])
        return None, f"is malformed: {field or 'entry'}: {first['msg']}"
    if entry.hash != _hash_of(entry):
        return entry, "was changed: its content and its hash do not fit"
    # Also finds what JSON forgives: spaces, another order, a field given twice.
    if _line(entry) != line:
        return entry, "was changed: it is not written as this log writes"
    return entry, ""


# ---- the file -----------------------------------------------------------------------------------


def _read_tail(path: Path, file: int) -> tuple[int, AuditEntry | None, int]:
    """Where the complete lines end, the last of them, and the number of torn bytes behind it.

    Read from the end of the file: a log grows for weeks.
    """
    start = size = os.fstat(file).st_size
    tail = b""
    while start and tail.count(b"\n") < 2:
        length = min(_BLOCK, start)
        start -= length
        tail = os.pread(file, length, start) + tail
    lines, newline, torn = tail.rpartition(b"\n")
    if not newline:
        return 0, None, size
    entry, flaw = parse_line(lines.rpartition(b"\n")[2] + b"\n")
    if flaw:
        raise AuditError(
            f"{path}: the last entry {flaw}; nothing is added to a log that was changed: keep the "
            "file as evidence under another name, then a new log begins"
        )
    return size - len(torn), entry, len(torn)


def _repair(file: int, end: int, last: AuditEntry | None, torn: int) -> AuditEntry:
    os.ftruncate(file, end)
    facts: dict[str, object] = {
        "direction": "note",
        "what": REPAIRED,
        "items": {"bytes removed": torn},
    }
    return _write(file, _following(last, facts))


def _write(file: int, entry: AuditEntry) -> AuditEntry:
    """Append one line and flush it to the disk, or leave the file as it was."""
    end = os.fstat(file).st_size
    line = _line(entry)
    try:
        # A disk that fills up may first show as a short write, without an error.
        if os.write(file, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
    except BaseException:
        os.ftruncate(file, end)
        raise
    return entry
