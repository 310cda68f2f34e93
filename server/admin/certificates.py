"""The centre's own CA and the server certificate that it signs.  No files here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.keys import make_key

# Hospitals' clocks may be a little behind.
_BACKDATED = timedelta(minutes=5)
# The centre's own commands speak to its SuperLink by these.
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class HostError(ValueError):
    """Names that cannot stand in a certificate; a line each."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """PKCS 8 without a passphrase, as a server that starts by itself needs it."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def certificate_pem(self) -> bytes:
        """As it is sent and served."""
        return self.certificate.public_bytes(Encoding.PEM)


def check_hosts(values: Iterable[str]) -> tuple[str, ...]:
    """Host names and addresses in lower case, once each; a value may hold several after commas.

    Raises:
        HostError: With every value that is not one.
    """
    given = [host.strip() for value in values for host in value.split(",") if host.strip()]
    mistakes = [f"{host!r} {why}" for host in given if (why := _host_mistake(host))]
    if not given:
        mistakes = ["name the host that sites connect to, such as centre.example.org"]
    if mistakes:
        raise HostError("\n".join(mistakes))
    return tuple(dict.fromkeys(_normal(host) for host in given))


def make_ca(days: int, now: datetime, hosts: tuple[str, ...]) -> Identity:
    """A self-signed CA which may vouch for servers at these hosts alone, and for no further CA.

    Who steals its key can pass for the centre, but for no other machine.
    """
    key = make_key()
    permitted = [_subtree(host) for host in dict.fromkeys((*hosts, *_OWN_HOSTS))]
    name = _name("ASDNet federation CA")
    builder = (
        _builder(name, name, key, now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, excluded_subtrees=None), critical=True)
    )
    return Identity(key=key, certificate=builder.sign(key, hashes.SHA384()))


def issue_server(ca: Identity, hosts: tuple[str, ...], days: int, now: datetime) -> Identity:
    """A new key and its certificate for `hosts` and for the centre's own machine.

    It ends no later than the CA: after that it is not trusted.
    """
    key = make_key()
    until = min(now + timedelta(days=days), ca.certificate.not_valid_after_utc)
    names = [_general_name(host) for host in dict.fromkeys((*hosts, *_OWN_HOSTS))]
    builder = (
        _builder(_name("ASDNet federation centre"), ca.certificate.subject, key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
    )
    return Identity(key=key, certificate=builder.sign(ca.key, hashes.SHA384()))


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Every name and address that a certificate is good for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def constraints_of(ca: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses that a CA may vouch for; none where it is not restricted."""
    try:
        found = ca.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return ()
    # An address is a network of one.
    return tuple(str(name.value).partition("/")[0] for name in found.permitted_subtrees or ())


def beyond_constraints(ca: x509.Certificate, hosts: Iterable[str]) -> list[str]:
    """Those of the hosts that this CA may not vouch for; a name includes what is under it."""
    permitted = constraints_of(ca)
    return [
        host
        for host in hosts
        if permitted
        and host not in permitted
        and (_address(host) or not host.endswith(tuple(f".{name}" for name in permitted)))
    ]


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _normal(host: str) -> str:
    address = _address(host)
    return host.lower() if address is None else str(address)


def _general_name(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _subtree(host: str) -> x509.GeneralName:
    """That host alone, or a name and what is under it."""
    address = _address(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(ipaddress.ip_network(address))


def _host_mistake(host: str) -> str | None:
    """What is wrong with a name or address, and what to write instead."""
    address = _address(host)
    if address is not None:
        if address.is_unspecified:
            return "means every address of a machine; write the one that sites connect to"
        if "%" in host:
            return "has a zone (%), which a certificate cannot hold; leave it out"
        return None
    if "://" in host:
        return "has a scheme; write the host name alone"
    if "/" in host:
        return "has a slash; write the host name alone"
    if any(character.isspace() for character in host):
        return "has a space; separate hosts by commas"
    if host.startswith("["):
        return "has brackets; write an IPv6 address without them, and the port as --port"
    if ":" in host:
        return "has a port; write it as --port"
    if not host.isascii():
        return "has letters outside ASCII; write the name in its xn-- form"
    labels = host.lower().split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "is not a host name: letters, digits and inner hyphens between dots"
    if labels[-1].isdigit():
        return "is neither an IP address nor a host name (its last part is a number)"
    return None
