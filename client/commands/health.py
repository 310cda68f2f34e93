"""`asdnet-site health --site A`: whether the site is at work, for a health check."""

from pathlib import Path
from typing import Annotated

import typer

from client.commands.site_file import open_site
from protocol.config.site import SITE_CONFIGS
from protocol.config.study import ProtocolError
from reporting.terminal import MISCONFIGURED, make_console, user_errors

# What stands between this machine and the centre; dates and the clock are the preflight's.
_CHECKS = ("centre", "DNS", "TCP", "TLS chain")


def health(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
) -> None:
    """Say whether the site runs and reaches its centre; in seconds, and it reads no scan.

    Exit status 1: it does not run, or does not reach the centre.
    """
    from client.node.checks import run_check
    from client.node.connection import connection_checks
    from protocol.running import running_now

    with user_errors(ProtocolError, status=MISCONFIGURED):
        config = open_site(configs / f"{site}.yaml")
    console = make_console()
    running = running_now(config.running_file)
    console.print(f"site {site}: " + (f"runs in {running}" if running else "does not run"))
    steps = connection_checks(config)
    checks = [run_check(name, steps[name]) for name in _CHECKS]
    bad = [check for check in checks if check.status in ("failed", "skipped")]
    for check in bad:
        console.print(f"{check.name}: {check.finding}")
    if not bad:
        console.print(f"the centre answers at {config.centre}")
    raise typer.Exit(0 if running and not bad else 1)
