"""What the audit commands of both sides share: options and output."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from protocol.audit.log import AuditError
from protocol.audit.printing import print_findings
from protocol.audit.report import View, as_json, examine
from protocol.config.study import ProtocolError
from reporting.terminal import make_console, user_errors

SinceOption = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Show what happened from this day on (UTC)."),
]
RunOption = Annotated[str, typer.Option(help="Show what belongs to this study run.")]
NotedOption = Annotated[
    str,
    typer.Option(help="A last hash that you wrote down earlier, or its beginning, to look for."),
]
StatementsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--statements",
        help="Another side's file of what sites have signed; repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")]


def answer(view: Callable[[], View], *, json_wanted: bool) -> None:
    """Examine and print; status 1 where something is wrong with a log, 2 where none can be read."""
    with user_errors(AuditError, ProtocolError):
        findings = examine(view())
    if json_wanted:
        typer.echo(as_json(findings))
    else:
        print_findings(findings, make_console(soft_wrap=False))
    if not findings.all_well:
        raise typer.Exit(1)


def day(since: datetime | None) -> str:
    """As `View` has it; empty for all days."""
    return f"{since:%Y-%m-%d}" if since else ""
