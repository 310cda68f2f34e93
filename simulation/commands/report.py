"""`asdnet-sim report STUDY`: the report of a study, finished or not."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from simulation.experiment.report.page import REFERENCE, ReportError, write_report


def report(
    study: Annotated[Path, typer.Argument(help="the study's folder")],
    reference: Annotated[
        str, typer.Option(help="the method that all others are compared with")
    ] = REFERENCE,
) -> None:
    """Write STUDY/report: report.html in one file, tables as CSV, figures as PNG.

    It can be called while the study is at work: it reports what is complete and names what is not.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        path = write_report(study, reference)
    except ReportError as error:
        Console(stderr=True, emoji=False).print(
            f"error: {error}", highlight=False, soft_wrap=True, style="red", markup=False
        )
        raise typer.Exit(2) from None
    Console(emoji=False).print(str(path), highlight=False, soft_wrap=True, markup=False)
