"""The way to the centre, looked at over real TLS servers on loopback."""

import base64
import errno
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

import client.node.connection
from client.node.checks import Result, Skip
from client.node.connection import connection_checks
from protocol.config.site import SiteConfig
from protocol.keys import certificate_fingerprint

ROWS = ["centre", "DNS", "TCP", "TLS chain", "host name", "expiry", "clock"]
DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def sign(
    name: str,
    *,
    by: Signed | None = None,
    names: tuple[str, ...] = (),
    first: timedelta = -DAY,
    last: timedelta = 365 * DAY,
) -> Signed:
    """A certificate; without `by` it signs itself and may sign others."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + first)
        .not_valid_after(now + last)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    )
    if names:
        alternatives = [
            x509.IPAddress(ipaddress.ip_address(item)) if item[0].isdigit() else x509.DNSName(item)
            for item in names
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    signer = by.key if by else key
    return Signed(key=key, certificate=builder.sign(signer, hashes.SHA256()))


class Server(ThreadingHTTPServer):
    """Answers any GET; over TLS where it has a context."""

    daemon_threads = True
    ahead_s = 0.0
    date: str | None = "now"

    def handle_error(self, *_: Any) -> None:
        """A refused handshake is what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response_only(404)
        if self.server.date == "now":
            self.send_header("Date", formatdate(time.time() + self.server.ahead_s, usegmt=True))
        elif self.server.date:
            self.send_header("Date", self.server.date)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Place:
    """One hospital, and the centres that a test starts."""

    folder: Path
    stack: ExitStack
    ca: Signed = field(default_factory=lambda: sign("Study CA"))

    def serve(
        self,
        own: Signed | None,
        *,
        ahead_s: float = 0.0,
        date: str | None = "now",
        prepare: Callable[[ssl.SSLContext], None] = lambda context: None,
    ) -> str:
        """Address of a started centre; plain HTTP without `own`."""
        server = Server(("127.0.0.1", 0), Handler)
        server.ahead_s, server.date = ahead_s, date
        if own:
            files = self.folder / "server.pem"
            form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            files.write_bytes(own.pem + own.key.private_bytes(*form))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files)
            prepare(context)
            # The handshake belongs to the handler's thread: a failing one must not stop the rest.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self.stack.callback(server.server_close)
        self.stack.callback(server.shutdown)
        return f"127.0.0.1:{server.server_port}"

    def config(self, centre: str | None, ca: bytes | None = b"ours") -> SiteConfig:
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        if ca is not None:
            (state / "ca.pem").write_bytes(self.ca.pem if ca == b"ours" else ca)
        return SiteConfig(site="A", data=self.folder, cache=self.folder, state=state, centre=centre)

    def rows(self, centre: str | None, ca: bytes | None = b"ours") -> dict[str, Result]:
        return rows(self.config(centre, ca))


def rows(config: SiteConfig) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for name, check in connection_checks(config).items():
        try:
            found[name] = check()
        except Skip as reason:
            found[name] = "skipped", str(reason), ""
    return found


def statuses(found: dict[str, Result]) -> list[str]:
    assert list(found) == ROWS
    return [status for status, _, _ in found.values()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def good(place: Place, **changes: Any) -> Signed:
    return sign("centre", **{"by": place.ca, "names": ("localhost", "127.0.0.1")} | changes)


def test_all_is_well_by_address_and_by_name(place: Place) -> None:
    address = place.serve(good(place))
    for centre in (address, address.replace("127.0.0.1", "localhost")):
        found = place.rows(centre)
        assert statuses(found) == ["ok"] * 7, found
        assert not any(remedy for _, _, remedy in found.values())
    assert "127.0.0.1" in found["DNS"][1]
    assert certificate_fingerprint(place.ca.certificate) in found["TLS chain"][1]
    assert "(364 days)" in found["expiry"][1]
    assert "within 1 s" in found["clock"][1]


def test_no_centre(place: Place) -> None:
    found = place.rows(None)
    assert statuses(found) == ["failed", *["skipped"] * 6]
    assert found["centre"][2] == "write `centre: HOST:PORT` into site_configs/A.yaml"
    # The CA's own dates are known all the same.
    assert "the CA is valid until" in found["expiry"][1]


@pytest.mark.parametrize("port", ["0", "65536", "99999999999"])
def test_a_port_that_cannot_be(place: Place, port: str) -> None:
    """The site's file says so already: nothing is left to be checked."""
    with pytest.raises(ValidationError, match=rf"must be host:port, .* not '127.0.0.1:{port}'"):
        place.rows(f"127.0.0.1:{port}")


def test_an_unknown_host(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = place.rows("centre.example.org:9092")
    assert statuses(found) == ["ok", "failed", *["skipped"] * 5]
    assert "centre.example.org is not known" in found["DNS"][1]


def test_a_name_server_that_does_not_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(client.node.connection, "TIME_LIMIT_S", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(10))
    try:
        status, found, _ = place.rows("centre.example.org:9092")["DNS"]
    finally:
        released.set()
    assert status == "failed"
    assert "no answer for centre.example.org within 0.05 s" in found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_nothing_listens(place: Place) -> None:
    port = free_port()
    found = place.rows(f"127.0.0.1:{port}")
    assert statuses(found) == ["ok", "ok", "failed", *["skipped"] * 4]
    assert found["TCP"][1] == f"127.0.0.1:{port} refused the connection"


@pytest.mark.parametrize(
    ("error", "told", "remedy"),
    [
        (TimeoutError(), "timed out after 5 s", "allow ONE outgoing TCP rule"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable: No route", "a route"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "unreachable: Net", "a route"),
    ],
)
def test_a_connection_that_does_not_come(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: OSError, told: str, remedy: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    found = place.rows("127.0.0.1:9092")
    assert statuses(found) == ["ok", "ok", "failed", *["skipped"] * 4]
    assert told in found["TCP"][1]
    assert remedy in found["TCP"][2]
    assert "127.0.0.1:9092" in found["TCP"][2]


def test_the_second_address_is_tried(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    address = place.serve(good(place))
    dead_then_alive = [(2, 1, 6, "", (host, 0)) for host in ("127.0.0.9", "127.0.0.1")]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: dead_then_alive if host == "localhost" else real(host, *a, **k),
    )
    found = place.rows(address.replace("127.0.0.1", "localhost"))
    assert statuses(found) == ["ok"] * 7
    assert "127.0.0.1 accepts" in found["TCP"][1]


class ProxyServer(ThreadingHTTPServer):
    """Connects to whom it is asked for, or answers with `status`."""

    daemon_threads = True
    status = 200
    wanted: str | None = None  # the value of Proxy-Authorization

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.asked: list[str] = []


class ProxyHandler(BaseHTTPRequestHandler):
    server: ProxyServer

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        if self.headers.get("Proxy-Authorization") != self.server.wanted:
            self.send_error(407)
        elif self.server.status != 200:
            self.send_error(self.server.status)
        else:
            host, _, port = self.path.rpartition(":")
            with socket.create_connection(
                (host.replace("centre.inside", "127.0.0.1"), port)
            ) as far:
                self.send_response_only(200)
                self.end_headers()
                back = threading.Thread(target=self.pass_on, args=(far, self.connection))
                back.start()
                self.pass_on(self.connection, far)
                back.join()

    @staticmethod
    def pass_on(near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while some := near.recv(2**16):
                far.sendall(some)
            far.shutdown(socket.SHUT_WR)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy(place: Place, monkeypatch: pytest.MonkeyPatch) -> ProxyServer:
    """A proxy of this machine's environment."""
    server = ProxyServer()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    place.stack.callback(server.server_close)
    place.stack.callback(server.shutdown)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
    return server


def test_by_a_proxy_everything_is_looked_at(place: Place, proxy: ProxyServer) -> None:
    own = good(place, names=("centre.inside",))
    port = place.serve(own).rpartition(":")[2]
    # A name that only the proxy knows.
    found = place.rows(f"centre.inside:{port}")
    assert statuses(found) == ["ok"] * 7, found
    assert "left to the proxy" in found["DNS"][1]
    assert f"by the proxy http://127.0.0.1:{proxy.server_port}" in found["TCP"][1]
    assert set(proxy.asked) == {f"centre.inside:{port}"}


def test_no_proxy_goes_past_it(
    place: Place, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert statuses(place.rows(place.serve(good(place)))) == ["ok"] * 7
    assert proxy.asked == []


def test_no_proxy_may_have_the_port(
    place: Place, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = place.serve(good(place))
    for passed_by in (address, "https://127.0.0.1"):
        monkeypatch.setenv("no_proxy", f"other.example.org, {passed_by}")
        assert statuses(place.rows(address)) == ["ok"] * 7
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("url", "told"),
    [("http://[::1:3128", "no URL"), ("http://h:99999", "no URL"), ("socks5://h:1", "not tried")],
)
def test_a_proxy_that_cannot_be_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setenv("https_proxy", url)
    status, found, remedy = place.rows("127.0.0.1:9092")["TCP"]
    assert status == "failed" and told in found
    assert "correct HTTPS_PROXY" in remedy


def test_a_proxy_that_inspects_is_another_ca(place: Place, proxy: ProxyServer) -> None:
    inspecting = sign("centre", by=sign("Firewall CA"), names=("127.0.0.1",))
    status, found, remedy = place.rows(place.serve(inspecting))["TLS chain"]
    assert status == "failed" and "signed by CN=Firewall CA" in found
    assert "exempt 127.0.0.1" in remedy and "TLS inspection" in remedy


def test_a_proxy_that_asks_who_one_is(
    place: Place, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = place.serve(good(place))
    proxy.wanted = "Basic " + base64.b64encode(b"anna:a word").decode()
    found = place.rows(address)
    assert statuses(found) == ["ok", "ok", "failed", *["skipped"] * 4]
    assert "asks who you are" in found["TCP"][1]
    proxied = f"127.0.0.1:{proxy.server_port}"
    monkeypatch.setenv("https_proxy", "http://" + "anna:a%20word" + "@" + proxied)
    found = place.rows(address)
    assert statuses(found) == ["ok"] * 7, found
    assert "anna" not in str(found) and "a word" not in str(found) and "%20" not in str(found)


@pytest.mark.parametrize("status", [403, 502])
def test_a_proxy_that_refuses(place: Place, proxy: ProxyServer, status: int) -> None:
    proxy.status = status
    found = place.rows("127.0.0.1:9092")
    assert statuses(found) == ["ok", "ok", "failed", *["skipped"] * 4]
    assert f"does not connect to 127.0.0.1:9092: the proxy answers {status}" in found["TCP"][1]
    assert "allow CONNECT to 127.0.0.1:9092" in found["TCP"][2]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "127.0.0.1:1", "http://no.such.host.invalid:3"]
)
def test_a_proxy_that_is_not_there(place: Place, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("https_proxy", url)
    status, found, remedy = place.rows(place.serve(good(place)))["TCP"]
    assert status == "failed" and "cannot be reached" in found
    assert "export NO_PROXY=127.0.0.1" in remedy


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 " + b"2" * 5000 + b"\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 \r\n\r\n",
        b"x" * 2**15,
    ],
)
def test_a_proxy_that_is_none(place: Place, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setenv("https_proxy", f"http://{answering(place, answer)}")
    status, found, _ = place.rows("127.0.0.1:9092")["TCP"]
    assert status == "failed"
    assert "no answer in HTTP" in found or "cannot be reached" in found


def test_a_port_that_accepts_and_says_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.node.connection, "TIME_LIMIT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = place.rows(f"127.0.0.1:{listener.getsockname()[1]}")
    assert statuses(found) == ["ok", "ok", "ok", "failed", *["skipped"] * 3]
    assert "accepts the connection, then says nothing for 0.1 s" in found["TLS chain"][1]


def test_plain_http_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # A server that waits for the end of a line lets the handshake run into its time limit.
    monkeypatch.setattr(client.node.connection, "TIME_LIMIT_S", 0.3)
    found = place.rows(place.serve(None))
    assert statuses(found) == ["ok", "ok", "ok", "failed", *["skipped"] * 3]
    assert found["TLS chain"][1] == "the centre speaks plain HTTP: refused"


def answering(place: Place, answer: bytes) -> str:
    """Address of a server that says one thing to everybody."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with stream:
                stream.recv(4096)
                stream.sendall(answer)

    threading.Thread(target=run, daemon=True).start()
    # Closing alone would leave `accept` waiting.
    place.stack.callback(listener.close)
    place.stack.callback(listener.shutdown, socket.SHUT_RDWR)
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_an_http_answer_to_the_hello_is_plain_http(place: Place) -> None:
    centre = answering(place, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert place.rows(centre)["TLS chain"][1] == "the centre speaks plain HTTP: refused"


def test_another_protocol_is_not_called_http(place: Place) -> None:
    found = place.rows(answering(place, b"SSH-2.0-OpenSSH_9.2\r\n"))
    assert found["TLS chain"][0] == "failed"
    assert "does not answer in TLS (WRONG_VERSION_NUMBER)" in found["TLS chain"][1]


def test_tls_that_is_too_old(place: Place) -> None:
    def old(context: ssl.SSLContext) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    found = place.rows(place.serve(good(place), prepare=old))
    assert found["TLS chain"][:2] == ("failed", "offers only TLS that is older than 1.2")


@pytest.mark.parametrize("name", ["Firewall of the clinic", "Study CA"])
def test_a_certificate_of_another_ca(place: Place, name: str) -> None:
    other = sign(name)
    found = place.rows(place.serve(good(place, by=other)))
    assert statuses(found) == ["ok", "ok", "ok", "failed", "ok", "ok", "skipped"]
    _, told, remedy = found["TLS chain"]
    assert f"wrong CA: the centre's certificate is signed by CN={name}" in told
    assert certificate_fingerprint(place.ca.certificate) in told
    assert "exempt 127.0.0.1:" in remedy
    assert "by telephone" in remedy


def test_a_self_signed_certificate(place: Place) -> None:
    found = place.rows(place.serve(good(place, by=None)))
    assert statuses(found) == ["ok", "ok", "ok", "failed", "ok", "ok", "skipped"]
    assert "the centre's certificate is self-signed" in found["TLS chain"][1]


def test_a_certificate_for_another_name(place: Place) -> None:
    own = good(place, names=("centre.example.org", "10.0.0.7"))
    found = place.rows(place.serve(own))
    assert statuses(found) == ["ok", "ok", "ok", "ok", "failed", "ok", "skipped"]
    assert found["host name"][1] == "is for centre.example.org, 10.0.0.7, not for 127.0.0.1"
    assert "127.0.0.1" in found["host name"][2]


def test_a_certificate_without_names(place: Place) -> None:
    found = place.rows(place.serve(good(place, names=())))
    assert found["host name"][:2] == ("failed", "is for no name at all, not for 127.0.0.1")


@pytest.mark.parametrize(
    ("first", "last", "status", "told"),
    [
        (-9, -1, "failed", "that of the centre expired on"),
        (-1, 10.5, "warning", "(10 days)"),
        (-1, 29.5, "warning", "(29 days)"),
        (-1, 30.5, "ok", "(30 days)"),
        (2, 400, "failed", "that of the centre is not valid before"),
    ],
)
def test_the_dates_of_the_centre(
    place: Place, first: float, last: float, status: str, told: str
) -> None:
    own = good(place, first=first * DAY, last=last * DAY)
    found = place.rows(place.serve(own))
    assert statuses(found) == ["ok", "ok", "ok", "ok", "ok", status, "ok"]
    assert told in found["expiry"][1]
    assert bool(found["expiry"][2]) == (status != "ok")


def test_the_dates_of_the_ca(place: Place) -> None:
    place.ca = sign("Study CA", first=-9 * DAY, last=-DAY)
    found = place.rows(place.serve(good(place)))
    assert statuses(found) == ["ok", "ok", "ok", "ok", "ok", "failed", "ok"]
    assert "that of the CA expired on" in found["expiry"][1]
    assert found["expiry"][2].startswith("ask the centre to renew the certificate of the CA")


def test_everything_wrong_at_once_is_three_findings(place: Place) -> None:
    own = good(place, by=sign("Another"), names=("elsewhere",), first=-9 * DAY, last=-DAY)
    found = place.rows(place.serve(own))
    assert statuses(found) == ["ok", "ok", "ok", "failed", "failed", "failed", "skipped"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"garbage", "must hold one certificate in PEM form"),
        (b"", "must hold one certificate in PEM form"),
        # pragma: allowlist nextline secret
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", "PRIVATE key where a certificate belongs"),
    ],
)
def test_no_ca_certificate(place: Place, content: bytes | None, told: str) -> None:
    found = place.rows(place.serve(good(place)), content)
    assert statuses(found) == ["ok", "ok", "ok", "failed", "ok", "ok", "skipped"]
    assert told in found["TLS chain"][1]
    assert str(place.folder / "state" / "ca.pem") in found["TLS chain"][2]


def test_a_ca_that_flower_could_not_read(place: Place) -> None:
    found = place.rows(place.serve(good(place)), "Universitätsklinikum\n".encode() + place.ca.pem)
    assert found["TLS chain"][0] == "failed"
    assert "outside ASCII" in found["TLS chain"][1]


def test_the_ca_is_looked_at_without_a_connection(place: Place) -> None:
    found = place.rows(f"127.0.0.1:{free_port()}", b"garbage")
    assert found["TLS chain"][0] == "failed"
    assert "PEM" in found["TLS chain"][1]


@pytest.mark.parametrize(
    ("centre_ahead_s", "status", "told"),
    [
        (-600, "failed", "s ahead of the centre"),
        (-7, "failed", "s ahead of the centre"),
        (-3.5, "warning", "s ahead of the centre"),
        (50, "ok", "s behind the centre"),
        (100, "warning", "s behind the centre"),
        (290, "warning", "s behind the centre"),
        (310, "failed", "s behind the centre"),
        (600, "failed", "s behind the centre"),
    ],
)
def test_the_clock(place: Place, centre_ahead_s: float, status: str, told: str) -> None:
    found = place.rows(place.serve(good(place), ahead_s=centre_ahead_s))
    assert statuses(found) == ["ok"] * 6 + [status], found
    assert told in found["clock"][1]
    seconds = float(found["clock"][1].split()[0])
    assert seconds == pytest.approx(abs(centre_ahead_s), abs=1.5)
    assert ("NTP" in found["clock"][2]) == (status != "ok")


@pytest.mark.parametrize("date", [None, "soon", "Tue, 99 Foo 2026 00:00:00 GMT"])
def test_an_answer_without_a_date(place: Place, date: str | None) -> None:
    found = place.rows(place.serve(good(place), date=date))
    assert statuses(found) == ["ok"] * 6 + ["warning"]
    assert "no usable Date" in found["clock"][1]
