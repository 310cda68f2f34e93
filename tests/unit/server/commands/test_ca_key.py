"""The CA's key: off the machine or under a passphrase, and good for the centre's hosts alone."""

import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from protocol.files import write_bytes
from protocol.keys import KeyFileError, make_key, read_certificate
from server.admin import passphrase
from server.admin.centre import read_centre
from server.admin.certificates import Identity, _builder, _name, issue_server
from server.admin.passphrase import read_pem_key
from server.admin.signing import read_private
from server.cli import app

HOSTS = ("centre.example.org", "10.1.2.3", "fd00::7")
SECRET = "six random words on paper"  # pragma: allowlist secret


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "centre"
    assert run("init", "--host", ",".join(HOSTS), centre=folder).exit_code == 0
    return folder


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A centre whose keys have a passphrase, which is in the environment no more."""
    folder = tmp_path / "locked"
    with monkeypatch.context() as patch:
        patch.setenv("ASDNET_PASSPHRASE", SECRET)
        result = run("init", "--passphrase", "--host", HOSTS[0], centre=folder)
    assert result.exit_code == 0, result.output
    assert "ca.key and study.key are encrypted" in result.stdout and SECRET not in result.output
    return folder


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is typed at the terminal."""
    typed: list[str] = []
    monkeypatch.setattr(passphrase.getpass, "getpass", lambda prompt: typed.pop(0))
    passphrase._asked_once.cache_clear()
    return typed


def run(*arguments: str, centre: Path) -> Result:
    return CliRunner().invoke(app, [*arguments, "--centre", str(centre)])


def ca_of(folder: Path) -> Identity:
    """What a thief has."""
    return Identity(
        key=read_pem_key(folder / "ca.key"), certificate=read_certificate(folder / "ca.pem")
    )


# ---- A passphrase -------------------------------------------------------------------------------


def test_without_the_passphrase_the_keys_are_of_no_use(locked: Path) -> None:
    for name in ("ca.key", "study.key"):
        content = (locked / name).read_bytes()
        assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        with pytest.raises(TypeError, match="encrypted"):
            load_pem_private_key(content, None)
        with pytest.raises(ValueError, match="password"):
            load_pem_private_key(content, b"a guess of a password")
        load_pem_private_key(content, SECRET.encode())
    # The SuperLink starts by itself.
    load_pem_private_key((locked / "server.key").read_bytes(), None)


def test_renewal_asks_for_it(locked: Path, answers: list[str]) -> None:
    before = (locked / "server.pem").read_bytes()
    answers.append("not the passphrase")
    result = run("renew", centre=locked)
    assert (result.exit_code, (locked / "server.pem").read_bytes()) == (2, before)
    assert "ca.key: the passphrase is wrong" in result.stderr
    passphrase._asked_once.cache_clear()
    answers.append(SECRET)
    assert run("renew", centre=locked).exit_code == 0
    assert (locked / "server.pem").read_bytes() != before and answers == []


def test_signing_a_study_asks_for_it_once(locked: Path, answers: list[str]) -> None:
    answers.append(SECRET)
    assert read_private(locked, None).public_key() == read_private(locked, None).public_key()
    passphrase._asked_once.cache_clear()
    answers.append("not the passphrase")
    with pytest.raises(KeyFileError, match=r"study\.key: the passphrase is wrong"):
        read_private(locked, None)


def test_a_new_key_for_studies_is_locked_as_the_old_one(locked: Path, answers: list[str]) -> None:
    answers += [SECRET, SECRET]
    assert run("renew", "--signing-key", centre=locked).exit_code == 0
    assert (locked / "study.key").read_bytes().startswith(b"-----BEGIN ENCRYPTED")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["nineteen characters", "nineteen characters"], "must be of 20 characters or more"),
        ([SECRET, SECRET + "."], "the passphrases differ"),
        (["", ""], "must be of 20 characters or more"),
    ],
)
def test_a_passphrase_that_is_not_taken_leaves_no_centre(
    tmp_path: Path, answers: list[str], typed: list[str], words: str
) -> None:
    answers += typed
    result = run("init", "--passphrase", "--host=a", centre=tmp_path / "c")
    assert result.exit_code == 2 and words in result.stderr
    assert not (tmp_path / "c").exists()


def test_a_supervisor_gives_it_as_an_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.write(writing, f"{SECRET}\n".encode())
    os.close(writing)
    monkeypatch.setenv("ASDNET_PASSPHRASE_FD", str(reading))
    assert run("init", "--passphrase", "--host=a", centre=tmp_path / "c").exit_code == 0
    os.close(reading)
    load_pem_private_key((tmp_path / "c/ca.key").read_bytes(), SECRET.encode())
    monkeypatch.setenv("ASDNET_PASSPHRASE_FD", "no number")
    result = run("init", "--passphrase", "--host=a", centre=tmp_path / "d")
    assert "ASDNET_PASSPHRASE_FD: must be the number" in result.stderr


def test_where_nobody_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(passphrase.getpass, "getpass", no_terminal)
    result = run("init", "--passphrase", "--host=a", centre=tmp_path / "c")
    assert result.exit_code == 2 and "set ASDNET_PASSPHRASE" in result.stderr


# ---- Off the machine ----------------------------------------------------------------------------


def test_init_says_how_to_take_it_away_and_renew_takes_it_from_there(
    folder: Path, tmp_path: Path
) -> None:
    result = run("init", "--host=a", centre=tmp_path / "my centre")
    assert f"  mv '{tmp_path}/my centre/ca.key' /media/SAFE/ca.key" in result.stdout
    assert "asdnet-centre renew --ca-key FILE" in result.stdout
    (folder / "ca.key").rename(tmp_path / "stick.key")
    before = (folder / "server.pem").read_bytes()
    result = run("renew", centre=folder)
    assert result.exit_code == 2 and "--ca-key FILE" in result.stderr
    assert run("renew", "--ca-key", str(tmp_path / "stick.key"), centre=folder).exit_code == 0
    assert (folder / "server.pem").read_bytes() != before
    assert not (folder / "ca.key").exists()


def test_the_list_says_where_it_is(folder: Path, locked: Path) -> None:
    assert "ca.key: NOT encrypted" in run("list", centre=folder).stdout
    assert "ca.key: encrypted" in run("list", centre=locked).stdout
    assert '"ca_key": "encrypted"' in run("list", "--json", centre=locked).stdout
    (folder / "ca.key").unlink()
    assert "ca.key: not on this machine" in run("list", centre=folder).stdout


# ---- Whom the CA may vouch for ------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["hospital.example.net", "example.org", "10.1.2.4", "127.0.0.2", "fd00::8", "::2"]
)
def test_a_stolen_ca_vouches_for_no_other_host(folder: Path, host: str, tmp_path: Path) -> None:
    """As held by cryptography; and the thief's server by OpenSSL, as Flower's client uses it."""
    thief = issue_server(ca_of(folder), (host,), 30, datetime.now(UTC))
    assert thief.certificate.issuer == read_certificate(folder / "ca.pem").subject
    names = thief.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    policy = PolicyBuilder().store(Store([read_certificate(folder / "ca.pem")]))
    with pytest.raises(VerificationError, match="name constraint"):
        policy.build_server_verifier(names.value[0]).verify(thief.certificate, [])  # type: ignore[arg-type]
    with pytest.raises(httpx.ConnectError, match="permitted subtree violation"):
        call(folder, thief, tmp_path)


def test_the_centres_own_certificate_is_taken_as_before(folder: Path, tmp_path: Path) -> None:
    own = issue_server(ca_of(folder), HOSTS, 30, datetime.now(UTC))
    assert call(folder, own, tmp_path) == 200


def call(folder: Path, server: Identity, tmp_path: Path) -> int:
    """A call of a server by 127.0.0.1, as a SuperNode makes it; the status."""
    write_bytes(tmp_path / "thief.pem", server.certificate_pem + server.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "thief.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_once, args=(listener, context))
        thread.start()
        # As flwr.supercore.protobuf.client has it.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        verify.load_verify_locations(cadata=(folder / "ca.pem").read_text())
        try:
            with httpx.Client(verify=verify) as client:
                return client.get(f"https://127.0.0.1:{listener.getsockname()[1]}/").status_code
        finally:
            thread.join(10)


def answer_once(listener: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listener.accept()
    connection.settimeout(5)
    try:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(4096)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    except OSError:
        connection.close()


def test_a_host_that_the_ca_may_not_vouch_for_needs_a_new_centre(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    result = run("renew", "--host", f"new.example.net,{HOSTS[0]},10.1.2.4", centre=folder)
    assert result.exit_code == 2
    assert "--host: new.example.net, 10.1.2.4: this CA may vouch only for" in result.stderr
    assert "make a new centre in another folder (init)" in result.stderr
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_an_old_centre_goes_on(folder: Path) -> None:
    """Its CA has no constraints, and so takes any host."""
    now, key = datetime.now(UTC), make_key()
    name = _name("ASDNet federation CA")
    builder = _builder(name, name, key, now, now + timedelta(days=90)).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    old = Identity(key=key, certificate=builder.sign(key, hashes.SHA384()))
    write_bytes(folder / "ca.key", old.key_pem)
    write_bytes(folder / "ca.pem", old.certificate_pem)
    result = run("renew", "--host", "new.example.net", centre=folder)
    assert result.exit_code == 0, result.output
    assert read_centre(folder).hosts == ("new.example.net",)


# ---- Other users of the machine -----------------------------------------------------------------


@pytest.fixture
def wide() -> Iterator[None]:
    """The widest umask, as a careless system sets it."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("wide")
def test_nothing_of_a_centre_is_readable_by_others(tmp_path: Path) -> None:
    folder = tmp_path / "centre"
    assert run("init", "--host=a", centre=folder).exit_code == 0
    assert run("renew", centre=folder).exit_code == 0
    open_ = {p.name for p in [folder, *folder.rglob("*")] if stat.S_IMODE(p.stat().st_mode) & 0o077}
    assert open_ == set()
    made = tmp_path / "afterwards"
    made.touch()
    assert stat.S_IMODE(made.stat().st_mode) == 0o666, "the process's own umask is as before"
