"""The data check as one HTML file for the local reader: no script, no other file, no name."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from client.data.case import Part
from client.data.pseudonyms import Pseudonyms
from client.datacheck.inspection import CaseReport
from client.datacheck.site import SiteCheck
from client.datacheck.summary import Summary
from client.datacheck.text import measured, summary_lines
from protocol.config.study import StudyProtocol
from protocol.files import write_text
from protocol.keys import PRIVATE_MODE


def write_page(
    path: Path,
    site: str,
    which: str,
    check: SiteCheck,
    summary: Summary,
    protocol: StudyProtocol,
    pseudonyms: Pseudonyms,
) -> None:
    """Write the page; readers see the old one or the new.

    Args:
        path: An HTML file; its folder is made.
        site: The site's name.
        which: What the data were checked against.
        check: What was found.
        summary: The same, together.
        protocol: The study.
        pseudonyms: What cases are called.

    Raises:
        OSError: It cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("client.datacheck", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("check.html").render(
        site=site,
        which=which,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        verdict=_verdict(check),
        refused=[_row(report, pseudonyms) for report in check.refused],
        summary=list(summary_lines(check, summary, protocol, pseudonyms)),
        parts=_parts(check, summary, pseudonyms),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # It shows scans: nobody else's to read.
    write_text(path, text, PRIVATE_MODE)


def _verdict(check: SiteCheck) -> str:
    used = sum(report.status == "used" for report in check.reports)
    excluded = sum(report.status == "excluded" for report in check.reports)
    told = f"{used} cases are used"
    if check.refused:
        told = f"{len(check.refused)} not used, {told}"
    return told + (f", {excluded} left out by the site's file" if excluded else "")


def _row(report: CaseReport, pseudonyms: Pseudonyms) -> dict[str, str]:
    assert report.problem is not None
    return {
        "case": pseudonyms.of(report.name) if report.name else "the folder",
        "part": report.part or "",
        "rule": report.problem.rule,
        "said": report.problem.anonymous,
    }


def _parts(
    check: SiteCheck, summary: Summary, pseudonyms: Pseudonyms
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Cards of the cases that are used, those to be looked at first."""
    flags: dict[str, list[str]] = {}
    for outlier in summary.outliers:
        told = f"{outlier.organ} {outlier.volume_ml:.3g} ml: far from the others here"
        flags.setdefault(outlier.report.name, []).append(told)
    parts = []
    for part in get_args(Part):
        used = [r for r in check.reports if r.part == part and r.status == "used"]
        cards = [_card(report, flags, pseudonyms) for report in used]
        if cards:
            parts.append((part, sorted(cards, key=lambda card: not card["flags"])))
    return parts


def _card(
    report: CaseReport, flags: Mapping[str, Sequence[str]], pseudonyms: Pseudonyms
) -> dict[str, Any]:
    assert report.measures is not None
    return {
        "case": pseudonyms.of(report.name),
        "told": measured(report.measures),
        "labelled": bool(report.measures.volumes_ml),
        "flags": [*flags.get(report.name, ()), *report.notes],
        "picture": base64.b64encode(report.measures.picture).decode(),
    }
