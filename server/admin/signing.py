"""The key by which a centre signs its studies: study.key, and study.pub for every hospital.

It is apart from the CA: who may issue the server's certificate cannot sign a study.  Only
`asdnet-centre run` reads the private key, which may lie elsewhere (--study-key); the ServerApp
never does.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.files import write_bytes
from protocol.keys import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    KeyFileError,
    make_signing_key,
    openssh_fingerprint,
    openssh_line,
    openssh_private,
    read_signing_key,
    read_verifying_key,
)
from server.admin.passphrase import encrypted, passphrase_of


def private_file(centre: Path) -> Path:
    """Who has it can sign studies in the centre's name."""
    return centre / "study.key"


def public_file(centre: Path) -> Path:
    """What every hospital gets, and compares by telephone."""
    return centre / "study.pub"


def make_signing_files(centre: Path, passphrase: bytes | None = None) -> Ed25519PublicKey:
    """A new pair of keys in the centre's folder; an old one becomes .previous.

    Args:
        centre: The folder.
        passphrase: Opens the private key; None: it is not encrypted.
    """
    key = make_signing_key()
    private = openssh_private(key) if passphrase is None else encrypted(key, passphrase)
    line = f"{openssh_line(key.public_key(), 'asdnet-centre')}\n".encode()
    for path, content, mode in (
        (private_file(centre), private, PRIVATE_MODE),
        (public_file(centre), line, PUBLIC_MODE),
    ):
        if path.exists():
            write_bytes(path.with_name(f"{path.name}.previous"), path.read_bytes(), mode)
        write_bytes(path, content, mode)
    return key.public_key()


def read_public(centre: Path) -> Ed25519PublicKey:
    """The key that hospitals have pinned.

    Raises:
        KeyFileError: If there is none: the centre is older than it, or its file is lost.
    """
    path = public_file(centre)
    if not path.exists():
        raise KeyFileError(
            f"{path}: is not there, and no study can be signed; make a key with: asdnet-centre"
            " renew --signing-key"
        )
    return read_verifying_key(path)


def read_private(centre: Path, path: Path | None) -> Ed25519PrivateKey:
    """The key to sign with, of one pair with `study.pub`.

    Args:
        centre: The centre's folder.
        path: Where it lies; None: in the centre's folder.

    Raises:
        KeyFileError: If it is not there, others may read it, it is of another pair, or the
            passphrase is wrong.
    """
    public, path = read_public(centre), path or private_file(centre)
    key = read_signing_key(path, passphrase_of(path))
    if key.public_key() != public:
        raise KeyFileError(
            f"{path}: is not the key of {public_file(centre)}"
            f" ({openssh_fingerprint(public)}); restore both from one backup"
        )
    return key
