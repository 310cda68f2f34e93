"""`asdnet-site audit --site A`: report what has come to this hospital, and what has left it."""

from pathlib import Path
from typing import Annotated

import typer

from client.commands.site_file import open_site
from protocol.audit.log import AuditError
from protocol.audit.report import View
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.config.study import ProtocolError
from protocol.keys import KeyFileError, openssh_line, read_private_key
from reporting.audit_command import (
    JsonOption,
    NotedOption,
    RunOption,
    SinceOption,
    StatementsOption,
    answer,
    day,
)
from reporting.terminal import user_errors


def audit(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    since: SinceOption = None,
    run: RunOption = "",
    noted: NotedOption = "",
    other_log: Annotated[
        Path | None,
        typer.Option("--compare", help="The centre's log, which must agree about this site."),
    ] = None,
    statements: StatementsOption = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="Answer this run again, which was stopped; once you know why it was.",
        ),
    ] = "",
    json_wanted: JsonOption = False,
) -> None:
    """Verify this hospital's audit log and report what came, what was refused and what left.

    The whole log is always verified; --since and --run choose what is shown.
    Exit status 0: all is well, or nothing has been sent yet.
    Exit status 1: a log was changed, a noted hash is gone, or the sides or statements differ.
    Exit status 2: the question cannot be answered.
    """

    def view() -> View:
        config = open_site(configs / f"{site}.yaml")
        return View(
            log=config.audit_file,
            owner="site",
            site=config.site,
            since=day(since),
            run=run,
            other_log=other_log,
            noted=noted.lower(),
            statements=tuple(sorted(config.statements.glob("*.jsonl"))),
            other_statements=tuple(statements or ()),
            keys=_own_key(config),
        )

    if resume:
        from client.node.guard.history import HistoryError
        from client.node.guard.resumption import ResumptionError, resume_run

        with user_errors(AuditError, HistoryError, ProtocolError, ResumptionError):
            typer.echo(resume_run(open_site(configs / f"{site}.yaml"), resume))
        return
    answer(view, json_wanted=json_wanted)


def _own_key(config: SiteConfig) -> dict[str, str]:
    """This site's own; {} where it is not here any more."""
    try:
        return {config.site: openssh_line(read_private_key(config.key_file).public_key())}
    except KeyFileError:
        return {}
