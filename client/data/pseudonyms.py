"""Pseudonyms of cases: a case's own name is often a patient's, or a hospital number.

A pseudonym is made from the name by a key that stays at the site.  With the key, the same names
give the same pseudonyms again, which is how a result is linked to its case; without it, nobody can
try names out.  A lost key loses that link and nothing else.
"""

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from protocol.files import atomic_file
from protocol.keys import PRIVATE_MODE

KEY_BYTES = 32
KEY_FILE = "pseudonym.key"
_DIGITS = 10  # 40 bits: among 10,000 names, two are alike once in 20,000 sites
_SEAL = "\0"  # begins no file's name, so a sealed text never gives the digest of a name


class PseudonymKeyError(ValueError):
    """A key file that cannot be used, with file, rule and hint."""


class Pseudonyms:
    """Pseudonyms under one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a pseudonym key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def of(self, name: str) -> str:
        """`case-` and ten hexadecimal digits of the name's HMAC-SHA256."""
        return f"case-{self._hmac(name)[:_DIGITS]}"

    def seal(self, text: str) -> str:
        """HMAC-SHA256 of a text: it can be recognised with the key only.

        A plain hash of a scan's bytes would link a result to any other copy of the scan.
        """
        return self._hmac(_SEAL + text)

    def _hmac(self, text: str) -> str:
        # A file system may hold names that are not Unicode.
        content = text.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()


def personal_key_file() -> Path:
    """Where the key is of somebody who works without a site's file."""
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser() / "asdnet" / KEY_FILE


def read_or_make_key(path: Path) -> bytes:
    """The key of a file, which is made at its first use; 32 random bytes as hexadecimal digits.

    Two processes that come at once get the same key.

    Raises:
        PseudonymKeyError: It cannot be read or made, is damaged, or others may read it.
    """
    try:
        if not path.exists():
            _make(path)
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise PseudonymKeyError(
            f"{path}: cannot be read or made ({reason}); correct its folder, or give another"
            " file on a local disk (--key)"
        ) from None
    if mode & 0o077:
        raise PseudonymKeyError(
            f"{path}: others of this machine may read it (mode {mode:o}) and so try names out;"
            " run chmod 600 on it"
        )
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise PseudonymKeyError(
            f"{path}: must hold {2 * KEY_BYTES} hexadecimal digits; restore it from a backup, or"
            " remove it: then new pseudonyms are made, and older results are linked no longer"
        )
    return key


def _make(path: Path) -> None:
    """Whole or not at all, and never in place of a key that is there."""
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    with suppress(FileExistsError), atomic_file(path, mode=PRIVATE_MODE, overwrite=False) as draft:
        draft.write_text(f"{secrets.token_hex(KEY_BYTES)}\n", "ascii")
