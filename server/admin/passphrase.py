"""Private keys of the centre under a passphrase: the CA's, and the one that signs studies.

Whoever starts a command at a terminal is asked; a supervisor gives it in the environment, itself or
as the number of an open file.  PKCS 8 as OpenSSL writes it (AES-256, PBKDF2) slows guessing only a
little: the passphrase has to be long.
"""

import getpass
import os
import warnings
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from protocol.keys import ENCRYPTED_HEAD, KeyFileError, Passphrase, decrypted

VARIABLE, FILE_NUMBER_VARIABLE = "ASDNET_PASSPHRASE", "ASDNET_PASSPHRASE_FD"
_LEAST = 20

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey


def new_passphrase() -> bytes:
    """One for new keys; at a terminal it is asked for twice.

    Raises:
        KeyFileError: If it is too short, was mistyped, or nobody can be asked.
    """
    passphrase = _given()
    if passphrase is None:
        passphrase = _asked("new passphrase for the centre's keys: ")
        if _asked("the same again: ") != passphrase:
            raise KeyFileError("the passphrases differ; run the command again")
    if len(passphrase) < _LEAST:
        raise KeyFileError(
            f"the passphrase must be of {_LEAST} characters or more, such as six random words;"
            f" it has {len(passphrase)}"
        )
    return passphrase


def passphrase_of(path: Path) -> Passphrase:
    """Asks for the passphrase of that file's key, when it is needed, and once only."""
    return lambda: _given() or _asked_once(f"passphrase of {path.name}: ")


def encrypted(key: PrivateKey, passphrase: bytes) -> bytes:
    """The key as PEM that only the passphrase opens."""
    encryption = BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def is_encrypted(path: Path) -> bool:
    """Whether that file's key needs a passphrase; False if there is no file."""
    try:
        return path.read_bytes().startswith(ENCRYPTED_HEAD)
    except OSError:
        return False


def read_pem_key(path: Path, passphrase: Passphrase | None = None) -> EllipticCurvePrivateKey:
    """An EC private key of the centre.

    Raises:
        KeyFileError: If it cannot be read, is of another kind, or the passphrase is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror})") from None
    key: PrivateKeyTypes | None
    if passphrase is not None and content.startswith(ENCRYPTED_HEAD):
        key = decrypted(path, content, passphrase())
    else:
        try:
            key = load_pem_private_key(content, None)
        except (ValueError, TypeError):
            key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise KeyFileError(f"{path}: must be an EC private key in PEM form without a passphrase")
    return key


def _given() -> bytes | None:
    """What the environment has."""
    value, number = os.environ.get(VARIABLE), os.environ.get(FILE_NUMBER_VARIABLE)
    if value is not None:
        return value.encode()
    return None if number is None else _line_of(number)


@cache
def _line_of(number: str) -> bytes:
    """The first line of an open file; it can be read once only."""
    try:
        with os.fdopen(int(number), "rb", closefd=False) as file:
            return file.readline().rstrip(b"\r\n")
    except (OSError, ValueError):
        raise KeyFileError(
            f"{FILE_NUMBER_VARIABLE}: must be the number of a file that is open for reading,"
            f" not {number!r}"
        ) from None


@cache
def _asked_once(prompt: str) -> bytes:
    return _asked(prompt)


def _asked(prompt: str) -> bytes:
    with warnings.catch_warnings():
        # getpass would read visibly where there is no terminal.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt).encode()
        except (getpass.GetPassWarning, EOFError, OSError):
            raise KeyFileError(
                f"a passphrase is needed and there is no terminal to ask at; set {VARIABLE}, or"
                f" {FILE_NUMBER_VARIABLE} to the number of an open file"
            ) from None
