"""Reads and writes key and certificate files, for the centre and the sites."""

import stat
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
    ssh_key_fingerprint,
)

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
# Of a key that a passphrase opens, PKCS 8 in PEM form.
ENCRYPTED_HEAD = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"

# Asks for a passphrase.
Passphrase = Callable[[], bytes]


class KeyFileError(ValueError):
    """A key or certificate that is missing, of another kind, or readable by others."""


def make_key() -> ec.EllipticCurvePrivateKey:
    """A new private key on P-384, the curve of every key of a federation."""
    return ec.generate_private_key(ec.SECP384R1())


def make_signing_key() -> Ed25519PrivateKey:
    """A new key for a centre to sign its studies with; it signs nothing else."""
    return Ed25519PrivateKey.generate()


def openssh_private(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """OpenSSH PEM without a passphrase, as a SuperNode reads it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def openssh_line(key: ec.EllipticCurvePublicKey | Ed25519PublicKey, comment: str = "") -> str:
    """The public key as one OpenSSH line, without a line end."""
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    return f"{line} {comment}".rstrip()


def openssh_fingerprint(key: ec.EllipticCurvePublicKey | Ed25519PublicKey) -> str:
    """`SHA256:` and unpadded base64, as `ssh-keygen -lf` prints it."""
    digest = ssh_key_fingerprint(key, hashes.SHA256())
    return f"SHA256:{b64encode(digest).decode('ascii').rstrip('=')}"


def parse_openssh_line(text: str) -> ec.EllipticCurvePublicKey:
    """The key of one OpenSSH public key line; its comment is ignored.

    Raises:
        KeyFileError: If it is not one line, not such a key, or not on P-384.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise KeyFileError(f"must hold one OpenSSH public key line, not {len(lines)} lines")
    try:
        key = load_ssh_public_key(lines[0].strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(
            "is not an OpenSSH public key line (ecdsa-sha2-nistp384 AAAA... name);"
            " `asdnet-site enrol` writes one"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        kind = lines[0].split()[0]
        raise KeyFileError(
            f"must be an EC P-384 key (ecdsa-sha2-nistp384), not {kind};"
            " `asdnet-site enrol` makes one"
        )
    return key


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A site's public key, as the site sent it.

    Raises:
        KeyFileError: If it cannot be read, is a private key, or is not a P-384 OpenSSH line.
    """
    content = _read(path)
    if _is_private(content):
        raise KeyFileError(
            f"{path}: this is a PRIVATE key, it must never leave the site: make a new one there"
            " (asdnet-site enrol --site SITE --replace), send only its .pub file,"
            " and delete this one"
        )
    try:
        return parse_openssh_line(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise KeyFileError(f"{path}: is not text; send the .pub file as it is") from None
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A site's private key.

    Raises:
        KeyFileError: If it cannot be read, has a passphrase, or is not an OpenSSH P-384 key.
    """
    content = _read(path)
    try:
        key = load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise KeyFileError(
            f"{path}: must be an OpenSSH private key on P-384 without a passphrase;"
            " asdnet-site enrol --site SITE --replace makes one"
        )
    return key


def read_signing_key(path: Path, passphrase: Passphrase | None = None) -> Ed25519PrivateKey:
    """The key by which the centre signs its studies.

    Args:
        path: Its file.
        passphrase: Asked if the key is encrypted.

    Raises:
        KeyFileError: If it cannot be read, others may read it, it is of another kind, or the
            passphrase is wrong.
    """
    content = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: others of this machine may read it (mode {mode:o}): run chmod 600 on it; if"
            " they might have, make another (asdnet-centre renew --signing-key)"
        )
    key: PrivateKeyTypes | None
    if passphrase is not None and content.startswith(ENCRYPTED_HEAD):
        key = decrypted(path, content, passphrase())
    else:
        try:
            key = load_ssh_private_key(content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            f"{path}: must be an OpenSSH private key of type Ed25519 without a passphrase;"
            " asdnet-centre renew --signing-key makes one"
        )
    return key


def decrypted(path: Path, content: bytes, passphrase: bytes) -> PrivateKeyTypes:
    """The private key of an encrypted PEM file.

    Raises:
        KeyFileError: If the passphrase does not open it.
    """
    try:
        return load_pem_private_key(content, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path}: the passphrase is wrong") from None


def read_verifying_key(path: Path) -> Ed25519PublicKey:
    """The public key by which a site knows what its centre has signed.

    Raises:
        KeyFileError: If it cannot be read, is a private key, or is not one Ed25519 OpenSSH line.
    """
    content = _read(path)
    if _is_private(content):
        raise KeyFileError(
            f"{path}: this is a PRIVATE key where the centre's study.pub belongs; if the centre"
            " sent it, delete it and inform the centre that its signing key has leaked"
        )
    lines = [line for line in content.splitlines() if line.strip()]
    try:
        key = load_ssh_public_key(lines[0].strip()) if len(lines) == 1 else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(
            f"{path}: must hold one OpenSSH public key line of type ssh-ed25519: the centre's"
            " study.pub"
        )
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """One PEM certificate.

    Raises:
        KeyFileError: If it cannot be read, holds a private key, or is not one PEM certificate.
    """
    content = _read(path)
    if _is_private(content):
        raise KeyFileError(
            f"{path}: this is a PRIVATE key where a certificate belongs; if the centre sent it,"
            " delete it and inform the centre that its key has leaked"
        )
    try:
        (certificate,) = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise KeyFileError(
            f"{path}: must hold one certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        ) from None
    return certificate


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 as `openssl x509 -noout -fingerprint -sha256` prints it: AA:BB:..."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _is_private(content: bytes) -> bool:
    """In any of the usual forms: PEM, OpenSSH, PuTTY, and those as UTF-16."""
    text = content.replace(b"\0", b"").upper()
    return b"PRIVATE KEY" in text or b"PRIVATE-LINES" in text
