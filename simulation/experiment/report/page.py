"""Writes an experiment's report: one HTML file, its tables as CSV and its figures as PNG."""

from pathlib import Path

from pydantic import ValidationError

from protocol.config.explanation import explain
from protocol.wording import counted
from reporting.blocks import Bullets, Section, Text, write_pictures, write_tables
from reporting.render import render_page
from simulation.errors import ReportError
from simulation.experiment.methods import SUPERVISED
from simulation.experiment.report.all_labels import AllLabels, read_all_labels
from simulation.experiment.report.confidence import confidence_section
from simulation.experiment.report.few_labels import has_few_labels
from simulation.experiment.report.few_labels_section import few_labels_section
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

# The row that others are compared with, if nobody names one: the first that is there, or the last.
_REFERENCES = (SUPERVISED, "ASDNet")
_SYNTHETIC = (
    "SYNTHETIC data: every scan is a made phantom. These numbers can show that the mechanism works "
    "and in which order methods stand; they show nothing about clinical accuracy, and neither "
    "confirm nor refute the paper's figures."
)


def write_report(
    experiment: Path, reference: str | None = None, all_labels: Path | None = None
) -> Path:
    """Write report/report.html, report/tables/*.csv and report/figures/*.png.

    Args:
        experiment: Its folder; it may be unfinished.
        reference: The row that others are compared with; None: `Supervised` or `ASDNet`.
        all_labels: Another experiment, with every label: scores are given as shares of its
            reference's.

    Returns:
        The HTML file.

    Raises:
        ReportError: If the folder is no experiment's, or one of its files is damaged.
    """
    try:
        results = Results(*read_experiment(experiment))
        named = reference or _usual_reference(results)
        held_to = read_all_labels(all_labels, results, named) if all_labels else None
        sections = _sections(results, experiment, named, held_to)
    except FileNotFoundError:
        raise ReportError(
            f"{experiment}: has no study.json, so is no experiment; give the result folder of one"
        ) from None
    except ValidationError as error:
        raise ReportError(explain(error, str(experiment))) from None
    folder = experiment / "report"
    write_tables(sections, folder / "tables")
    write_pictures(sections, folder / "figures")
    page = render_page(
        f"Report: {results.info.protocol.get('name', experiment.name)}",
        f"{counted(len(results.runs), 'complete run')} of "
        f"{counted(len(results.methods), 'method')}; started "
        f"{results.info.started}",
        sections,
        notices=(Text(text=_SYNTHETIC, tone="caution"),) if results.is_synthetic() else (),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _usual_reference(results: Results) -> str:
    return next((m for m in _REFERENCES if m in results.methods), _REFERENCES[-1])


def _sections(
    results: Results, experiment: Path, reference: str, all_labels: AllLabels | None
) -> list[Section]:
    if not results.runs:
        text = "No run is complete yet, so there is nothing to report."
        nothing = Text(text=text, tone="caution")
        return [Section(title="Key findings", blocks=(nothing,)), overview_section(results)]
    findings = key_findings(results, reference, all_labels)
    few = has_few_labels(results.info)
    return [
        Section(title="Key findings", blocks=(Bullets(items=findings),)),
        overview_section(results),
        *([few_labels_section(results, reference, all_labels)] if few else []),
        published_section(results, reference),
        federation_section(results, reference),
        unlabelled_section(results),
        boxes_section(results, reference),
        curves_section(results, reference),
        confidence_section(results),
        overlays_section(results, experiment, reference),
        orderings_section(results),
    ]
