"""STUDY/report: one HTML file, its tables as CSV and its figures as PNG."""

from pathlib import Path

from pydantic import ValidationError

from protocol.config.study import explain
from reporting.blocks import Bullets, Section, Text, write_pictures, write_tables
from reporting.render import render_page
from simulation.experiment.report.confidence import confidence_section
from simulation.experiment.report.key_findings import key_findings
from simulation.experiment.report.orderings import orderings_section
from simulation.experiment.report.overlays import overlays_section
from simulation.experiment.report.overview import overview_section
from simulation.experiment.report.plots import boxes_section, curves_section
from simulation.experiment.report.published import published_section
from simulation.experiment.report.results import Results
from simulation.experiment.report.settings import federation_section
from simulation.experiment.report.unlabelled import unlabelled_section
from simulation.experiment.store import read_experiment

REFERENCE = "ASDNet"
_SYNTHETIC = (
    "SYNTHETIC data: every scan is a made phantom. These numbers can show that the mechanism works "
    "and in which order methods stand; they say nothing of clinical accuracy, and neither confirm "
    "nor refute the paper's figures."
)


class ReportError(ValueError):
    """A folder that holds no study, or a file of one that cannot be read."""


def write_report(study: Path, reference: str = REFERENCE) -> Path:
    """Write STUDY/report/report.html, report/tables/*.csv and report/figures/*.png.

    Args:
        study: Folder of a study, finished or not.
        reference: The row that others are compared with.

    Returns:
        The HTML file.

    Raises:
        ReportError: If the folder is no study, or one of its files is damaged.
    """
    try:
        results = Results(*read_experiment(study))
        sections = _sections(results, study, reference)
    except FileNotFoundError:
        raise ReportError(
            f"{study}: has no study.json, so is no study; give the folder that the study wrote"
        ) from None
    except ValidationError as error:
        raise ReportError(explain(error, str(study))) from None
    folder = study / "report"
    write_tables(sections, folder / "tables")
    write_pictures(sections, folder / "figures")
    page = render_page(
        f"Study report: {results.info.protocol.get('name', study.name)}",
        f"{len(results.runs)} complete runs of {len(results.methods)} methods; started "
        f"{results.info.started}",
        sections,
        notices=(Text(text=_SYNTHETIC, tone="caution"),) if results.is_synthetic() else (),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _sections(results: Results, study: Path, reference: str) -> list[Section]:
    if not results.runs:
        text = "No run is complete yet, so there is nothing to report."
        nothing = Text(text=text, tone="caution")
        return [Section(title="In short", blocks=(nothing,)), overview_section(results)]
    return [
        Section(title="In short", blocks=(Bullets(items=key_findings(results, reference)),)),
        overview_section(results),
        published_section(results, reference),
        federation_section(results, reference),
        unlabelled_section(results),
        boxes_section(results, reference),
        curves_section(results, reference),
        confidence_section(results),
        overlays_section(results, study, reference),
        orderings_section(results),
    ]
