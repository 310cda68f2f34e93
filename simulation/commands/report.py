"""`asdnet-sim report FOLDER`: the report of an experiment, finished or not."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from reporting.terminal import make_console, user_errors


def report(
    study: Annotated[Path, typer.Argument(help="The experiment's folder.")],
    reference: Annotated[
        str, typer.Option(help="The method that all others are compared with.")
    ] = "ASDNet",
) -> None:
    """Write STUDY/report: report.html in one file, tables as CSV, figures as PNG.

    It can be called while the experiment is at work: it reports what is complete and names what is
    not.
    """
    from simulation.experiment.report.page import ReportError, write_report

    logging.basicConfig(format="%(levelname)s: %(message)s")
    with user_errors(ReportError):
        path = write_report(study, reference)
    make_console().print(str(path))
