"""`asdnet-site enrol --site A`: make the site's key, which stays, and print what to send."""

import stat
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec

from client.commands.site_file import open_site
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.config.study import ProtocolError
from protocol.files import write_bytes
from protocol.keys import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    KeyFileError,
    certificate_fingerprint,
    make_key,
    openssh_fingerprint,
    openssh_line,
    openssh_private,
    read_certificate,
    read_private_key,
    read_verifying_key,
)
from reporting.terminal import make_console, user_errors


def enrol(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make a new key; the old one is kept as .previous.")
    ] = False,
) -> None:
    """Make this site's key (EC P-384), or show it again; the private part never leaves here."""
    console = make_console()
    with user_errors(KeyFileError, ProtocolError):
        config = open_site(configs / f"{site}.yaml")
        # Before the key: a wrong file must not leave a half-done enrolment behind.
        trusted, study_key = _trusted(config), _study_key(config)
        key, done = site_key(config, replace=replace)
    mode = stat.S_IMODE(config.key_file.stat().st_mode)
    if mode & 0o077:
        typer.echo(
            f"warning: {config.key_file}: others of this machine may read it (mode {mode:o});"
            " run chmod 600 on it, and --replace it if they might have",
            err=True,
        )
    console.print(f"site {config.site}: {done}")
    for line in _next_steps(config, key, trusted, study_key):
        console.print(line)


def site_key(config: SiteConfig, *, replace: bool) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """The site's key, made if there is none or `replace` asks for another; and what was done.

    The public line next to it is written whenever it is missing or not the key's.

    Raises:
        KeyFileError: If the key that is there is of another kind.
    """
    path, public = config.key_file, public_file(config)
    if path.exists() and not replace:
        key, done = read_private_key(path), "the key is there already and stays"
    else:
        key, done = make_key(), "a new key is made"
        # A folder that is there already may serve others too, so its mode is left alone.
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        for old, mode in ((path, PRIVATE_MODE), (public, PUBLIC_MODE)):
            if old.exists():
                previous = old.with_name(f"{old.name}.previous")
                write_bytes(previous, old.read_bytes(), mode)
                done = (
                    f"a new key is made, the old one is kept as {path.name}.previous; the centre"
                    f" must remove-site {config.site} before it adds the new one"
                )
        write_bytes(path, openssh_private(key), PRIVATE_MODE)
    line = f"{openssh_line(key.public_key(), config.site)}\n".encode()
    if not public.exists() or public.read_bytes() != line:
        write_bytes(public, line, PUBLIC_MODE)
    return key, done


def public_file(config: SiteConfig) -> Path:
    """Where the public line is: next to the private key, by the site's name, as it is sent."""
    public = config.key_file.with_name(f"{config.site}.pub")
    # A site named "centre" keeps apart from the centre's key, which lies there too.
    taken = public == config.centre_key_file
    return config.key_file.with_name(f"{config.key_file.name}.pub") if taken else public


def _trusted(config: SiteConfig) -> str | None:
    """Fingerprint of the centre's CA, if its certificate is here already."""
    if not config.ca_file.exists():
        return None
    return certificate_fingerprint(read_certificate(config.ca_file))


def _study_key(config: SiteConfig) -> str | None:
    """Fingerprint of the centre's key for studies, if it is here already."""
    if not config.centre_key_file.exists():
        return None
    return openssh_fingerprint(read_verifying_key(config.centre_key_file))


def _next_steps(
    config: SiteConfig,
    key: ec.EllipticCurvePrivateKey,
    trusted: str | None,
    study_key: str | None,
) -> list[str]:
    if trusted is None:
        authority = [
            "3. Put the centre's ca.pem here:",
            f"     {config.ca_file}",
            "   and run this command again: it prints the fingerprint, which must be the one that",
            "   the centre reads out.",
        ]
    else:
        authority = [
            f"3. The centre's certificate is here ({config.ca_file}); its SHA-256 is",
            f"     {trusted}",
            "   which must be the one that the centre reads out.",
        ]
    if study_key is None:
        signature = [
            "4. Put the centre's study.pub, by which it signs its studies, here:",
            f"     {config.centre_key_file}",
            "   and run this command again, as for ca.pem.",
        ]
    else:
        signature = [
            f"4. The centre's key for studies is here ({config.centre_key_file}); its fingerprint",
            f"     {study_key}",
            "   must be the one that the centre reads out.",
        ]
    address = (
        f"5. The centre is at {config.centre}."
        if config.centre
        else f"5. Set `centre: host:port` in {config.site}.yaml, as the centre tells you."
    )
    return [
        f"1. Send ONLY this file to the centre ({config.key_file.name} is private: it stays here):",
        f"     {public_file(config)}",
        "2. Read its fingerprint out to the centre by telephone:",
        f"     {openssh_fingerprint(key.public_key())}",
        *authority,
        *signature,
        address,
    ]
