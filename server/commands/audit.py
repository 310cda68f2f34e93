"""`asdnet-centre audit`: report what the centre has sent and what has come from the sites."""

from pathlib import Path
from typing import Annotated

import typer

from protocol.agreement.statement_store import STATEMENTS_FILE
from protocol.audit.log import AuditError
from protocol.audit.report import View
from reporting.audit_command import (
    JsonOption,
    NotedOption,
    RunOption,
    SinceOption,
    StatementsOption,
    answer,
    day,
)


def audit(
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = Path("centre"),
    site: Annotated[str, typer.Option(help="Show this site alone.")] = "",
    since: SinceOption = None,
    run: RunOption = "",
    noted: NotedOption = "",
    other_log: Annotated[
        Path | None,
        typer.Option("--compare", help="The log of --site, which must agree."),
    ] = None,
    statements: StatementsOption = None,
    json_wanted: JsonOption = False,
) -> None:
    """Verify the centre's audit log and report what came, what was refused and what left.

    The whole log is always verified; --since and --run choose what is shown.
    Exit status 0: all is well, or nothing has been sent yet.
    Exit status 1: a log was changed, a noted hash is gone, or the sides or statements differ.
    Exit status 2: the question cannot be answered.
    """

    def view() -> View:
        if not centre.is_dir():
            raise AuditError(f"{centre}: is no folder; give the centre's with --centre")
        if other_log is not None and not site:
            raise AuditError("--compare: goes with --site, whose log it is")
        return View(
            log=centre / "audit.jsonl",
            owner="centre",
            site=site,
            since=day(since),
            run=run,
            other_log=other_log,
            noted=noted.lower(),
            statements=tuple(sorted(centre.glob(f"runs/*/{STATEMENTS_FILE}"))),
            other_statements=tuple(statements or ()),
        )

    answer(view, json_wanted=json_wanted)
