"""Which sites a centre admits, whether its certificates hold, and telling the SuperLink of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from protocol.keys import (
    certificate_fingerprint,
    openssh_fingerprint,
    openssh_line,
    read_certificate,
    read_public_key,
)
from server.admin.centre import (
    CENTRE,
    Centre,
    CentreError,
    read_server_key,
    read_sites,
    write_sites,
)
from server.admin.certificates import hosts_of
from server.admin.passphrase import is_encrypted
from server.admin.signing import public_file, read_public
from server.admin.site_keys import SiteKey, SiteName


@dataclass(frozen=True, kw_only=True)
class CentreContent:
    """A centre's certificates, "CA" and "server", its key for studies, and its sites by name."""

    certificates: dict[str, x509.Certificate]
    study_key: Ed25519PublicKey | None
    sites: dict[str, SiteKey]


def admit_site(
    centre: Centre, site: str, public_key: Path, now: datetime, max_cases: int | None = None
) -> tuple[SiteKey, bool]:
    """Write a site's key into sites.json; the entry, and whether it is new.

    Args:
        centre: The centre.
        site: Its name.
        public_key: File of its key.
        now: Time of a new entry.
        max_cases: Training cases that it may declare; of a site that is there already the new
            bound.  None: what is there, or the default.

    Raises:
        CentreError: If the name breaks a rule, or name or key is taken by another.
        KeyFileError: If the file holds no EC P-384 public key.
    """
    sites = read_sites(centre)
    key = read_public_key(public_key)
    entry = SiteKey(
        public_key=openssh_line(key),
        fingerprint=openssh_fingerprint(key),
        added=now.replace(microsecond=0),
    )
    _refuse_clash(site, entry, sites)
    new = site not in sites
    entry = entry if new else sites[site]
    if max_cases is not None:
        entry = entry.model_copy(update={"max_cases": max_cases})
    if entry != sites.get(site):
        write_sites(centre, {**sites, site: entry})
    return entry, new


def dismiss_site(centre: Centre, site: str) -> SiteKey:
    """Take a site out of sites.json; the key that it had.

    Raises:
        CentreError: If it is not there.
    """
    sites = read_sites(centre)
    if site not in sites:
        there = ", ".join(sorted(sites)) or "none yet"
        raise CentreError(f"site {site!r} is not there; the sites are: {there}")
    gone = sites.pop(site)
    write_sites(centre, sites)
    return gone


def centre_content(centre: Centre) -> CentreContent:
    """Read what the centre's files hold.

    Raises:
        CentreError: If sites.json breaks a rule.
        KeyFileError: If a certificate or key cannot be read.
    """
    has_key = public_file(centre.folder).exists()
    return CentreContent(
        sites=read_sites(centre),
        study_key=read_public(centre.folder) if has_key else None,
        certificates={
            "CA": read_certificate(centre.ca_file),
            "server": read_certificate(centre.server_file),
        },
    )


def faults(
    centre: Centre, content: CentreContent, now: datetime, notice: timedelta
) -> tuple[list[str], list[str]]:
    """Errors about what has expired or does not fit, and warnings about what soon will expire."""
    hints = {
        "CA": "make a new centre in another folder (init) and send every hospital its ca.pem",
        "server": f"run: asdnet-centre renew{centre_option(centre)}",
    }
    errors, warnings = [], []
    for name, certificate in content.certificates.items():
        end = certificate.not_valid_after_utc
        if end <= now:
            errors.append(f"{name}: expired on {end:%Y-%m-%d}; {hints[name]}")
        elif end - now <= notice:
            left = f"{(end - now).days} days left, until {end:%Y-%m-%d}"
            warnings.append(f"{name}: {left}; {hints[name]}")
    if content.study_key is None:
        warnings.append(
            "study.pub: is not there, no study can be signed; run: asdnet-centre renew"
            f" --signing-key{centre_option(centre)}"
        )
    server_key = read_server_key(centre).public_key()
    if server_key != content.certificates["server"].public_key():
        errors.append("server.key and server.pem are not of one pair; run `renew`")
    return errors, warnings


def ca_key_state(centre: Centre) -> str:
    """Whether who reads the centre's folder has the CA."""
    if not centre.ca_key.exists():
        return "not on this machine"
    if is_encrypted(centre.ca_key):
        return "encrypted"
    return "NOT encrypted, and needed by `renew` alone: take it off this machine"


def content_json(centre: Centre, content: CentreContent, now: datetime) -> dict[str, object]:
    """What `list --json` prints."""
    return {
        "centre": str(centre.folder),
        "address": centre.address,
        "certificates": {
            name: {
                "sha256": certificate_fingerprint(certificate),
                "expires": certificate.not_valid_after_utc.isoformat(),
                "days_left": (certificate.not_valid_after_utc - now).days,
            }
            for name, certificate in content.certificates.items()
        },
        "ca_key": ca_key_state(centre),
        "study_key": None if content.study_key is None else openssh_fingerprint(content.study_key),
        "hosts": hosts_of(content.certificates["server"]),
        "sites": {name: key.model_dump(mode="json") for name, key in content.sites.items()},
    }


def tell_superlink(centre: Centre) -> list[str]:
    """Bring a running SuperLink in line with sites.json; what was done, a line each.

    Raises:
        CentreError: If it refuses a key, or does not do as it is told.
    """
    # Late: it imports Flower, which takes seconds that `--help` and `list` should not.
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
    from server.admin.registry import sync_sites

    try:
        return sync_sites(centre)
    except SuperLinkUnreachable:
        return ["the SuperLink is not running; it will be told when it starts"]
    except SuperLinkRefused as error:
        raise CentreError(str(error)) from None
    except RuntimeError as error:
        raise CentreError(
            f"{centre.sites_file} is written, but the SuperLink does not follow it: {error};"
            " restart the SuperLink"
        ) from None


def centre_option(centre: Centre) -> str:
    """What a command must be given to find this centre from the working directory."""
    if centre.folder == CENTRE.resolve():
        return ""
    return f" --centre {shlex.quote(str(centre.folder))}"


def _refuse_clash(site: str, entry: SiteKey, sites: dict[str, SiteKey]) -> None:
    try:
        SiteName.validate_python(site)
    except ValidationError:
        raise CentreError(
            f"site {site!r}: a name is a letter or digit, then at most 31 letters, digits,"
            " hyphens and underscores"
        ) from None
    if site in sites and sites[site].fingerprint != entry.fingerprint:
        raise CentreError(
            f"site {site} is there already with another key ({sites[site].fingerprint});"
            f" if the hospital has really made a new one, first run: remove-site {site}"
        )
    for other, known in sites.items():
        if other != site and known.fingerprint == entry.fingerprint:
            raise CentreError(
                f"this key is registered already, as site {other} ({entry.fingerprint});"
                " every site makes a key of its own"
            )
