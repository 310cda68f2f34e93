"""From this machine to the coordinating centre: one check for each thing that can be in the way.

Each row is right by itself.  An expired certificate of another CA under another name is three
findings, so chain, name and dates are looked at in a handshake each, with the other two left out.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cryptography import x509

from client.node.certificate_dates import certificate_dates, clock_skew
from client.node.checks import Result, Skip, joined
from client.node.line import Proxy, connect, no_way, proxy_to
from client.node.probes import (
    handshake,
    lookup,
    speaks_plain_http,
    trusting,
    trusting_anyone,
)
from protocol.config.site import SiteConfig
from protocol.keys import KeyFileError, certificate_fingerprint, read_certificate

# Of each lookup, connection, handshake and answer.
TIME_LIMIT_S = 5.0
_SELF_SIGNED = 18
_OTHER_ISSUER = {2, 7, 19, 20, 21}
_OTHER_NAME = {62, 64}
_OLD_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}


def connection_checks(config: SiteConfig) -> dict[str, Callable[[], Result]]:
    """The checks by name, to be run in this order; nothing but a GET of /health is ever sent.

    Each raises `Skip` where an earlier one has left it nothing to look at.
    """
    connection = _Connection(config)
    return {
        "centre": connection.named,
        "DNS": connection.resolves,
        "TCP": connection.connects,
        "TLS chain": connection.chain,
        "host name": connection.names,
        "expiry": connection.expiry,
        "clock": connection.clock,
    }


class _Connection:
    """The checks in their order; each keeps what the next ones need."""

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self._host = ""
        self._port = 0
        self._addresses: list[str] = []
        self._address: str | None = None  # the first that accepts connections
        self._proxy: Proxy | None = None
        self._ca: x509.Certificate | None = None
        self._der: bytes | None = None  # the centre's certificate, trusted or not
        self._unseen = "no TCP connection"  # why there is none

    @property
    def _rule(self) -> str:
        return f"{self._host}:{self._port}"

    def named(self) -> Result:
        """The site's file names a centre."""
        file = f"site_configs/{self._config.site}.yaml"
        if self._config.centre is None:
            return "failed", "no centre is named", f"write `centre: HOST:PORT` into {file}"
        host, _, port = self._config.centre.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        return "ok", self._config.centre, ""

    def resolves(self) -> Result:
        """The host has addresses."""
        if not self._host:
            raise Skip("no usable centre is named")
        self._proxy = proxy_to(self._host, self._port)
        if self._proxy is not None:
            self._addresses = [self._host]
            return "ok", f"left to the proxy of this machine, {self._proxy}", ""
        try:
            self._addresses = lookup(self._host, self._port, TIME_LIMIT_S)
        except TimeoutError:
            finding = f"no answer for {self._host} within {TIME_LIMIT_S:g} s"
        except (OSError, UnicodeError):
            finding = f"{self._host} is not known"
        else:
            return "ok", f"{self._host} is {', '.join(self._addresses)}", ""
        return "failed", finding, "correct the host in `centre`, or this machine's DNS settings"

    def connects(self) -> Result:
        """One of the addresses accepts a connection."""
        if not self._addresses:
            raise Skip("no address to connect to")
        errors: list[OSError] = []
        for address in self._addresses:
            try:
                connect((address, self._port), TIME_LIMIT_S, self._proxy).close()
            except OSError as error:
                errors.append(error)
                continue
            self._address = address
            by = f", by the proxy {self._proxy}" if self._proxy else ""
            return "ok", f"{address} accepts connections on {self._port}{by}", ""
        if self._proxy is not None:
            return no_way(errors[0], self._proxy, self._host, self._port)
        return self._no_connection(errors)

    def _no_connection(self, errors: list[OSError]) -> Result:
        if any(isinstance(error, ConnectionRefusedError) for error in errors):
            hint = "ask the centre whether its SuperLink is running, and on which port"
            return "failed", f"{self._rule} refused the connection", hint
        if any(isinstance(error, TimeoutError) for error in errors):
            finding = (
                f"{self._rule} timed out after {TIME_LIMIT_S:g} s, as if a firewall dropped it"
            )
            return "failed", finding, f"allow ONE outgoing TCP rule in the firewall: {self._rule}"
        finding = f"{self._rule} is unreachable: {errors[0].strerror or errors[0]}"
        hint = f"give this machine a route; ONE outgoing TCP rule is enough: {self._rule}"
        return "failed", finding, hint

    def chain(self) -> Result:
        """The centre's certificate is signed by the study's CA; names and dates left aside."""
        mistakes = [self._read_ca(), self._fetch_certificate() if self._address else None]
        if any(mistakes):
            return joined([mistake for mistake in mistakes if mistake])
        if self._der is None or self._ca is None:
            raise Skip(self._unseen)
        context = trusting(self._ca)
        context.check_hostname = False
        try:
            with self._handshake(context) as stream:
                version = stream.version()
        except ssl.SSLCertVerificationError as error:
            return self._not_signed(error)
        except OSError as error:
            return self._no_tls(error)
        return "ok", f"{version}, signed by our CA {self._fingerprint()}", ""

    def _read_ca(self) -> Result | None:
        """What is wrong with the CA's file, if anything is."""
        path = self._config.ca_file
        try:
            self._ca = read_certificate(path)
            path.read_text(encoding="ascii")
        except KeyFileError as error:
            finding, _, hint = str(error).partition("; ")
            save = f"save the CA certificate that the centre gave you as {path}"
            return "failed", finding, f"{hint}; {save}" if hint else save
        except UnicodeDecodeError:
            # A friendly name with an umlaut, which Flower's SuperNode dies of.
            finding = f"{path}: has letters outside ASCII beside the certificate"
            return "failed", finding, f"openssl x509 -in {path} -out {path}"
        return None

    def _fetch_certificate(self) -> Result | None:
        """Keep the centre's certificate, whoever signed it; or why there is none."""
        try:
            with self._handshake(trusting_anyone()) as stream:
                self._der = stream.getpeercert(binary_form=True)
            return None
        except (OSError, ValueError) as error:
            self._unseen = "the centre showed no certificate"
            return self._no_tls(error)

    def _no_tls(self, error: Exception) -> Result:
        reason = getattr(error, "reason", None) or type(error).__name__
        if speaks_plain_http(self._connect):
            hint = "tell the centre: the SuperLink must be started with its TLS certificate"
            return "failed", "the centre speaks plain HTTP: refused", hint
        if isinstance(error, TimeoutError):
            finding = f"accepts the connection, then says nothing for {TIME_LIMIT_S:g} s"
            hint = f"ask the centre whether {self._rule} is right; else a firewall holds TLS back"
            return "failed", finding, hint
        if reason in _OLD_TLS:
            hint = "tell the centre: TLS 1.2 or newer must be offered"
            return "failed", "offers only TLS that is older than 1.2", hint
        hint = f"ask the centre whether {self._rule} is right, and exempt it from TLS inspection"
        return "failed", f"does not answer in TLS ({reason})", hint

    def _not_signed(self, error: ssl.SSLCertVerificationError) -> Result:
        issuer = self._certificate().issuer.rfc4514_string() or "nobody"
        ours = f"our CA is {self._fingerprint()}"
        compare = "compare our CA's fingerprint with the centre's by telephone and replace"
        hint = f"{compare} {self._config.ca_file} if it differs"
        if error.verify_code == _SELF_SIGNED:
            return "failed", f"the centre's certificate is self-signed; {ours}", hint
        if error.verify_code in _OTHER_ISSUER:
            finding = f"wrong CA: the centre's certificate is signed by {issuer}; {ours}"
            inspected = "; if a firewall of yours signed it, exempt {} from TLS inspection"
            return "failed", finding, hint + inspected.format(self._rule)
        return "failed", f"certificate not accepted: {error.verify_message}; {ours}", hint

    def names(self) -> Result:
        """The centre's certificate bears the host's name, whoever signed it."""
        if self._der is None:
            raise Skip(self._unseen)
        # Its own certificate as the root: what is left to be wrong is the name.
        context = trusting(self._certificate())
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            self._handshake(context).close()
        except ssl.SSLCertVerificationError as error:
            if error.verify_code not in _OTHER_NAME:
                raise Skip(f"the certificate is not usable: {error.verify_message}") from None
            finding = f"is for {self._listed() or 'no name at all'}, not for {self._host}"
            hint = "write one of its names into `centre`, or ask the centre for a certificate"
            return "failed", finding, f"{hint} with the name {self._host}"
        except OSError as error:
            return self._no_tls(error)
        return "ok", f"the certificate names {self._host}", ""

    def _listed(self) -> str:
        try:
            extension = self._certificate().extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
        except x509.ExtensionNotFound:
            return ""
        return ", ".join(str(name.value) for name in extension.value)

    def expiry(self) -> Result:
        """Today lies within the dates of the centre's certificate and of the CA's."""
        if self._der is None and self._ca is None:
            raise Skip("no certificate to look at")
        unseen: Result = ("skipped", f"that of the centre was not seen: {self._unseen}", "")
        results = [
            unseen if self._der is None else certificate_dates("the centre", self._certificate())
        ]
        if self._ca is not None:
            results.append(certificate_dates("the CA", self._ca))
        return joined(results)

    def clock(self) -> Result:
        """This machine's clock agrees with the centre's."""
        if self._der is None or self._ca is None:
            raise Skip("no trusted connection")
        # Dates are left aside: a clock that is a year off is found here, not taken for expiry.
        try:
            stream = self._handshake(trusting(self._ca))
        except ssl.SSLCertVerificationError:
            raise Skip("no trusted connection") from None
        except OSError as error:
            return self._no_tls(error)
        with stream:
            sent = time.time()
            begun = time.perf_counter()
            date = self._date(stream)
            half_trip_s = (time.perf_counter() - begun) / 2
        if not isinstance(date, datetime):
            return date
        # Date is cut to whole seconds: half a second is its mean loss.
        ahead_s = sent + half_trip_s - date.timestamp() - 0.5
        return clock_skew(ahead_s, within_s=0.5 + half_trip_s)

    def _date(self, stream: ssl.SSLSocket) -> datetime | Result:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIME_LIMIT_S)
        connection.sock = stream
        try:
            connection.request("GET", "/health", headers={"Connection": "close"})
            text = connection.getresponse().getheader("Date")
        except (OSError, http.client.HTTPException) as error:
            finding = f"speaks TLS, but does not answer in HTTP ({type(error).__name__})"
            return "failed", finding, f"ask the centre whether {self._rule} is its SuperLink"
        try:
            return parsedate_to_datetime(text or "").astimezone(UTC)
        except (ValueError, OverflowError):
            hint = "see that this machine's clock is set by NTP: timedatectl"
            return "warning", "the centre's answer has no usable Date", hint

    def _handshake(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        return handshake(context, self._connect, self._host)

    def _connect(self) -> socket.socket:
        assert self._address is not None
        return connect((self._address, self._port), TIME_LIMIT_S, self._proxy)

    def _certificate(self) -> x509.Certificate:
        assert self._der is not None
        return x509.load_der_x509_certificate(self._der)

    def _fingerprint(self) -> str:
        assert self._ca is not None
        return certificate_fingerprint(self._ca)
