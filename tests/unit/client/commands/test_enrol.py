"""The site's key: made at the site, never overwritten, and only its public line to be sent."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_ssh_private_key,
    load_ssh_public_key,
)

from client.cli import app
from protocol.keys import (
    certificate_fingerprint,
    make_key,
    make_signing_key,
    openssh_fingerprint,
    openssh_line,
)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "site_configs"
    folder.mkdir()
    write_config(folder, "centre: centre.example.org:9092\n")
    return folder


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "site.key"


def write_config(folder: Path, more: str) -> None:
    text = f"site: A\ndata: ../data\ncache: ../cache\nstate: ../state\n{more}"
    (folder / "A.yaml").write_text(text, encoding="utf-8")


def enrol(configs: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["enrol", "--site", "A", "--configs", str(configs), *options])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def certificate() -> x509.Certificate:
    key, now = make_key(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    return (
        builder.not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA384())
    )


def test_a_key_is_made_where_it_stays(configs: Path, key_file: Path) -> None:
    result = enrol(configs)
    assert result.exit_code == 0, result.output
    assert (mode(key_file), mode(key_file.parent)) == (0o600, 0o700)
    assert {path.name for path in key_file.parent.iterdir()} == {"site.key", "A.pub"}

    private = load_ssh_private_key(key_file.read_bytes(), None)
    line = key_file.with_name("A.pub").read_text(encoding="utf-8")
    public = load_ssh_public_key(line.encode())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public == private.public_key()
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" A\n")
    assert line.count("\n") == 1

    assert "Send ONLY this file to the centre" in result.stdout
    assert f"     {key_file.parent / 'A.pub'}\n" in result.stdout
    assert f"     {openssh_fingerprint(public)}\n" in result.stdout
    assert f"     {key_file.parent / 'ca.pem'}\n" in result.stdout
    assert "The centre is at centre.example.org:9092" in result.stdout
    assert "PRIVATE" not in result.output


def test_a_key_that_is_there_stays(configs: Path, key_file: Path) -> None:
    first = enrol(configs)
    public = key_file.with_name("A.pub")
    before = (key_file.read_bytes(), public.read_bytes(), key_file.stat().st_mtime_ns)
    public.unlink()
    again = enrol(configs)
    assert again.exit_code == 0
    assert "the key is there already and stays" in again.stdout
    assert (key_file.read_bytes(), public.read_bytes(), key_file.stat().st_mtime_ns) == before
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]


def test_a_public_line_that_is_not_the_keys_is_mended(configs: Path, key_file: Path) -> None:
    enrol(configs)
    public = key_file.with_name("A.pub")
    true = public.read_bytes()
    public.write_bytes(b"ecdsa-sha2-nistp384 AAAA somebody\n")
    enrol(configs)
    assert public.read_bytes() == true


def test_replace_makes_a_new_key_and_keeps_the_old(configs: Path, key_file: Path) -> None:
    enrol(configs)
    public = key_file.with_name("A.pub")
    old, old_line = key_file.read_bytes(), public.read_bytes()
    result = enrol(configs, "--replace")
    assert result.exit_code == 0
    assert "kept as site.key.previous" in result.stdout
    assert "must remove-site A before" in result.stdout
    previous = key_file.with_name("site.key.previous")
    assert previous.read_bytes() == old != key_file.read_bytes()
    assert (mode(previous), mode(key_file)) == (0o600, 0o600)
    assert key_file.with_name("A.pub.previous").read_bytes() == old_line
    private = load_ssh_private_key(key_file.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert load_ssh_public_key(public.read_bytes()) == private.public_key()


def test_replace_without_a_key_makes_the_first(configs: Path, key_file: Path) -> None:
    result = enrol(configs, "--replace")
    assert result.exit_code == 0
    assert "site A: a new key is made\n" in result.stdout
    assert not key_file.with_name("site.key.previous").exists()


def test_the_key_is_where_the_config_says(configs: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    write_config(configs, "key: ../shared/a.pem\n")
    result = enrol(configs)
    assert result.exit_code == 0
    assert {path.name for path in shared.iterdir()} == {"a.pem", "A.pub"}
    assert mode(shared) == 0o755  # a folder of others keeps its mode
    assert not (tmp_path / "state").exists()
    assert "Set `centre: host:port` in A.yaml" in result.stdout


def test_the_centres_fingerprint_is_shown_once_it_is_here(configs: Path, key_file: Path) -> None:
    ca = certificate()
    key_file.parent.mkdir()
    key_file.with_name("ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    result = enrol(configs)
    assert result.exit_code == 0
    assert f"     {certificate_fingerprint(ca)}\n" in result.stdout
    assert certificate_fingerprint(ca).count(":") == 31


def test_the_key_for_studies_is_asked_for_and_shown_once_it_is_here(
    configs: Path, key_file: Path
) -> None:
    path = key_file.with_name("centre.pub")
    shown = enrol(configs).stdout
    assert "Put the centre's study.pub, by which it signs its studies, here:" in shown
    assert f"     {path}\n" in shown
    public = make_signing_key().public_key()
    path.write_text(openssh_line(public, "centre") + "\n", encoding="utf-8")
    shown = enrol(configs).stdout
    assert f"     {openssh_fingerprint(public)}\n" in shown
    assert "must be the one that the centre reads out" in shown


def test_a_fingerprint_is_not_read_as_emoji(
    configs: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "client.commands.enrol.certificate_fingerprint", lambda _: "01:AB:02:CD:[b]"
    )
    key_file.parent.mkdir()
    key_file.with_name("ca.pem").write_bytes(certificate().public_bytes(Encoding.PEM))
    assert "     01:AB:02:CD:[b]\n" in enrol(configs).stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ca.pem", b"nonsense"),
        ("ca.pem", b"-----BEGIN PRIVATE KEY-----"),  # pragma: allowlist secret
        ("centre.pub", b"nonsense"),
        ("centre.pub", b"-----BEGIN OPENSSH PRIVATE KEY-----"),  # pragma: allowlist secret
    ],
)
def test_a_wrong_file_of_the_centre_stops_before_a_key_is_made(
    configs: Path, key_file: Path, name: str, content: bytes
) -> None:
    key_file.parent.mkdir()
    key_file.with_name(name).write_bytes(content)
    result = enrol(configs)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {key_file.with_name(name)}: ")
    assert not key_file.exists()


def test_a_key_of_another_kind_is_neither_used_nor_overwritten(
    configs: Path, key_file: Path
) -> None:
    key_file.parent.mkdir()
    key_file.write_bytes(b"something")
    result = enrol(configs)
    assert result.exit_code == 2
    assert "must be an OpenSSH private key on P-384 without a passphrase" in result.stderr
    assert key_file.read_bytes() == b"something"
    assert not key_file.with_name("A.pub").exists()


def test_a_key_open_to_others_is_reported(configs: Path, key_file: Path) -> None:
    assert enrol(configs).stderr == ""
    key_file.chmod(0o640)
    result = enrol(configs)
    assert result.exit_code == 0
    assert "others of this machine may read it (mode 640)" in result.stderr


def test_an_unknown_site_is_an_error(configs: Path) -> None:
    result = CliRunner().invoke(app, ["enrol", "--site", "B", "--configs", str(configs)])
    assert result.exit_code == 2
    assert "B.yaml: cannot be read" in result.stderr
    assert result.stdout == ""
