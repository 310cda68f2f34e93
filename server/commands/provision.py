"""`asdnet-centre`: make a coordinating centre and say which sites it admits."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from pydantic import ValidationError

from protocol.keys import (
    KeyFileError,
    certificate_fingerprint,
    openssh_fingerprint,
    openssh_line,
    read_certificate,
    read_public_key,
)
from reporting.terminal import make_console, user_errors
from server.admin.centre import (
    CENTRE,
    DEFAULT_PORT,
    Centre,
    CentreError,
    SiteKey,
    SiteName,
    create_centre,
    read_centre,
    read_server_key,
    read_sites,
    renew_server,
    superlink_arguments,
    write_sites,
)
from server.admin.certificates import HostError, check_hosts, hosts_of

# Longer than any federation, and short of the year 9999.
_MAX_DAYS = 36500

CentreOption = Annotated[
    Path, typer.Option("--centre", help="The centre's folder; keep it private and backed up.")
]
SiteArgument = Annotated[str, typer.Argument(help="The site's name, as in its site config.")]
HostOption = typer.Option(
    "--host",
    help="Name or IP address of the centre; repeat it, or put commas between. "
    "Sites connect to the first.",
)
DaysOption = typer.Option(min=1, max=_MAX_DAYS, help="Validity of the server certificate.")


def init(
    host: Annotated[list[str], HostOption],
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on which the SuperLink listens.")
    ] = DEFAULT_PORT,
    ca_days: Annotated[
        int, typer.Option(min=1, max=_MAX_DAYS, help="Validity of the CA: the federation's life.")
    ] = 3650,
    days: Annotated[int, DaysOption] = 397,
    centre: CentreOption = CENTRE,
) -> None:
    """Make a new centre: a CA, a server certificate, and no sites yet."""
    with user_errors(CentreError, KeyFileError):
        shorter = f"--days: must be at most --ca-days ({ca_days}), not {days}"
        hosts = _hosts(host, shorter if days > ca_days else None)
        made = Centre(folder=centre.resolve(), hosts=hosts, port=port, days=days)
        create_centre(made, ca_days, datetime.now(UTC))
        _say(*_next_steps(made))


def add_site(
    site: SiteArgument,
    public_key: Annotated[
        Path, typer.Option(help="The .pub file that the site's enrol.py wrote (EC P-384).")
    ],
    centre: CentreOption = CENTRE,
) -> None:
    """Admit one site by its public key; no other site is touched."""
    with user_errors(CentreError, KeyFileError):
        place = read_centre(centre)
        sites = read_sites(place)
        key = read_public_key(public_key)
        entry = SiteKey(
            public_key=openssh_line(key),
            fingerprint=openssh_fingerprint(key),
            added=datetime.now(UTC).replace(microsecond=0),
        )
        _refuse_clash(site, entry, sites)
        if site in sites:
            _say(f"site {site} is there already with this key", f"  {entry.fingerprint}")
        else:
            write_sites(place, {**sites, site: entry})
            _say(
                f"site {site} is added, its key's fingerprint is",
                f"  {entry.fingerprint}",
                "Compare it with what the hospital reads out by telephone. If they differ, run:",
                f"  asdnet-centre remove-site {site}{_option(place)}",
            )
        _say(*tell_superlink(place))


def remove_site(site: SiteArgument, centre: CentreOption = CENTRE) -> None:
    """Admit one site no longer; no other site is touched."""
    with user_errors(CentreError, KeyFileError):
        place = read_centre(centre)
        sites = read_sites(place)
        if site not in sites:
            there = ", ".join(sorted(sites)) or "none yet"
            raise CentreError(f"site {site!r} is not there; the sites are: {there}")
        gone = sites.pop(site)
        write_sites(place, sites)
        _say(
            f"site {site} is removed, its key was",
            f"  {gone.fingerprint}",
            "A SuperLink never takes a removed key back: to come again, the site makes a new one"
            f" (asdnet-site enrol --site {site} --replace).",
        )
        _say(*tell_superlink(place))


def renew(
    days: Annotated[int | None, DaysOption] = None,
    host: Annotated[list[str] | None, HostOption] = None,
    centre: CentreOption = CENTRE,
) -> None:
    """Make a new server key and certificate from the same CA; hospitals need nothing new."""
    with user_errors(CentreError, KeyFileError):
        place = read_centre(centre)
        hosts = _hosts(host) if host else place.hosts
        renewed = place.model_copy(update={"hosts": hosts, "days": days or place.days})
        certificate = renew_server(renewed, datetime.now(UTC)).certificate
        _say(
            f"new server certificate for {', '.join(hosts_of(certificate))}",
            f"  SHA-256 {certificate_fingerprint(certificate)}",
            f"  valid until {certificate.not_valid_after_utc:%Y-%m-%d}",
            f"The old ones are beside as {place.server_key.name}.previous and"
            f" {place.server_file.name}.previous.",
            "Restart the SuperLink: until then it serves the old certificate. The CA is the same,"
            " so hospitals need nothing new.",
        )
        if renewed.address != place.address:
            _say(f"Sites must set `centre: {renewed.address}` in their site configs.")


def list_sites(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
    warn_days: Annotated[
        int, typer.Option(min=0, max=_MAX_DAYS, help="Warn of what expires within so many days.")
    ] = 30,
    centre: CentreOption = CENTRE,
) -> None:
    """Show certificates and sites; exit status 1 if a certificate has expired."""
    with user_errors(CentreError, KeyFileError):
        place = read_centre(centre)
        sites = read_sites(place)
        now = datetime.now(UTC)
        certificates = {
            "CA": read_certificate(place.ca_file),
            "server": read_certificate(place.server_file),
        }
        errors, warnings = _expiring(place, certificates, now, timedelta(days=warn_days))
        if read_server_key(place).public_key() != certificates["server"].public_key():
            errors.append("server.key and server.pem are not of one pair; run `renew`")
    if as_json:
        typer.echo(json.dumps(_as_json(place, certificates, sites, now), indent=2))
    else:
        _show(place, certificates, sites, now)
    for line in [f"error: {line}" for line in errors] + [f"warning: {line}" for line in warnings]:
        typer.echo(line, err=True)
    raise typer.Exit(1 if errors else 0)


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


def _hosts(values: list[str], other_mistake: str | None = None) -> tuple[str, ...]:
    """The hosts, unless they or something else is wrong; all mistakes at once."""
    mistakes = [other_mistake] if other_mistake else []
    hosts: tuple[str, ...] = ()
    try:
        hosts = check_hosts(values)
    except HostError as error:
        mistakes = [f"--host: {line}" for line in str(error).splitlines()] + mistakes
    if mistakes:
        raise CentreError("\n".join(mistakes))
    return hosts


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


def _next_steps(centre: Centre) -> list[str]:
    ca = read_certificate(centre.ca_file)
    folder = shlex.quote(str(centre.folder))
    command = shlex.join(["flower-superlink", *superlink_arguments(centre)])
    return [
        f"centre made in {centre.folder}; ca.key and server.key must never leave it",
        "",
        "Start the SuperLink:",
        f"  asdnet-centre superlink --centre {folder}",
        "which stands for:",
        f"  FLWR_TELEMETRY_ENABLED=0 {command}",
        "",
        "Send to each hospital:",
        f"  the CA's certificate  {centre.ca_file}",
        f"  its SHA-256           {certificate_fingerprint(ca)}",
        f"  the address           {centre.address}",
        "",
        "Admit a hospital by the .pub file that it sends back:",
        f"  asdnet-centre add-site SITE --public-key FILE{_option(centre)}",
    ]


def _expiring(
    centre: Centre, certificates: dict[str, x509.Certificate], now: datetime, notice: timedelta
) -> tuple[list[str], list[str]]:
    """Errors about what has expired, and warnings about what soon will."""
    remedies = {
        "CA": "make a new centre in another folder (init) and send every hospital its ca.pem",
        "server": f"run: asdnet-centre renew{_option(centre)}",
    }
    errors, warnings = [], []
    for name, certificate in certificates.items():
        end = certificate.not_valid_after_utc
        if end <= now:
            errors.append(f"{name}: expired on {end:%Y-%m-%d}; {remedies[name]}")
        elif end - now <= notice:
            left = f"{(end - now).days} days left, until {end:%Y-%m-%d}"
            warnings.append(f"{name}: {left}; {remedies[name]}")
    return errors, warnings


def _as_json(
    centre: Centre,
    certificates: dict[str, x509.Certificate],
    sites: dict[str, SiteKey],
    now: datetime,
) -> dict[str, object]:
    return {
        "centre": str(centre.folder),
        "address": centre.address,
        "certificates": {
            name: {
                "sha256": certificate_fingerprint(certificate),
                "expires": certificate.not_valid_after_utc.isoformat(),
                "days_left": (certificate.not_valid_after_utc - now).days,
            }
            for name, certificate in certificates.items()
        },
        "hosts": hosts_of(certificates["server"]),
        "sites": {name: key.model_dump(mode="json") for name, key in sites.items()},
    }


def _show(
    centre: Centre,
    certificates: dict[str, x509.Certificate],
    sites: dict[str, SiteKey],
    now: datetime,
) -> None:
    from rich.table import Table

    table = Table("certificate", "expires", "days left", "hosts")
    for name, certificate in certificates.items():
        end = certificate.not_valid_after_utc
        hosts = "\n".join(hosts_of(certificate)) if name == "server" else ""
        table.add_row(name, f"{end:%Y-%m-%d}", str((end - now).days), hosts)
    known = Table("site", "added", "fingerprint")
    for name, key in sites.items():
        known.add_row(name, f"{key.added:%Y-%m-%d}", key.fingerprint)
    _say(f"centre {centre.folder}, sites connect to {centre.address}")
    console = make_console(soft_wrap=False)
    console.print(table)
    # Beside the table, not in it: a fingerprint must stand in one piece.
    for name, certificate in certificates.items():
        _say(f"SHA-256 of {name}: {certificate_fingerprint(certificate)}")
    console.print(known if sites else "no sites yet")


def _option(centre: Centre) -> str:
    """What a command must be given to find this centre from the working directory."""
    if centre.folder == CENTRE.resolve():
        return ""
    return f" --centre {shlex.quote(str(centre.folder))}"


def _say(*lines: str) -> None:
    console = make_console()
    for line in lines:
        console.print(line)
