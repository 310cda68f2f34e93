"""The coordinating centre's folder: its keys, its certificates and the sites that it admits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import (
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from asdnet_models.fields import Frozen
from protocol.config.explanation import explain
from protocol.files import write_bytes, write_text
from protocol.keys import (
    PRIVATE_MODE,
    PUBLIC_MODE,
)
from server.admin.authority import read_authority
from server.admin.certificates import (
    Identity,
    check_hosts,
    issue_server,
    make_ca,
)
from server.admin.passphrase import encrypted, read_pem_key
from server.admin.signing import make_signing_files
from server.admin.site_keys import SiteKey

CENTRE, SITES_FILE = Path("centre"), "sites.json"
# glibc's own first setting.  Else it raises it by itself, and keeps what is freed of updates.
RETURN_LARGE_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(128 * 2**10)}
DEFAULT_PORT = 9092


class CentreError(ValueError):
    """A centre that is not there, is there already, or breaks a rule; lists every mistake."""


class Centre(Frozen):
    """Layout and facts of one centre; the facts are in centre.json."""

    folder: Path = Field(exclude=True, description="absolute; everything of the centre is in it")
    hosts: Annotated[tuple[str, ...], Field(min_length=1, description="first: the sites' one")]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    days: PositiveInt = Field(397, description="validity of a new server certificate")

    @field_validator("hosts")
    @classmethod
    def _hosts_are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return check_hosts(hosts)

    @property
    def address(self) -> str:
        """host:port, as sites connect."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def ca_key(self) -> Path:
        """Who has it can pass for the centre."""
        return self.folder / "ca.key"

    @property
    def ca_file(self) -> Path:
        """The CA's certificate, which every site gets."""
        return self.folder / "ca.pem"

    @property
    def server_key(self) -> Path:
        """The SuperLink's private key."""
        return self.folder / "server.key"

    @property
    def server_file(self) -> Path:
        """The SuperLink's certificate."""
        return self.folder / "server.pem"

    @property
    def facts_file(self) -> Path:
        """Hosts, port and validity; written last, so its presence means a complete centre."""
        return self.folder / "centre.json"

    @property
    def sites_file(self) -> Path:
        """Public keys of the sites."""
        return self.folder / SITES_FILE

    @property
    def database(self) -> Path:
        """The SuperLink's state."""
        return self.folder / "superlink.db"

    @property
    def flower_home(self) -> Path:
        """FLWR_HOME of every Flower command of this centre."""
        return self.folder / "flower"

    @property
    def runs(self) -> Path:
        """Results of studies, a folder each."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """Logs of the launchers."""
        return self.folder / "logs"


_Sites = TypeAdapter(dict[str, SiteKey])


def read_centre(folder: Path) -> Centre:
    """The centre that `provision.py init` made in `folder`.

    Raises:
        CentreError: If there is none, or centre.json breaks a rule.
    """
    folder = folder.resolve()
    path = folder / "centre.json"
    try:
        content = TypeAdapter(dict[str, object]).validate_json(path.read_bytes())
        return Centre.model_validate({**content, "folder": folder})
    except (FileNotFoundError, NotADirectoryError):
        raise CentreError(
            f"{folder}: is not a centre (it has no centre.json);"
            f" run: asdnet-centre init --host NAME --centre {folder}"
        ) from None
    except ValidationError as error:
        raise CentreError(explain(error, str(path))) from None


def create_centre(
    centre: Centre, ca_days: int, now: datetime, passphrase: bytes | None = None
) -> None:
    """Make the folder with a new CA, a server certificate and no sites.

    Args:
        centre: What to make.
        ca_days: Validity of the CA.
        now: The time.
        passphrase: Opens ca.key and study.key; None: they are not encrypted.

    Raises:
        CentreError: If there is anything in the folder, or the CA would end too early.
    """
    folder = centre.folder
    if centre.facts_file.exists():
        raise CentreError(f"{folder}: is a centre already; choose another folder, or see `renew`")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CentreError(f"{folder}: is there already and is not an empty folder; choose another")
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    ca = make_ca(ca_days, now, centre.hosts)
    server = issue_server(ca, centre.hosts, centre.days, now)
    try:
        ca_pem = ca.key_pem if passphrase is None else encrypted(ca.key, passphrase)
        write_bytes(centre.ca_key, ca_pem, PRIVATE_MODE)
        write_bytes(centre.ca_file, ca.certificate_pem, PUBLIC_MODE)
        write_bytes(centre.server_key, server.key_pem, PRIVATE_MODE)
        write_bytes(centre.server_file, server.certificate_pem, PUBLIC_MODE)
        make_signing_files(folder, passphrase)
        write_sites(centre, {})
        for inner in (centre.flower_home, centre.runs, centre.logs):
            inner.mkdir(mode=0o700)
        _write_facts(centre)
    except OSError:
        # Nothing but our own is in there, and half a centre would refuse the next attempt.
        for item in folder.iterdir():
            item.rmdir() if item.is_dir() else item.unlink()
        raise


def renew_server(centre: Centre, now: datetime, ca_key: Path | None = None) -> Identity:
    """Replace server key and certificate by new ones of the same CA; the old become .previous.

    Args:
        centre: With the hosts and the validity that the certificate is to have.
        now: The time.
        ca_key: Where the CA's key is; None: in the centre's folder.

    Raises:
        KeyFileError: If a file of the CA cannot be read, its two files are not of one pair, or it
            has ended or may not vouch for a host.
    """
    ca = read_authority(centre.ca_file, ca_key or centre.ca_key, centre.hosts, now)
    server = issue_server(ca, centre.hosts, centre.days, now)
    for path, mode in ((centre.server_key, PRIVATE_MODE), (centre.server_file, PUBLIC_MODE)):
        if path.exists():
            write_bytes(_sibling(path, "previous"), path.read_bytes(), mode)
    # Both are on the disk before either replaces the old one: errors occur here.
    new_key, new_file = _sibling(centre.server_key, "new"), _sibling(centre.server_file, "new")
    try:
        write_bytes(new_key, server.key_pem, PRIVATE_MODE)
        write_bytes(new_file, server.certificate_pem, PUBLIC_MODE)
        os.replace(new_key, centre.server_key)
        os.replace(new_file, centre.server_file)
    finally:
        new_key.unlink(missing_ok=True)
        new_file.unlink(missing_ok=True)
    _write_facts(centre)
    return server


def read_server_key(centre: Centre) -> ec.EllipticCurvePrivateKey:
    """The SuperLink's private key.

    Raises:
        KeyFileError: If it cannot be read or is of another kind.
    """
    return read_pem_key(centre.server_key)


def read_sites(centre: Centre) -> dict[str, SiteKey]:
    """The sites that the centre admits, by name; none if nothing has been written.

    Raises:
        CentreError: If sites.json breaks a rule.
    """
    return _read_sites(centre.sites_file) or {}


def approved_cases(folder: Path) -> dict[str, int] | None:
    """How many training cases each site of this centre may declare; None: nothing is written.

    Raises:
        CentreError: If sites.json breaks a rule.
    """
    sites = _read_sites(folder / SITES_FILE)
    return None if sites is None else {name: key.max_cases for name, key in sites.items()}


def _read_sites(path: Path) -> dict[str, SiteKey] | None:
    try:
        return _Sites.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CentreError(explain(error, str(path))) from None


def write_sites(centre: Centre, sites: Mapping[str, SiteKey]) -> None:
    """Replace sites.json at once, in order of the names."""
    content = _Sites.dump_json(dict(sorted(sites.items())), indent=2)
    write_bytes(centre.sites_file, content + b"\n", PUBLIC_MODE)


def names_of(words: str) -> tuple[str, ...]:
    """The sites of a list such as A,B,C, each once."""
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in words.split(",")))))


def superlink_arguments(centre: Centre, *, ipv6: bool = False) -> list[str]:
    """What follows `flower-superlink`: TLS, known sites alone, nothing installed at run time.

    Args:
        centre: The centre.
        ipv6: Listen to IPv6 and IPv4; else to IPv4 alone.
    """
    return [
        *("--host", "::" if ipv6 else "0.0.0.0", "--port", str(centre.port)),
        *("--ssl-certfile", str(centre.server_file)),
        *("--ssl-keyfile", str(centre.server_key)),
        *("--ssl-ca-certfile", str(centre.ca_file)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", str(centre.database)),
    ]


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _write_facts(centre: Centre) -> None:
    write_text(centre.facts_file, centre.model_dump_json(indent=2) + "\n", PUBLIC_MODE)
