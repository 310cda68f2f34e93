"""What a file is by its first bytes; names decide nothing."""

from __future__ import annotations

import re
import stat
import zlib
from pathlib import Path
from typing import Literal

Kind = Literal["dicom", "gzip"]

_HEAD_BYTES = 4096  # far more than lies before SOPClassUID in group 0008
_PREAMBLE_BYTES = 128
_GZIP = b"\x1f\x8b\x08"
# A data set without the preamble begins in group 0002 or 0008, of either byte order, and says early
# of what class it is: SOPClassUID of an implicit or explicit VR. ACR-NEMA, the standard before
# DICOM, has a recognition code instead; such a file is told apart here to be refused by its name.
_FIRST = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
_CLASS = re.compile(
    rb"(?:\x08\x00\x16\x00|\x00\x08\x00\x16)(?:UI..|....)[0-2]\.\d[\d.]{2}"
    rb"|\x08\x00\x10\x00(?:..\x10\x00|....)ACR-NEMA",
    re.DOTALL,
)
_META_CLASS = re.compile(rb"\x02\x00\x02\x00UI..[0-2]\.\d[\d.]{2}", re.DOTALL)


def sniff(file: Path) -> Kind | None:
    """Whether a file's first bytes are those of DICOM, or of DICOM that gzip compressed.

    Raises:
        OSError: It cannot be opened.
    """
    if not stat.S_ISREG(file.stat().st_mode):  # a pipe would never end
        return None
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(_GZIP):
        return "gzip" if _is_dicom(_unpacked(head)) else None
    return "dicom" if _is_dicom(head) else None


def may_be_damaged(file: Path) -> bool:
    """Whether a file that is no DICOM is empty or binary, as a damaged slice is and a text is not.

    Raises:
        OSError: It cannot be opened.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        return False
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    return not head or b"\0" in head


def _is_dicom(head: bytes) -> bool:
    if head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM":
        return True
    return head.startswith(_FIRST) and bool(_CLASS.search(head) or _META_CLASS.search(head))


def _unpacked(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
    except zlib.error:
        return b""
