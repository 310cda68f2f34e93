"""`asdnet-centre`: make a coordinating centre and say which sites it admits."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from protocol.keys import (
    KeyFileError,
    certificate_fingerprint,
    openssh_fingerprint,
    read_certificate,
)
from reporting.terminal import make_console, user_errors
from server.admin import signing
from server.admin.centre import (
    CENTRE,
    DEFAULT_PORT,
    Centre,
    CentreError,
    create_centre,
    read_centre,
    renew_server,
)
from server.admin.certificates import HostError, check_hosts, hosts_of
from server.admin.owner import make_owner_token
from server.admin.passphrase import is_encrypted, new_passphrase
from server.admin.provisioning import (
    CentreContent,
    admit_site,
    ca_key_state,
    centre_content,
    centre_option,
    content_json,
    dismiss_site,
    faults,
    tell_superlink,
)
from server.admin.site_keys import DEFAULT_CASES, MAX_CASES

_MAX_DAYS = 36500  # longer than any federation, and short of the year 9999

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
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help="Encrypt ca.key and study.key; asks at the terminal, or takes ASDNET_PASSPHRASE "
            "or the open file of the number ASDNET_PASSPHRASE_FD.",
        ),
    ] = False,
    centre: CentreOption = CENTRE,
) -> None:
    """Make a new centre: a CA, a server certificate, a key that signs studies, and no sites yet."""
    with user_errors(CentreError, KeyFileError):
        shorter = f"--days: must be at most --ca-days ({ca_days}), not {days}"
        hosts = _hosts(host, shorter if days > ca_days else None)
        made = Centre(folder=centre.resolve(), hosts=hosts, port=port, days=days)
        create_centre(made, ca_days, datetime.now(UTC), new_passphrase() if passphrase else None)
        make_owner_token(made)
        _say(*_next_steps(made))


def add_site(
    site: SiteArgument,
    public_key: Annotated[
        Path,
        typer.Option(help="The .pub file that `asdnet-site enrol` wrote at the site (EC P-384)."),
    ],
    max_cases: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_CASES,
            help="Training cases, with labels or not, that the site may declare: ask the hospital. "
            f"A declaration of more is refused. Else {DEFAULT_CASES}.",
        ),
    ] = None,
    folder: CentreOption = CENTRE,
) -> None:
    """Admit one site by its public key, or change its bound; no other site is touched."""
    with user_errors(CentreError, KeyFileError):
        centre = read_centre(folder)
        entry, new = admit_site(centre, site, public_key, datetime.now(UTC), max_cases)
        if not new:
            _say(f"site {site} is there already with this key", f"  {entry.fingerprint}")
        else:
            _say(
                f"site {site} is added, its key's fingerprint is",
                f"  {entry.fingerprint}",
                "Compare it with what the hospital reads out by telephone. If they differ, run:",
                f"  asdnet-centre remove-site {site}{centre_option(centre)}",
            )
        _say(f"it may declare at most {entry.max_cases} training cases")
        if new and max_cases is None:
            typer.echo(
                f"warning: nobody has said how many cases site {site} has: what a site declares is "
                "its weight in every mean. Ask the hospital, and run this again with --max-cases",
                err=True,
            )
        _say(*tell_superlink(centre))


def remove_site(site: SiteArgument, folder: CentreOption = CENTRE) -> None:
    """Admit one site no longer; no other site is touched."""
    with user_errors(CentreError, KeyFileError):
        centre = read_centre(folder)
        gone = dismiss_site(centre, site)
        _say(
            f"site {site} is removed, its key was",
            f"  {gone.fingerprint}",
            "A SuperLink never takes a removed key back: to come again, the site makes a new one"
            f" (asdnet-site enrol --site {site} --replace).",
        )
        _say(*tell_superlink(centre))


def renew(
    days: Annotated[int | None, DaysOption] = None,
    host: Annotated[list[str] | None, HostOption] = None,
    signing_key: Annotated[
        bool,
        typer.Option(
            "--signing-key",
            help="Make a new key for studies instead (study.key, study.pub): every hospital needs "
            "the new study.pub.",
        ),
    ] = False,
    ca_key: Annotated[
        Path | None, typer.Option(help="The CA's key, where it is not kept in the centre's folder.")
    ] = None,
    folder: CentreOption = CENTRE,
) -> None:
    """Make a new server key and certificate from the same CA; hospitals need nothing new."""
    with user_errors(CentreError, KeyFileError):
        centre = read_centre(folder)
        if signing_key:
            if days or host or ca_key:
                raise CentreError(
                    "--signing-key: not with --days, --host or --ca-key, which are of another"
                )
            _say(*_new_signing_key(centre))
            return
        hosts = _hosts(host) if host else centre.hosts
        renewed = centre.model_copy(update={"hosts": hosts, "days": days or centre.days})
        certificate = renew_server(renewed, datetime.now(UTC), ca_key).certificate
        _say(
            f"new server certificate for {', '.join(hosts_of(certificate))}",
            f"  SHA-256 {certificate_fingerprint(certificate)}",
            f"  valid until {certificate.not_valid_after_utc:%Y-%m-%d}",
            f"The old ones are beside as {centre.server_key.name}.previous and"
            f" {centre.server_file.name}.previous.",
            "Restart the SuperLink: until then it serves the old certificate. The CA is the same,"
            " so hospitals need nothing new.",
        )
        if renewed.address != centre.address:
            _say(f"Sites must set `centre: {renewed.address}` in their site configs.")


def list_sites(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
    warn_days: Annotated[
        int, typer.Option(min=0, max=_MAX_DAYS, help="Warn of what expires within so many days.")
    ] = 30,
    folder: CentreOption = CENTRE,
) -> None:
    """Show certificates and sites; exit status 1 if a certificate has expired."""
    with user_errors(CentreError, KeyFileError):
        centre = read_centre(folder)
        now = datetime.now(UTC)
        content = centre_content(centre)
        errors, warnings = faults(centre, content, now, timedelta(days=warn_days))
    if as_json:
        typer.echo(json.dumps(content_json(centre, content, now), indent=2))
    else:
        _show(centre, content, now)
    for line in [f"error: {line}" for line in errors] + [f"warning: {line}" for line in warnings]:
        typer.echo(line, err=True)
    raise typer.Exit(1 if errors else 0)


def _new_signing_key(centre: Centre) -> list[str]:
    locked = is_encrypted(signing.private_file(centre.folder))
    public = signing.make_signing_files(centre.folder, new_passphrase() if locked else None)
    return [
        "new key for studies; an old one is beside it as .previous",
        f"  {signing.public_file(centre.folder)}",
        f"  {openssh_fingerprint(public)}",
        "Send study.pub to every hospital, which compares the fingerprint by telephone. Studies"
        " that were signed before are not believed there any more: go on with a run by --resume,"
        " which signs it anew, and have every site approve it again.",
    ]


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


def _next_steps(centre: Centre) -> list[str]:
    ca = read_certificate(centre.ca_file)
    study_key = signing.read_public(centre.folder)
    folder = shlex.quote(str(centre.folder))
    return [
        f"centre made in {centre.folder}; ca.key, server.key and study.key must never leave it",
        "",
        "Start the SuperLink:",
        f"  asdnet-centre superlink --centre {folder}",
        "",
        "Send to each hospital:",
        f"  the CA's certificate  {centre.ca_file}",
        f"  its SHA-256           {certificate_fingerprint(ca)}",
        f"  the key for studies   {signing.public_file(centre.folder)}",
        f"  its fingerprint       {openssh_fingerprint(study_key)}",
        f"  the address           {centre.address}",
        "",
        "Admit a hospital by the .pub file that it sends back:",
        f"  asdnet-centre add-site SITE --public-key FILE{centre_option(centre)}",
        "",
        *_ca_key_advice(centre),
    ]


def _ca_key_advice(centre: Centre) -> list[str]:
    renewal = f"asdnet-centre renew --ca-key FILE{centre_option(centre)}"
    if is_encrypted(centre.ca_key):
        return [
            "ca.key and study.key are encrypted: `renew` asks for the passphrase, and `run` for"
            " each new study. Nobody can restore it.",
        ]
    return [
        "Take ca.key off this machine; neither the SuperLink nor a study needs it, and whoever has"
        " it can pass for the centre:",
        f"  mv {shlex.quote(str(centre.ca_key))} /media/SAFE/ca.key",
        "For `renew`, once a year, name it where it is:",
        f"  {renewal}",
    ]


def _show(centre: Centre, content: CentreContent, now: datetime) -> None:
    from rich.table import Table

    table = Table("certificate", "expires", "days left", "hosts")
    for name, certificate in content.certificates.items():
        end = certificate.not_valid_after_utc
        hosts = "\n".join(hosts_of(certificate)) if name == "server" else ""
        table.add_row(name, f"{end:%Y-%m-%d}", str((end - now).days), hosts)
    known = Table("site", "added", "fingerprint")
    for name, key in content.sites.items():
        known.add_row(name, f"{key.added:%Y-%m-%d}", key.fingerprint)
    _say(f"centre {centre.folder}, sites connect to {centre.address}")
    console = make_console(soft_wrap=False)
    console.print(table)
    # Beside the table, not in it: a fingerprint must stand in one piece.
    for name, certificate in content.certificates.items():
        _say(f"SHA-256 of {name}: {certificate_fingerprint(certificate)}")
    _say(f"ca.key: {ca_key_state(centre)}")
    if content.study_key is not None:
        _say(f"fingerprint of study.pub: {openssh_fingerprint(content.study_key)}")
    console.print(known if content.sites else "no sites yet")
    if content.sites:
        bounds = ", ".join(f"{name} {key.max_cases}" for name, key in content.sites.items())
        _say(f"training cases that a site may declare: {bounds}")


def _say(*lines: str) -> None:
    console = make_console()
    for line in lines:
        console.print(line)
