"""`asdnet-site approve --site A`: look at code that the centre sent, and decide on it."""

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.node import approval
from client.node.approval import (
    approved,
    last_approved,
    revoke,
    waiting,
)
from client.node.decisions import ApprovalError, Kept
from protocol.agreement.bundle import Bundle, difference, installed_bundle
from protocol.config.site import SITE_CONFIGS, SiteConfig, read_site
from reporting.terminal import make_console, user_errors

if TYPE_CHECKING:
    from rich.console import Console


def approve(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    digest: Annotated[
        str | None, typer.Option(help="Look at this one only; the first digits will do.")
    ] = None,
    yes: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Approve this one unasked; all 64 digits.")
    ] = None,
    revoked: Annotated[
        str | None,
        typer.Option("--revoke", metavar="DIGEST", help="Approve this one no longer; all 64."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Only list what is installed, approved and waiting.")
    ] = False,
) -> None:
    """Show app bundles that wait at this site as a difference to the code before, and ask.

    Nothing of a bundle runs before it is approved, nor while it is shown. It asks only in a
    terminal; else, as in a pipe to a pager, it shows all and ends with status 1.
    """
    if sum(option not in (None, False) for option in (digest, yes, revoked, listed)) > 1:
        raise typer.BadParameter("give only one of --digest, --yes, --revoke and --list")
    console = make_console()
    with user_errors(ValueError):  # of the site's file, of bundles, of approvals
        config = read_site(configs / f"{site}.yaml")
        if yes is not None:
            approval.approve(config, yes)
            console.print(f"approved {yes} for site {config.site}")
        elif revoked is not None:
            revoke(config, revoked)
            console.print(f"revoked {revoked} for site {config.site}")
        elif listed:
            _list(console, config)
        elif not _review(console, config, digest):
            raise typer.Exit(1)


def is_interactive() -> bool:
    """Whether a person would see a question and answer it: in a pipe to a pager, none would."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _list(console: "Console", config: SiteConfig) -> None:
    console.print(f"installed  {installed_bundle().digest}")
    for kept in approved(config):
        console.print(f"approved   {_line(kept)}")
    for digest in config.approved_bundles:
        console.print(f"approved   {digest}  by {config.site}.yaml")
    for kept in waiting(config):
        console.print(f"waiting    {_line(kept)}")


def _line(kept: Kept[Bundle]) -> str:
    count = len(kept.item.files)
    return f"{kept.item.digest}  {_when(kept.since)}  {count} file{'s' if count > 1 else ''}"


def _when(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _review(console: "Console", config: SiteConfig, prefix: str | None) -> bool:
    """Show and ask; whether somebody decided on everything."""
    bundles = waiting(config)
    if prefix is not None:
        bundles = [_only(bundles, prefix)]
    if not bundles:
        console.print(f"nothing waits for approval at site {config.site}")
        return True
    for kept in bundles:
        console.print(f"waiting  {_line(kept)}")
    ask = typer.confirm if is_interactive() else None
    installed = installed_bundle()
    return all([_decide(console, config, kept.item, installed, ask) for kept in bundles])


def _only(bundles: list[Kept[Bundle]], prefix: str) -> Kept[Bundle]:
    fitting = [kept for kept in bundles if prefix and kept.item.digest.startswith(prefix)]
    if len(fitting) != 1:
        raise ApprovalError(
            f"--digest {prefix}: {len(fitting)} of {len(bundles)} waiting app bundles begin so;"
            " give the first digits of exactly one"
        )
    return fitting[0]


def _decide(
    console: "Console",
    config: SiteConfig,
    bundle: Bundle,
    installed: Bundle,
    ask: Callable[[str], bool] | None,
) -> bool:
    """Show one bundle and ask about it; False where there is nobody to ask."""
    short = bundle.digest[:12]
    if bundle.digest == installed.digest:
        console.print(f"\n{short} is the version installed here: it runs without approval")
        return True
    before = last_approved(config)
    base = installed if before is None else before
    named = "the installed version" if before is None else "the version approved last"
    console.print(f"\n{short} against {named} ({base.digest[:12]}):\n")
    console.print(difference(base, bundle), end="")
    if ask is None:
        console.print(f"\n{short} is not approved: run this in a terminal, or with --yes DIGEST")
        return False
    if ask(f"\nApprove {short} for site {config.site}?"):
        approval.approve(config, bundle.digest)
        console.print(f"approved {bundle.digest} for site {config.site}")
    else:
        console.print(f"{short} stays waiting")
    return True
