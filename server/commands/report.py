"""`asdnet-centre report RUN`: the report of a federation, from MLflow alone."""

from pathlib import Path
from typing import Annotated

import typer

from reporting.terminal import fail, make_console, user_errors
from server.admin.centre import CENTRE, CentreError, read_centre

_SQLITE = "sqlite:///"


def report(
    run: Annotated[str, typer.Argument(help="The run's name.")],
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
    mlflow_uri: Annotated[
        str, typer.Option(help="MLflow's tracking URI, to read it without a centre's folder.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; else report.html in the run's folder."),
    ] = None,
) -> None:
    """Write one HTML file: what was agreed, sites, scores, curves, left-out sites, time, bytes.

    It can be called while the study is at work.
    """
    from server.monitoring.federation_page import report_page
    from server.monitoring.run_folder import RunError, RunFolder
    from server.monitoring.tracked import TrackedError, read_run

    with user_errors(CentreError, RunError, TrackedError):
        uri, path = mlflow_uri, Path(f"{run}-report.html")
        if not mlflow_uri:
            folder = RunFolder(read_centre(centre).runs / run)
            uri, path = folder.read()[0].mlflow_uri, folder.path / "report.html"
        _check_store(uri)
        path = out or path
        page = report_page(read_run(uri, run))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        fail(f"{path}: cannot be written ({error.strerror or type(error).__name__})")
    make_console().print(str(path))


def _check_store(uri: str) -> None:
    """MLflow would make an empty database where there is none.

    Raises:
        TrackedError: If the URI names a SQLite file that is not there.
    """
    from server.monitoring.tracked import TrackedError

    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE).partition("?")[0]).is_file():
        raise TrackedError(f"{uri}: is not there; give the store of the study with --mlflow-uri")
