"""`asdnet-site approve --site A`: look at studies and code from the centre, and decide on them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.site_file import open_site
from client.node import approval
from client.node.decisions import ApprovalError, Kept
from client.node.guard import studies
from protocol.agreement.bundle import Bundle, difference, installed_bundle
from protocol.agreement.manifest import Study
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.escaping import printable
from reporting.terminal import make_console, user_errors

if TYPE_CHECKING:
    from rich.console import Console

# Ten thousand sites, and their protocol.
_MAX_FILE_BYTES = 16 * 2**20
_NOT_DECIDED = "is not approved: run this in a terminal, or with --yes DIGEST"


@dataclass(frozen=True, kw_only=True)
class ApproveOptions:
    """What `approve` can be asked for."""

    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")]
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS
    file: Annotated[
        Path | None, typer.Option(help="Look at the study in this file, as the centre mailed it.")
    ] = None
    digest: Annotated[
        str | None, typer.Option(help="Look at this one only; the first digits will do.")
    ] = None
    yes: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Approve this one unasked; all 64 digits.")
    ] = None
    revoked: Annotated[
        str | None,
        typer.Option("--revoke", metavar="DIGEST", help="Approve this one no longer; all 64."),
    ] = None
    listed: Annotated[
        bool, typer.Option("--list", help="Only list what is installed, approved and waiting.")
    ] = False


def approve(options: ApproveOptions) -> None:
    """Show studies and app bundles that wait at this site, and ask about each.

    A study is shown in words: what it does with this site's data, what leaves, who takes part. Code
    is shown as a difference to the code before. Nothing runs before it is approved, nor while it is
    shown. It asks only in a terminal; else, as in a pipe to a pager, it shows all and ends with
    status 1.
    """
    chosen = (options.digest, options.yes, options.revoked, options.listed)
    if sum(option not in (None, False) for option in chosen) > 1:
        raise typer.BadParameter("give only one of --digest, --yes, --revoke and --list")
    if options.file is not None and (options.digest or options.revoked or options.listed):
        raise typer.BadParameter("--file: only with --yes, or alone")
    console = make_console()
    with user_errors(ValueError):  # of the site's file, of studies, of bundles, of approvals
        config = open_site(options.configs / f"{options.site}.yaml")
        if options.yes is not None:
            _approve_unasked(console, config, options.yes, options.file)
        elif options.revoked is not None:
            _revoke(console, config, options.revoked)
        elif options.listed:
            _list(console, config)
        elif not _review(console, config, options.file, options.digest):
            raise typer.Exit(1)


def is_interactive() -> bool:
    """Whether a person would see a question and answer it: in a pipe to a pager, none would."""
    return sys.stdin.isatty() and sys.stdout.isatty()


# ---- without a question -------------------------------------------------------------------------


def _approve_unasked(
    console: "Console", config: SiteConfig, digest: str, file: Path | None
) -> None:
    if file is not None:
        study = _mailed(config, file)
        if study.digest != digest:
            raise ApprovalError(f"{file}: holds study {study.digest}, not {digest}")
        _approve_study(console, config, study)
    elif any(kept.item.digest == digest for kept in studies.waiting(config)):
        _approve_study(console, config, studies.find_waiting(config, digest))
    else:
        approval.approve(config, digest)
        console.print(f"approved {digest} for site {config.site}")


def _mailed(config: SiteConfig, file: Path) -> Study:
    """The study of a file, which is read once: what is shown is what is approved."""
    with file.open("rb") as stream:
        content = stream.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ApprovalError(f"{file}: is over {_MAX_FILE_BYTES} bytes, no study is so long")
    try:
        return studies.read_study(config, content)
    except ValueError as error:
        raise ApprovalError(f"{file}: {error}") from None


def _approve_study(console: "Console", config: SiteConfig, study: Study) -> None:
    for replaced in studies.approve(config, study):
        console.print(f"{replaced[:12]}, signed earlier for the same run, is approved no longer")
    console.print(f"approved study {study.digest} for site {config.site}")


def _revoke(console: "Console", config: SiteConfig, digest: str) -> None:
    kept = [study.item.digest for study in studies.approved(config)]
    of = studies if digest in (*kept, *config.approved_studies) else approval
    of.revoke(config, digest)
    console.print(f"revoked {digest} for site {config.site}")


def _list(console: "Console", config: SiteConfig) -> None:
    console.print(f"installed  {installed_bundle().digest}")
    for bundle in approval.approved(config):
        console.print(f"approved   {_line(bundle)}")
    for digest in config.approved_bundles:
        console.print(f"approved   {digest}  by {config.site}.yaml")
    for bundle in approval.waiting(config):
        console.print(f"waiting    {_line(bundle)}")
    for study in studies.approved(config):
        console.print(f"study approved  {_study_line(study)}")
    for digest in config.approved_studies:
        console.print(f"study approved  {digest}  by {config.site}.yaml")
    for study in studies.waiting(config):
        console.print(f"study waiting   {_study_line(study)}")


def _line(kept: Kept[Bundle]) -> str:
    count = len(kept.item.files)
    return f"{kept.item.digest}  {_when(kept.since)}  {count} file{'s' if count > 1 else ''}"


def _study_line(kept: Kept[Study]) -> str:
    manifest = kept.item.manifest
    return f"{kept.item.digest}  {_when(kept.since)}  run {manifest.run}, {_revision(kept.item)}"


def _revision(study: Study) -> str:
    return f"revision {study.manifest.revision}"


def _when(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z")


# ---- with a question ----------------------------------------------------------------------------


def _review(console: "Console", config: SiteConfig, file: Path | None, prefix: str | None) -> bool:
    """Show and ask; whether somebody decided on everything."""
    if file is not None:
        shown, bundles = [_mailed(config, file)], []
    else:
        waiting, bundles = studies.waiting(config), approval.waiting(config)
        if prefix is not None:
            digest = _only([*waiting, *bundles], prefix)
            waiting = [kept for kept in waiting if kept.item.digest == digest]
            bundles = [kept for kept in bundles if kept.item.digest == digest]
        for kept in waiting:
            console.print(f"study waiting  {_study_line(kept)}")
        shown = [kept.item for kept in waiting]
    if not shown and not bundles:
        console.print(f"nothing waits for approval at site {config.site}")
        return True
    for bundle in bundles:
        console.print(f"waiting  {_line(bundle)}")
    ask = typer.confirm if is_interactive() else None
    installed = installed_bundle()
    decided = [_decide_study(console, config, study, installed, ask) for study in shown]
    decided += [_decide(console, config, kept.item, installed, ask) for kept in bundles]
    return all(decided)


def _only(things: "list[Kept[Study] | Kept[Bundle]]", prefix: str) -> str:
    """The digest that begins so, of what waits."""
    digests = [kept.item.digest for kept in things]
    fitting = [digest for digest in digests if prefix and digest.startswith(prefix)]
    if len(fitting) != 1:
        raise ApprovalError(
            f"--digest {prefix}: {len(fitting)} of {len(digests)} waiting studies and app bundles"
            " begin so; give the first digits of exactly one"
        )
    return fitting[0]


def _decide_study(
    console: "Console",
    config: SiteConfig,
    study: Study,
    installed: Bundle,
    ask: Callable[[str], bool] | None,
) -> bool:
    """Show one study in words and ask about it; False where it is not decided on."""
    # Late: it looks at the networks, and PyTorch takes seconds to import.
    from client.node.guard.words import study_words

    short, manifest = study.digest[:12], study.manifest
    key, before = studies.pinned_fingerprint(config), studies.last_approved(config, manifest.run)
    console.print(
        f"\nStudy {printable(study.protocol.name)}, run {manifest.run}, {_revision(study)}\n"
        f"  digest {study.digest}\n"
        f"  signed {_when(manifest.issued)} by the centre's key {key}"
    )
    for line in study_words(config, study, installed.digest, before):
        console.print(line)
    if studies.limits_broken_by(config, study):
        console.print(
            f"\n{short} cannot be approved: it is beyond limits of this site. Have the centre"
            f" change the study, or, if you decide so, raise the limit in {config.site}.yaml"
        )
        return False
    if ask is None:
        console.print(f"\n{short} {_NOT_DECIDED}")
        return False
    if ask(f"\nApprove study {short} for site {config.site}?"):
        _approve_study(console, config, study)
    else:
        console.print(f"{short} stays waiting")
    return True


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
    before = approval.last_approved(config)
    base = installed if before is None else before
    named = "the installed version" if before is None else "the version approved last"
    console.print(f"\n{short} against {named} ({base.digest[:12]}):\n")
    console.print(difference(base, bundle), end="")
    if ask is None:
        console.print(f"\n{short} {_NOT_DECIDED}")
        return False
    if ask(f"\nApprove {short} for site {config.site}?"):
        approval.approve(config, bundle.digest)
        console.print(f"approved {bundle.digest} for site {config.site}")
    else:
        console.print(f"{short} stays waiting")
    return True
