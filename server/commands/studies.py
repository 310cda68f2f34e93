"""`asdnet-centre studies`: every study of the centre, and how it stands."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reporting.terminal import make_console, print_errors, user_errors
from server.admin.centre import CENTRE, CentreError, read_centre

if TYPE_CHECKING:
    from server.service.views import Study


def studies(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with sites and curves, not a table.")
    ] = False,
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
) -> None:
    """Show every study with its state, priority, round and time left; status 1: some is damaged."""
    with user_errors(CentreError):
        home = read_centre(centre)
        from server.service.overview import overview

        seen = overview(home, nodes=None)
    if as_json:
        content = [study.model_dump(mode="json") for study in seen.studies]
        typer.echo(json.dumps(content, indent=2))
    else:
        _show(seen.studies)
    for problem in seen.problems:
        print_errors(problem)
    raise typer.Exit(1 if seen.problems else 0)


def _show(found: tuple["Study", ...]) -> None:
    from rich.table import Table

    from server.monitoring.progress import clock

    console = make_console(soft_wrap=False, whole_tables=True)
    if not found:
        console.print("no study yet; start one: asdnet-centre run --study study.yaml")
        return
    table = Table("study", "state", "priority", "round", "left", "now")
    for study in found:
        left = study.seconds_left if study.active else None
        table.add_row(
            study.name,
            study.state,
            "-" if study.priority is None else str(study.priority),
            f"{study.round} of {study.rounds}" if study.rounds else "-",
            "-" if left is None else clock(left),
            study.detail,
        )
    console.print(table)
