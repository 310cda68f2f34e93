"""A centre's certificates, held to be good by two other implementations, and its list of sites."""

import json
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
from protocol.keys import (
    KeyFileError,
    certificate_fingerprint,
    make_key,
    openssh_fingerprint,
    openssh_line,
    openssh_private,
    read_certificate,
    read_signing_key,
    read_verifying_key,
)
from server.admin.centre import (
    Centre,
    CentreError,
    approved_cases,
    create_centre,
    read_centre,
    read_sites,
    superlink_arguments,
)
from server.admin.certificates import HostError, check_hosts
from server.admin.site_keys import DEFAULT_CASES
from server.cli import app

HOSTS = ("centre.example.org", "10.1.2.3", "fd00::7")
PRIVATE_FILES = {"ca.key", "server.key", "study.key", "owner.token"}


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """A registry whose SuperLink runs; the sites that it was told of, call by call."""
    calls: list[set[str]] = []

    def sync_sites(centre: Centre) -> list[str]:
        calls.append(set(read_sites(centre)))
        return [f"the SuperLink now admits {len(calls[-1])}"]

    registry = ModuleType("server.admin.registry")
    vars(registry).update(sync_sites=sync_sites)
    monkeypatch.setitem(sys.modules, "server.admin.registry", registry)
    return calls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A centre's folder, initialised."""
    folder = tmp_path / "centre"
    result = run("init", "--host", ",".join(HOSTS), centre=folder)
    assert result.exit_code == 0, result.output
    return folder


def run(*arguments: str, centre: Path) -> Result:
    return CliRunner().invoke(app, [*arguments, "--centre", str(centre)])


def send_key(
    tmp_path: Path, name: str, key: ec.EllipticCurvePrivateKey | None = None
) -> tuple[str, str]:
    """The option that names a site's public key file, and the key's fingerprint."""
    public = (key or make_key()).public_key()
    path = tmp_path / f"{name}.pub"
    path.write_text(f"{openssh_line(public, name)}\n", encoding="utf-8")
    return f"--public-key={path}", openssh_fingerprint(public)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def verify(folder: Path, host: str, at: datetime | None = None, ca: Path | None = None) -> None:
    """By cryptography's own reading of RFC 5280."""
    trusted = read_certificate(ca or folder / "ca.pem")
    try:
        subject: x509.IPAddress | x509.DNSName = x509.IPAddress(ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    policy = PolicyBuilder().store(Store([trusted])).time(at or datetime.now(UTC))
    policy.build_server_verifier(subject).verify(read_certificate(folder / "server.pem"), [])


# What init makes


def test_a_centre_is_private_and_whole(folder: Path) -> None:
    centre = read_centre(folder)
    assert (centre.hosts, centre.port, centre.days) == (HOSTS, 9092, 397)
    assert mode(folder) == 0o700
    files = {path.name for path in folder.iterdir() if path.is_file()}
    public = {"centre.json", "sites.json", "ca.pem", "server.pem", "study.pub"}
    assert files == public | PRIVATE_FILES
    assert {name: mode(folder / name) for name in PRIVATE_FILES} == dict.fromkeys(
        PRIVATE_FILES, 0o600
    )
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"flower", "runs", "logs"}
    assert read_sites(centre) == {}


def test_the_ca_signs_servers_and_nothing_else(folder: Path) -> None:
    ca, server = read_certificate(folder / "ca.pem"), read_certificate(folder / "server.pem")
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = server.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (False, False, True)
    purposes = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    issuer = server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == own
    for certificate, name in ((ca, "ca.key"), (server, "server.key")):
        key = load_pem_private_key((folder / name).read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP384R1)
        assert key.public_key() == certificate.public_key()


def test_validity_is_as_asked_with_room_for_slow_clocks(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    folder = tmp_path / "c"
    assert run("init", "--host=a", "--days=20", "--ca-days=40", centre=folder).exit_code == 0
    for name, days in (("ca.pem", 40), ("server.pem", 20)):
        certificate = read_certificate(folder / name)
        assert certificate.not_valid_before_utc < before - timedelta(minutes=4)
        late = certificate.not_valid_after_utc - (before + timedelta(days=days))
        assert timedelta(0) <= late < timedelta(minutes=1)


@pytest.mark.parametrize("host", [*HOSTS, "localhost", "127.0.0.1", "::1"])
def test_every_host_is_verified(folder: Path, host: str) -> None:
    verify(folder, host)


def test_what_must_not_be_verified_is_not(folder: Path, tmp_path: Path) -> None:
    for host in ("other.example.org", "example.org", "10.1.2.4"):
        with pytest.raises(VerificationError, match="leaf certificate has no matching"):
            verify(folder, host)
    assert run("init", "--host", HOSTS[0], centre=tmp_path / "other").exit_code == 0
    with pytest.raises(VerificationError):
        verify(folder, HOSTS[0], ca=tmp_path / "other" / "ca.pem")
    now = datetime.now(UTC)
    verify(folder, HOSTS[0], at=now + timedelta(days=396))
    for moment in (now + timedelta(days=398), now - timedelta(minutes=10)):
        with pytest.raises(VerificationError, match="not valid at validation time"):
            verify(folder, HOSTS[0], at=moment)


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """A TLS server on loopback with the centre's files, for one connection; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(5)
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(b"hello")
        except OSError:  # the client hung up, as it should with a wrong host or CA
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(timeout=10)


def shake_hands(port: int, ca: Path, host: str) -> bytes:
    context = ssl.create_default_context(cafile=ca)
    # Python 3.13's default, which refuses certificates that break RFC 5280.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.recv(5)


@pytest.mark.parametrize("host", ["centre.example.org", "10.1.2.3", "localhost", "127.0.0.1"])
def test_a_tls_connection_opens(folder: Path, host: str) -> None:
    with serving(folder) as port:
        assert shake_hands(port, folder / "ca.pem", host) == b"hello"


def test_a_tls_connection_to_another_name_is_refused(folder: Path) -> None:
    with (
        serving(folder) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        shake_hands(port, folder / "ca.pem", "other.example.org")


def test_a_tls_connection_by_another_ca_is_refused(folder: Path, tmp_path: Path) -> None:
    assert run("init", "--host", HOSTS[0], centre=tmp_path / "other").exit_code == 0
    with (
        serving(folder) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"),
    ):
        shake_hands(port, tmp_path / "other" / "ca.pem", HOSTS[0])


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "my centre"
    result = run("init", "--host", "fd00::7", "--port", "19092", centre=folder)
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert f"asdnet-centre superlink --centre '{folder}'" in lines
    assert "flower-superlink" not in result.stdout, "that command has no gate"
    assert certificate_fingerprint(read_certificate(folder / "ca.pem")) in result.stdout
    assert "the address           [fd00::7]:19092" in lines
    assert f"the key for studies   {folder}/study.pub" in lines
    fingerprint = openssh_fingerprint(read_verifying_key(folder / "study.pub"))
    assert f"its fingerprint       {fingerprint}" in lines


def test_the_superlink_is_started_safely(folder: Path) -> None:
    assert superlink_arguments(read_centre(folder)) == [
        *("--host", "0.0.0.0", "--port", "9092"),
        *("--ssl-certfile", f"{folder}/server.pem", "--ssl-keyfile", f"{folder}/server.key"),
        *("--ssl-ca-certfile", f"{folder}/ca.pem"),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", f"{folder}/superlink.db"),
    ]


# What init refuses


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    result = run("init", "--host", "x", centre=folder)
    assert result.exit_code == 2
    assert f"{folder}: is a centre already" in result.stderr
    assert contents(folder) == before

    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "other" / "ca.key").write_text("mine", encoding="utf-8")
    result = run("init", "--host", "x", centre=tmp_path / "other")
    assert result.exit_code == 2
    assert "is not an empty folder" in result.stderr
    assert contents(tmp_path / "other") == {"ca.key": b"mine"}
    assert mode(tmp_path / "other") & 0o055  # a folder of others keeps its mode


def test_an_empty_folder_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir(mode=0o755)
    assert run("init", "--host", "x", centre=tmp_path / "c").exit_code == 0
    assert mode(tmp_path / "c") == 0o700


def test_an_init_that_fails_leaves_no_half_centre(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(centre: Centre, sites: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("server.admin.centre.write_sites", full)
        result = run("init", "--host", "x", centre=tmp_path / "c")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert list((tmp_path / "c").iterdir()) == []
    assert run("init", "--host", "x", centre=tmp_path / "c").exit_code == 0


def test_all_mistakes_of_init_are_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "https://c.example.org": "has a scheme",
        "c.example.org/x": "has a slash",
        "c.example.org:9092": "has a port",
        "c example": "has a space",
        "[fd00::7]": "has brackets",
        "*.example.org": "is not a host name",
        "under_score": "is not a host name",
        "-a": "is not a host name",
        "a..b": "is not a host name",
        "10.0.0.300": "is neither an IP address nor a host name",
        "0.0.0.0": "means every address",
        "fe80::1%eth0": "has a zone",
        "münchen.de": "has letters outside ASCII",
    }
    hosts = [f"--host={host}" for host in wrong]
    result = run("init", *hosts, "--days=50", "--ca-days=49", centre=tmp_path / "c")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == len(wrong) + 1
    for line, (host, rule) in zip(lines, wrong.items(), strict=False):
        assert line.startswith(f"error: --host: {host!r} {rule}")
    assert lines[-1] == "error: --days: must be at most --ca-days (49), not 50"
    assert not (tmp_path / "c").exists()


def test_hosts_are_named_once_in_their_order() -> None:
    assert check_hosts(["B.example, a", "b.example", "FD00::0:7,fd00::7"]) == (
        "b.example",
        "a",
        "fd00::7",
    )
    with pytest.raises(HostError, match="name the host that sites connect to"):
        check_hosts([" , "])


def test_what_is_no_centre_is_told_with_the_remedy(tmp_path: Path) -> None:
    for command in (["list"], ["renew"], ["remove-site", "A"]):
        result = run(*command, centre=tmp_path / "none")
        assert result.exit_code == 2
        assert "run: asdnet-centre init --host NAME" in result.stderr


def test_every_mistake_of_centre_json_is_told(folder: Path) -> None:
    (folder / "centre.json").write_text(
        json.dumps({"hosts": ["a b"], "port": 0, "dayz": 3}), encoding="utf-8"
    )
    with pytest.raises(CentreError) as error:
        read_centre(folder)
    place = str(folder / "centre.json")
    assert [line.partition(" (")[0] for line in str(error.value).splitlines()] == [
        f"{place}: hosts: 'a b' has a space; separate hosts by commas",
        f"{place}: port: must be 1 or more, not 0",
        f"{place}: dayz: unknown key; remove it or correct its spelling",
    ]


# Sites


def entry_bytes(folder: Path, site: str) -> str:
    """A site's part of sites.json, as it is written."""
    text = (folder / "sites.json").read_text(encoding="utf-8")
    return text[text.index(f'  "{site}": {{') :].partition("}")[0]


def test_adding_and_removing_touch_no_other_site(
    folder: Path, tmp_path: Path, told: list[set[str]]
) -> None:
    for site in ("B", "D"):
        assert run("add-site", site, send_key(tmp_path, site)[0], centre=folder).exit_code == 0
    before = {site: entry_bytes(folder, site) for site in ("B", "D")}
    assert before["B"] != before["D"]

    option, fingerprint = send_key(tmp_path, "C")
    result = run("add-site", "C", option, centre=folder)
    assert result.exit_code == 0
    assert f"  {fingerprint}\n" in result.stdout
    assert "reads out by telephone" in result.stdout
    assert "the SuperLink now admits 3" in result.stdout
    assert list(json.loads((folder / "sites.json").read_bytes())) == ["B", "C", "D"]
    assert {site: entry_bytes(folder, site) for site in before} == before

    result = run("remove-site", "C", centre=folder)
    assert result.exit_code == 0
    assert fingerprint in result.stdout
    assert list(json.loads((folder / "sites.json").read_bytes())) == ["B", "D"]
    assert {site: entry_bytes(folder, site) for site in before} == before
    assert told == [{"B"}, {"B", "D"}, {"B", "C", "D"}, {"B", "D"}]


def test_an_entry_holds_key_fingerprint_and_date(folder: Path, tmp_path: Path) -> None:
    key = make_key()
    option, fingerprint = send_key(tmp_path, "A", key)
    started = datetime.now(UTC).replace(microsecond=0)
    assert run("add-site", "A", option, centre=folder).exit_code == 0
    entry = json.loads((folder / "sites.json").read_bytes())["A"]
    added = entry.pop("added")
    assert entry.pop("max_cases") == DEFAULT_CASES
    assert entry == {"public_key": openssh_line(key.public_key()), "fingerprint": fingerprint}
    assert added.endswith("Z")
    assert started <= datetime.fromisoformat(added) <= datetime.now(UTC)


def test_the_same_key_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    option, fingerprint = send_key(tmp_path, "A")
    run("add-site", "A", option, centre=folder)
    before = (folder / "sites.json").read_bytes()
    result = run("add-site", "A", option, centre=folder)
    assert result.exit_code == 0
    assert f"site A is there already with this key\n  {fingerprint}\n" in result.stdout
    assert (folder / "sites.json").read_bytes() == before


def test_how_many_cases_a_site_may_declare(folder: Path, tmp_path: Path) -> None:
    option, _ = send_key(tmp_path, "A")
    result = run("add-site", "A", option, centre=folder)
    assert "it may declare at most 500 training cases\n" in result.stdout
    assert "warning: nobody has said how many cases site A has" in result.stderr
    assert "run this again with --max-cases" in result.stderr
    result = run("add-site", "A", option, "--max-cases=12", centre=folder)
    assert "it may declare at most 12 training cases\n" in result.stdout
    assert result.stderr == ""
    # Without the option nothing changes.
    assert "at most 12 training" in run("add-site", "A", option, centre=folder).stdout
    other, _ = send_key(tmp_path, "B")
    assert run("add-site", "B", other, "--max-cases=100000", centre=folder).stderr == ""
    assert approved_cases(folder) == {"A": 12, "B": 100_000}
    listed = run("list", centre=folder).stdout
    assert "training cases that a site may declare: A 12, B 100000\n" in listed
    content = json.loads(run("list", "--json", centre=folder).stdout)
    assert content["sites"]["A"]["max_cases"] == 12
    for bad in ("0", "-1", "100001", "many", "1e6"):
        result = run("add-site", "A", option, f"--max-cases={bad}", centre=folder)
        assert result.exit_code == 2 and "--max-cases" in result.stderr
    assert approved_cases(folder) == {"A": 12, "B": 100_000}


def test_an_older_list_of_sites_has_the_default(folder: Path, tmp_path: Path) -> None:
    run("add-site", "A", send_key(tmp_path, "A")[0], centre=folder)
    path = folder / "sites.json"
    content = json.loads(path.read_bytes())
    del content["A"]["max_cases"]
    path.write_text(json.dumps(content))
    assert read_sites(read_centre(folder))["A"].max_cases == DEFAULT_CASES
    assert approved_cases(folder) == {"A": DEFAULT_CASES}
    assert approved_cases(tmp_path) is None
    content["A"]["max_cases"] = 0
    path.write_text(json.dumps(content))
    assert "sites.json: A.max_cases" in run("list", centre=folder).stderr


def test_what_add_site_refuses(folder: Path, tmp_path: Path, told: list[set[str]]) -> None:
    a, a_fingerprint = send_key(tmp_path, "A")
    run("add-site", "A", a, centre=folder)
    before = (folder / "sites.json").read_bytes()
    other, _ = send_key(tmp_path, "other")
    p256, _ = send_key(tmp_path, "p256", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "site.key").write_bytes(openssh_private(make_key()))
    for site, option, message in [
        ("A", other, f"site A is there already with another key ({a_fingerprint})"),
        ("A", other, "first run: remove-site A"),
        ("B", a, "this key is registered already, as site A"),
        ("a b", other, "site 'a b': a name is a letter or digit"),
        ("../A", other, "site '../A': a name is"),
        ("A\n", a, "a name is"),
        ("B", p256, "must be an EC P-384 key (ecdsa-sha2-nistp384), not ecdsa-sha2-nistp256"),
        ("B", f"--public-key={tmp_path / 'site.key'}", "this is a PRIVATE key, it must never"),
        ("B", f"--public-key={tmp_path / 'none'}", "cannot be read (No such file"),
    ]:
        result = run("add-site", site, option, centre=folder)
        assert result.exit_code == 2, message
        assert message in result.stderr
        assert result.stdout == ""
    assert (folder / "sites.json").read_bytes() == before
    assert told == [{"A"}]


def test_removing_an_unknown_site_names_those_that_exist(folder: Path, tmp_path: Path) -> None:
    result = run("remove-site", "C", centre=folder)
    assert (result.exit_code, result.stderr) == (
        2,
        "error: site 'C' is not there; the sites are: none yet\n",
    )
    for site in ("B", "A"):
        run("add-site", site, send_key(tmp_path, site)[0], centre=folder)
    result = run("remove-site", "C", centre=folder)
    assert (result.exit_code, result.stderr) == (
        2,
        "error: site 'C' is not there; the sites are: A, B\n",
    )


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (SuperLinkUnreachable("no answer"), 0, "not running; it will be told when it starts"),
        (RuntimeError("no such node"), 2, "the SuperLink does not follow it: no such node"),
    ],
)
def test_the_list_is_written_even_if_the_superlink_is_not_told(
    folder: Path, tmp_path: Path, error: Exception, status: int, message: str
) -> None:
    def fails(centre: Centre) -> list[str]:
        raise error

    vars(sys.modules["server.admin.registry"])["sync_sites"] = fails
    result = run("add-site", "A", send_key(tmp_path, "A")[0], centre=folder)
    assert result.exit_code == status
    assert message in result.output
    assert set(read_sites(read_centre(folder))) == {"A"}


@pytest.mark.parametrize("command", ["add-site", "remove-site"])
def test_a_key_that_the_superlink_refuses_ends_with_status_2(
    folder: Path, tmp_path: Path, command: str
) -> None:
    lines = ["site B: no longer admitted", "site A: NOT admitted: the SuperLink refuses its key"]
    option, _ = send_key(tmp_path, "B")
    assert run("add-site", "B", option, centre=folder).exit_code == 0

    def refuses(centre: Centre) -> list[str]:
        raise SuperLinkRefused("\n".join(lines))

    vars(sys.modules["server.admin.registry"])["sync_sites"] = refuses
    if command == "add-site":
        result = run("add-site", "A", send_key(tmp_path, "A")[0], centre=folder)
    else:
        result = run("remove-site", "B", centre=folder)
    assert result.exit_code == 2
    for line in lines:
        assert f"{line}\n" in result.stderr
    # Starting anew would not help.
    assert "restart" not in result.output
    expected = {"A", "B"} if command == "add-site" else set()
    assert set(read_sites(read_centre(folder))) == expected


def test_a_tampered_list_is_told(folder: Path, tmp_path: Path) -> None:
    run("add-site", "A", send_key(tmp_path, "A")[0], centre=folder)
    content = json.loads((folder / "sites.json").read_bytes())
    content["A"]["public_key"] = openssh_line(make_key().public_key())
    (folder / "sites.json").write_text(json.dumps(content), encoding="utf-8")
    result = run("list", centre=folder)
    assert result.exit_code == 2
    assert "sites.json: A.fingerprint: is not the key's, which is SHA256:" in result.stderr


# Renewal


def test_renewal_keeps_the_ca_and_the_hosts(folder: Path) -> None:
    before = contents(folder)
    result = run("renew", "--days", "100", centre=folder)
    assert result.exit_code == 0, result.output
    assert "Restart the SuperLink" in result.stdout
    assert "hospitals need nothing new" in result.stdout
    assert "Sites must set" not in result.stdout
    after = contents(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"server.key", "server.pem", "centre.json"}
    assert set(after) - set(before) == {"server.key.previous", "server.pem.previous"}
    assert after["server.key.previous"] == before["server.key"]
    assert after["server.pem.previous"] == before["server.pem"]
    assert mode(folder / "server.key") == mode(folder / "server.key.previous") == 0o600
    assert read_centre(folder).days == 100
    for host in (*HOSTS, "localhost"):
        verify(folder, host)
    with pytest.raises(VerificationError, match="not valid at validation time"):
        verify(folder, HOSTS[0], at=datetime.now(UTC) + timedelta(days=101))
    with serving(folder) as port:  # key and certificate are of one pair
        assert shake_hands(port, folder / "ca.pem", HOSTS[0]) == b"hello"


def test_renewal_can_change_the_hosts(folder: Path) -> None:
    """To others of those that the CA may vouch for, and to names under them."""
    result = run("renew", "--host", f"new.{HOSTS[0]}", "--host", HOSTS[1], centre=folder)
    assert result.exit_code == 0, result.output
    assert f"Sites must set `centre: new.{HOSTS[0]}:9092`" in result.stdout
    assert read_centre(folder).hosts == (f"new.{HOSTS[0]}", HOSTS[1])
    verify(folder, f"new.{HOSTS[0]}")
    with pytest.raises(VerificationError):
        verify(folder, HOSTS[0])


def test_renewal_refuses_wrong_hosts(folder: Path) -> None:
    before = contents(folder)
    result = run("renew", "--host", "a:1,b/c", centre=folder)
    assert result.exit_code == 2
    assert [line.partition(";")[0] for line in result.stderr.splitlines()] == [
        "error: --host: 'a:1' has a port",
        "error: --host: 'b/c' has a slash",
    ]
    assert contents(folder) == before


def test_a_renewal_that_fails_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)

    def fails(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("server.admin.centre.os.replace", fails)
    result = run("renew", centre=folder)
    assert result.exit_code == 2
    assert "Input/output error" in result.stderr
    assert contents(folder) == before


def test_a_certificate_ends_with_its_ca(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    run("init", "--host=a", "--days=5", "--ca-days=10", centre=folder)
    assert run("renew", "--days", "100", centre=folder).exit_code == 0
    ca, server = read_certificate(folder / "ca.pem"), read_certificate(folder / "server.pem")
    assert server.not_valid_after_utc == ca.not_valid_after_utc


def test_an_expired_ca_signs_nothing(tmp_path: Path) -> None:
    folder = made_long_ago(tmp_path, days=2, ca_days=4, ago=5)
    before = contents(folder)
    result = run("renew", centre=folder)
    assert result.exit_code == 2
    assert "the CA expired on" in result.stderr
    assert contents(folder) == before


def test_a_foreign_ca_key_signs_nothing(folder: Path) -> None:
    foreign = make_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "ca.key").write_bytes(foreign)
    before = contents(folder)
    result = run("renew", centre=folder)
    assert result.exit_code == 2
    assert "ca.key: is not the key of ca.pem" in result.stderr
    assert contents(folder) == before
    (folder / "ca.key").write_bytes(b"nonsense")
    assert "must be an EC private key in PEM form" in run("renew", centre=folder).stderr
    (folder / "ca.key").unlink()
    assert "ca.key: is not there; name the place" in run("renew", centre=folder).stderr


# The list


def made_long_ago(tmp_path: Path, *, days: int, ca_days: int, ago: int) -> Path:
    folder = tmp_path / "old"
    centre = Centre(folder=folder, hosts=("a.example.org",), days=days)
    create_centre(centre, ca_days, datetime.now(UTC) - timedelta(days=ago, hours=-1))
    return folder


def test_the_list_shows_certificates_and_sites(folder: Path, tmp_path: Path) -> None:
    option, fingerprint = send_key(tmp_path, "A")
    run("add-site", "A", option, centre=folder)
    result = run("list", centre=folder)
    assert (result.exit_code, result.stderr) == (0, "")
    for name in ("ca.pem", "server.pem"):
        assert certificate_fingerprint(read_certificate(folder / name)) in result.stdout
    for host in (*HOSTS, "localhost", "127.0.0.1", "::1"):
        assert f" {host} " in result.stdout
    (row,) = (line for line in result.stdout.splitlines() if fingerprint in line)
    assert row.split()[1] == "A"
    assert f"{datetime.now(UTC):%Y-%m}" in row


def test_a_fingerprint_is_not_read_as_emoji(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "server.commands.provision.certificate_fingerprint", lambda _: "01:AB:02:CD:[b]"
    )
    for command in (["init", "--host=a"], ["list"], ["renew"]):
        assert "01:AB:02:CD:[b]\n" in run(*command, centre=tmp_path / "c").stdout


def test_the_list_as_json(folder: Path, tmp_path: Path) -> None:
    option, fingerprint = send_key(tmp_path, "A")
    run("add-site", "A", option, centre=folder)
    content = json.loads(run("list", "--json", centre=folder).stdout)
    assert content["address"] == "centre.example.org:9092"
    assert content["hosts"] == [*HOSTS, "localhost", "127.0.0.1", "::1"]
    server = read_certificate(folder / "server.pem")
    assert content["certificates"]["server"] == {
        "sha256": certificate_fingerprint(server),
        "expires": server.not_valid_after_utc.isoformat(),
        "days_left": 396,
    }
    assert content["certificates"]["CA"]["days_left"] == 3649
    assert content["sites"]["A"]["fingerprint"] == fingerprint


def test_the_list_warns_before_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    run("init", "--host=a", "--days=10", centre=folder)
    result = run("list", centre=folder)
    assert result.exit_code == 0
    end = read_certificate(folder / "server.pem").not_valid_after_utc
    assert result.stderr == (
        f"warning: server: 9 days left, until {end:%Y-%m-%d};"
        f" run: asdnet-centre renew --centre {folder}\n"
    )
    assert run("list", "--warn-days=9", centre=folder).stderr == ""
    assert run("list", "--warn-days=10", centre=folder).stderr == result.stderr
    run("renew", "--days=50", centre=folder)
    assert run("list", centre=folder).stderr == ""


def test_the_list_fails_after_the_end(tmp_path: Path) -> None:
    folder = made_long_ago(tmp_path, days=3, ca_days=20, ago=5)
    for options in ([], ["--json"]):
        result = run("list", *options, centre=folder)
        assert result.exit_code == 1
        error, warning = result.stderr.splitlines()
        assert error.startswith("error: server: expired on ")
        assert warning.startswith("warning: CA: 15 days left")
        assert "send every hospital its ca.pem" in warning
    assert json.loads(result.stdout)["certificates"]["server"]["days_left"] < 0


def test_a_mixed_pair_is_told(folder: Path) -> None:
    run("renew", centre=folder)
    (folder / "server.key").write_bytes((folder / "server.key.previous").read_bytes())
    result = run("list", centre=folder)
    assert result.exit_code == 1
    assert "server.key and server.pem are not of one pair; run `renew`" in result.stderr


def test_a_missing_certificate_is_told(folder: Path) -> None:
    (folder / "server.pem").unlink()
    result = run("list", centre=folder)
    assert result.exit_code == 2
    assert f"{folder}/server.pem: cannot be read" in result.stderr
    with pytest.raises(KeyFileError):
        read_certificate(folder / "server.pem")
    assert run("renew", centre=folder).exit_code == 0  # which mends it
    verify(folder, HOSTS[0])


# The key for studies


def test_studies_are_signed_by_a_key_of_their_own(folder: Path) -> None:
    key = read_signing_key(folder / "study.key")
    assert read_verifying_key(folder / "study.pub") == key.public_key()
    assert (folder / "study.pub").read_text(encoding="utf-8").endswith(" asdnet-centre\n")
    fingerprint = openssh_fingerprint(key.public_key())
    assert f"fingerprint of study.pub: {fingerprint}" in run("list", centre=folder).stdout
    assert json.loads(run("list", "--json", centre=folder).stdout)["study_key"] == fingerprint


def test_a_new_key_for_studies_is_all_that_changes(folder: Path) -> None:
    before = contents(folder)
    result = run("renew", "--signing-key", centre=folder)
    assert result.exit_code == 0, result.output
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} == {"study.key", "study.pub"}
    for name in ("study.key", "study.pub"):
        assert after[f"{name}.previous"] == before[name]
    assert mode(folder / "study.key") == mode(folder / "study.key.previous") == 0o600
    public = read_verifying_key(folder / "study.pub")
    assert openssh_fingerprint(public) in result.stdout
    assert "have every site approve it again" in result.stdout


def test_a_centre_that_is_older_gets_its_first_key_for_studies(folder: Path) -> None:
    for name in ("study.key", "study.pub"):
        (folder / name).unlink()
    listed = run("list", centre=folder)
    assert listed.exit_code == 0
    assert "study.pub: is not there, no study can be signed; run: asdnet-centre renew" in (
        listed.stderr
    )
    assert run("renew", "--signing-key", centre=folder).exit_code == 0
    assert read_signing_key(folder / "study.key")
    assert run("list", centre=folder).stderr == ""


def test_a_new_key_for_studies_goes_with_no_other_option(folder: Path) -> None:
    before = contents(folder)
    result = run("renew", "--signing-key", "--days=3", centre=folder)
    assert result.exit_code == 2
    assert "--signing-key: not with --days, --host or --ca-key" in result.stderr
    assert contents(folder) == before
