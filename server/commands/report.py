"""`asdnet-centre report RUN`: the report of a federation, from MLflow alone."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reporting.render import render_page
from server.admin.centre import CENTRE, CentreError, read_centre
from server.monitoring.federation_page import sections_of
from server.monitoring.run_folder import RunError, RunFolder
from server.monitoring.tracked import TrackedError, TrackedStudy, read_run

_SQLITE = "sqlite:///"


def report(
    run: Annotated[str, typer.Argument(help="the run's name")],
    centre: Annotated[Path, typer.Option(help="the centre's folder")] = CENTRE,
    mlflow_uri: Annotated[
        str, typer.Option(help="read this MLflow, without a centre's folder")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; else report.html in the run's folder"),
    ] = None,
) -> None:
    """Write one HTML file: what was agreed, sites, scores, curves, left-out sites, time, bytes.

    It can be called while the study is at work.
    """
    console, errors = Console(emoji=False), Console(stderr=True, emoji=False)
    try:
        uri, path = mlflow_uri, Path(f"{run}-report.html")
        if not mlflow_uri:
            folder = RunFolder(read_centre(centre).runs / run)
            uri, path = folder.read()[0].mlflow_uri, folder.path / "report.html"
        _check_store(uri)
        path = out or path
        path.write_text(page_of(read_run(uri, run)), encoding="utf-8")
    except (CentreError, RunError, TrackedError) as error:
        errors.print(f"error: {error}", highlight=False, soft_wrap=True, style="red", markup=False)
        raise typer.Exit(2) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        errors.print(f"error: {path}: cannot be written ({reason})", soft_wrap=True, markup=False)
        raise typer.Exit(2) from None
    console.print(str(path), highlight=False, soft_wrap=True, markup=False)


def page_of(study: TrackedStudy) -> str:
    """The whole page."""
    subtitle = f"{study.rounds} rounds, {len(study.sites)} sites, from what MLflow has"
    return render_page(f"Federation report: {study.name}", subtitle, sections_of(study))


def _check_store(uri: str) -> None:
    """MLflow would make an empty database where there is none.

    Raises:
        TrackedError: If the URI names a SQLite file that is not there.
    """
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE).partition("?")[0]).is_file():
        raise TrackedError(f"{uri}: is not there; give the store of the study with --mlflow-uri")
