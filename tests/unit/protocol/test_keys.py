"""Keys and certificates as files: what is read, what is refused, and with what mode it is made."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from protocol import keys

# Made once by `ssh-keygen -t ecdsa -b 384`; the fingerprint is what `ssh-keygen -lf` printed.
LINE = (
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBMfuYwQxnDRCLnBk5LvW3"
    # pragma: allowlist nextline secret
    "8EguNX6Fy5KUwABpOx7S/DxMBFvAOj5MHJxlxVaUzQBS+ypkHnlBn4Mj/fNVUWWkVRrlPu0W04NsicPMuP5o5U1p+tLL"
    "BsRDFbc8ybaGBwNfA== A"
)
FINGERPRINT = "SHA256:JWKRacG/ZmLERgRUcW9Nh3obxgF+JKYH8TjMywCq9/o"


def openssh(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def test_a_line_and_its_fingerprint_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    path = tmp_path / "A.pub"
    path.write_text(f"\n  {LINE}\n\n", encoding="utf-8")
    key = keys.read_public_key(path)
    assert keys.openssh_fingerprint(key) == FINGERPRINT
    assert keys.openssh_line(key, "A") == LINE
    assert keys.openssh_line(key) == LINE.removesuffix(" A")


def test_a_private_key_comes_back(tmp_path: Path) -> None:
    key = keys.make_key()
    path = tmp_path / "site.key"
    path.write_bytes(keys.openssh_private(key))
    # pragma: allowlist nextline secret
    assert path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert keys.read_private_key(path).private_numbers() == key.private_numbers()


PRIVATE = {
    "openssh": keys.openssh_private(keys.make_key()),
    "pkcs8": keys.make_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    "sec1": keys.make_key().private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    ),
    "encrypted": keys.make_key().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    ),
    "both": LINE.encode() + b"\n" + keys.openssh_private(keys.make_key()),
    "utf16": keys.openssh_private(keys.make_key()).decode().encode("utf-16"),
    "putty": b"PuTTY-User-Key-File-3: ecdsa-sha2-nistp384\nPrivate-Lines: 2\nAAAA\n",
}


@pytest.mark.parametrize("form", PRIVATE)
def test_a_private_key_is_refused_in_every_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / "sent"
    path.write_bytes(PRIVATE[form])
    with pytest.raises(keys.KeyFileError, match="this is a PRIVATE key, it must never leave") as e:
        keys.read_public_key(path)
    assert str(path) in str(e.value)
    with pytest.raises(keys.KeyFileError, match="inform the centre that its key has leaked"):
        keys.read_certificate(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "one OpenSSH public key line, not 0 lines"),
        (f"{LINE}\n{LINE}\n".encode(), "one OpenSSH public key line, not 2 lines"),
        (b"hello world", "is not an OpenSSH public key line"),
        (LINE[:100].encode(), "is not an OpenSSH public key line"),
        (LINE.encode("utf-16"), "is not text"),
        (
            openssh(ec.generate_private_key(ec.SECP256R1()).public_key()),
            r"must be an EC P-384 key \(ecdsa-sha2-nistp384\), not ecdsa-sha2-nistp256",
        ),
        (openssh(ec.generate_private_key(ec.SECP521R1()).public_key()), "not ecdsa-sha2-nistp521"),
        (openssh(ed25519.Ed25519PrivateKey.generate().public_key()), "not ssh-ed25519"),
    ],
    ids=["nothing", "two", "words", "cut", "utf-16", "p256", "p521", "ed25519"],
)
def test_what_is_no_p384_line_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "A.pub"
    path.write_bytes(content)
    with pytest.raises(keys.KeyFileError, match=message) as error:
        keys.read_public_key(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        LINE.encode(),
        PRIVATE["pkcs8"],
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        ),
    ],
    ids=["empty", "public", "pkcs8", "p256"],
)
def test_what_a_supernode_could_not_use_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(content)
    with pytest.raises(keys.KeyFileError, match="on P-384 without a passphrase"):
        keys.read_private_key(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (keys.read_public_key, keys.read_private_key, keys.read_certificate):
        with pytest.raises(keys.KeyFileError, match=r"none: cannot be read \(No such file"):
            read(tmp_path / "none")


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(LINE, encoding="utf-8")
    with pytest.raises(keys.KeyFileError, match="must hold one certificate in PEM form"):
        keys.read_certificate(path)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen on this machine")
def test_ssh_keygen_agrees(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    make = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-C", "A", "-f", str(path), "-N"]
    subprocess.run([*make, ""], check=True)
    key = keys.read_public_key(tmp_path / "site.key.pub")
    assert keys.read_private_key(path).public_key() == key
    printed = subprocess.run(
        ["ssh-keygen", "-lf", str(path)], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert printed == f"384 {keys.openssh_fingerprint(key)} A (ECDSA)\n"

    path.unlink()
    subprocess.run([*make, "a passphrase"], check=True)
    with pytest.raises(keys.KeyFileError, match="on P-384 without a passphrase"):
        keys.read_private_key(path)


# ---- the centre's key for studies ---------------------------------------------------------------


def test_a_signing_key_comes_back_and_has_ssh_keygens_fingerprint(tmp_path: Path) -> None:
    key = keys.make_signing_key()
    private, public = tmp_path / "study.key", tmp_path / "study.pub"
    private.write_bytes(keys.openssh_private(key))
    private.chmod(0o600)
    public.write_text(keys.openssh_line(key.public_key(), "centre") + "\n", encoding="utf-8")
    assert keys.read_signing_key(private).private_bytes_raw() == key.private_bytes_raw()
    assert keys.read_verifying_key(public) == key.public_key()
    if shutil.which("ssh-keygen"):
        shown = subprocess.run(
            ["ssh-keygen", "-lf", str(public)], capture_output=True, encoding="utf-8", check=True
        ).stdout
        assert keys.openssh_fingerprint(key.public_key()) in shown


def test_a_signing_key_of_another_kind_or_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.key"
    with pytest.raises(keys.KeyFileError, match="cannot be read"):
        keys.read_signing_key(path)
    path.write_bytes(keys.openssh_private(keys.make_key()))
    path.chmod(0o600)
    with pytest.raises(keys.KeyFileError, match="must be an OpenSSH private key of type Ed25519"):
        keys.read_signing_key(path)
    path.write_bytes(keys.openssh_private(keys.make_signing_key()))
    path.chmod(0o640)
    with pytest.raises(keys.KeyFileError, match=r"others of this machine may read it \(mode 640\)"):
        keys.read_signing_key(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must hold one OpenSSH public key line of type ssh-ed25519"),
        (LINE.encode(), "must hold one OpenSSH public key line of type ssh-ed25519"),
        (b"\xff\xfe", "must hold one OpenSSH public key line"),
        (keys.openssh_private(keys.make_signing_key()), "this is a PRIVATE key"),
        (2 * (keys.openssh_line(keys.make_signing_key().public_key()) + "\n").encode(), "one Open"),
    ],
    ids=["empty", "a site's", "no text", "private", "two"],
)
def test_what_is_no_public_signing_key_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "centre.pub"
    path.write_bytes(content)
    with pytest.raises(keys.KeyFileError, match=words):
        keys.read_verifying_key(path)
