"""The result of a data check as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from rich.filesize import decimal

from client.data.case import Part
from client.data.pseudonyms import Pseudonyms
from client.datacheck.inspection import CaseReport, Measures
from client.datacheck.site import SiteCheck
from client.datacheck.summary import Spread, Summary
from protocol.config.rules import MEANING
from protocol.config.study import StudyProtocol
from protocol.escaping import printable
from protocol.planning.fingerprint import INTENSITY_PERCENTILES

_SHOWN = 4
_PASSED_OVER_SHOWN = 100  # each by its name, since one may be a scan that nobody recognises


def case_line(report: CaseReport, pseudonym: str, *, named: bool = True) -> str:
    """One case in a line: who it is, and what was found.

    Args:
        report: The case.
        pseudonym: What it is called where names do not belong.
        named: With its name and what may quote it, for the site's own screen.
    """
    who = f"{report.name or '-'} ({pseudonym})" if named else pseudonym
    where = f"{report.part or 'folder':11}" + (f"{who}: " if report.name else "")
    if report.problem:
        said = str(report.problem) if named else report.problem.anonymous
        return printable(f"{where}rule {report.problem.rule}: {said}")
    parts = [measured(report.measures)] if report.measures else []
    # Why a case is excluded is a person's text, and may say of whom.
    notes = report.notes if named or report.status == "used" else ["by the site's file"]
    return printable(where + "; ".join([*parts, *notes]))


def measured(measures: Measures) -> str:
    """A readable case in a line."""
    size = " x ".join(str(n) for n in measures.size_xyz)
    spacing = " x ".join(f"{mm:.3g}" for mm in measures.spacing_mm_xyz)
    parts = [measures.format, f"{size} of {spacing} mm", measures.orientation]
    parts += [f"{organ} {ml:.3g} ml" for organ, ml in measures.volumes_ml.items()]
    return ", ".join(parts)


def summary_lines(
    check: SiteCheck,
    summary: Summary,
    protocol: StudyProtocol,
    pseudonyms: Pseudonyms | None = None,
) -> Iterator[tuple[str, str]]:
    """Heading and text of each line.

    Args:
        check: What was found.
        summary: All cases together.
        protocol: The study.
        pseudonyms: What cases are called; None: by their names, on the site's own screen.
    """
    yield "used", ", ".join(f"{part} {summary.used.get(part, 0)}" for part in get_args(Part))
    for rule, count in summary.refused.items():
        yield f"refused: {rule}", f"{count}; the rule: {MEANING[rule]}"
    if summary.excluded:
        yield "excluded", f"{summary.excluded} by the site's file"
    yield from _open_lines(check, named=pseudonyms is None)
    if summary.used.get("labelled"):
        drawn = ", ".join(f"{organ} {count}" for organ, count in summary.annotated.items())
        yield "drawn in", f"{drawn} of {summary.used['labelled']} labelled cases"
    for organ, spread in summary.volumes_ml.items():
        yield f"volume: {organ}", f"{_spread(spread)} ml in {spread.count} cases"
    for outlier in summary.outliers:
        name = outlier.report.name
        who = pseudonyms.of(name) if pseudonyms else name
        text = f"{who}: {outlier.organ} has {outlier.volume_ml:.3g} ml"
        yield "look at", f"{text}, far from the others here"
    for heading, counts in (
        ("format", summary.formats),
        ("voxels", summary.sizes),
        ("spacing (mm)", summary.spacings),
        ("orientation", summary.orientations),
    ):
        if counts:
            yield heading, _counted(counts)
    if summary.intensity:
        yield "median intensity", f"{_spread(summary.intensity)} over the cases' bodies"
    fields = _counted(summary.identified) if summary.identified else "none found"
    yield "identifiers", f"{fields}; in headers here, never in the cache or in what leaves"
    yield "cache", f"about {decimal(summary.cache_bytes)} on disk"
    yield "memory", f"about {decimal(summary.memory_bytes)} to predict the largest case"


def _open_lines(check: SiteCheck, *, named: bool) -> Iterator[tuple[str, str]]:
    """What is not known of the cases, is held back, or is no case."""
    for line in check.patients:
        yield "patients", line
    for line in check.held_back:
        yield "held back", line
    for folder, names in check.survey.passed_over.items():
        if names:
            where = "data folder" if folder == "." else folder
            which = _some(names, _PASSED_OVER_SHOWN) if named else f"{len(names)} entries"
            why = "in no folder of cases" if folder == "." else "no scan, no label"
            yield "passed over", f"{where}: {which} ({why})"


def json_of(
    check: SiteCheck, summary: Summary, protocol: StudyProtocol, pseudonyms: Pseudonyms
) -> dict[str, Any]:
    """The check for scripts; no name of a case, file, folder or structure."""
    return {
        "study": {"name": protocol.name, "sha256": protocol.digest},
        "cases": [_case_json(report, pseudonyms) for report in check.reports],
        "summary": {
            "used": dict(summary.used),
            "refused": dict(summary.refused),
            "excluded": summary.excluded,
            "patients": list(check.patients),
            "held_back": list(check.held_back),
            "passed_over": {k: len(v) for k, v in check.survey.passed_over.items() if v},
            "annotated": dict(summary.annotated),
            "volumes_ml": {organ: vars(spread) for organ, spread in summary.volumes_ml.items()},
            "outliers": [
                {
                    "case": pseudonyms.of(outlier.report.name),
                    "organ": outlier.organ,
                    "volume_ml": outlier.volume_ml,
                }
                for outlier in summary.outliers
            ],
            "formats": dict(summary.formats),
            "orientations": dict(summary.orientations),
            "sizes": dict(summary.sizes),
            "spacings_mm": dict(summary.spacings),
            "median_intensity": vars(summary.intensity) if summary.intensity else None,
            "header_identifiers": dict(summary.identified),
            "cache_bytes": summary.cache_bytes,
            "memory_bytes": summary.memory_bytes,
        },
    }


def _case_json(report: CaseReport, pseudonyms: Pseudonyms) -> dict[str, Any]:
    content: dict[str, Any] = {
        "case": pseudonyms.of(report.name) if report.name else None,
        "part": report.part,
        "status": report.status,
        "rule": report.problem.rule if report.problem else None,
        "reason": report.problem.anonymous if report.problem else None,
    }
    if report.status == "used":
        content["notes"] = list(report.notes)
    if report.measures and report.status == "used":
        m = report.measures
        content |= {
            "format": m.format,
            "size_xyz": list(m.size_xyz),
            "spacing_mm_xyz": list(m.spacing_mm_xyz),
            "orientation": m.orientation,
            "intensity": dict(
                zip((f"p{p:g}" for p in INTENSITY_PERCENTILES), m.intensity, strict=True)
            ),
            "volumes_ml": dict(m.volumes_ml),
            "header_identifiers": list(m.identifiers),
            "cache_bytes": m.cache_bytes,
        }
    return content


def _spread(spread: Spread) -> str:
    return f"{spread.low:.3g} to {spread.high:.3g}, median {spread.middle:.3g}"


def _counted(counts: Mapping[str, int]) -> str:
    return _some([f"{thing} ({count})" for thing, count in counts.items()])


def _some(things: list[str], shown: int = _SHOWN) -> str:
    more = len(things) - shown
    return ", ".join(things[:shown]) + (f" and {more} more" if more > 0 else "")
