"""`asdnet-sim report FOLDER`: the report of an experiment, finished or not."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from reporting.terminal import make_console, user_errors


def report(
    study: Annotated[Path, typer.Argument(help="The experiment's folder.")],
    reference: Annotated[
        str | None,
        typer.Option(
            help="The row that all others are compared with; else Supervised where it is there, "
            "and ASDNet."
        ),
    ] = None,
    all_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Another experiment on the same cohort and sites, with every label: scores of few "
            "labels are given as a share of its reference row's.",
        ),
    ] = None,
) -> None:
    """Write STUDY/report: report.html in one file, tables as CSV, figures as PNG.

    It can be called while the experiment is at work: it reports what is complete and names what is
    not.
    """
    from simulation.errors import ReportError
    from simulation.experiment.report.page import write_report

    logging.basicConfig(format="%(levelname)s: %(message)s")
    with user_errors(ReportError):
        path = write_report(study, reference, all_labels)
    make_console().print(str(path))
