"""The data check as one HTML file for the local reader: no script, no other file, no name."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import get_args

from PIL import Image

from client.data.case import Part
from client.data.pseudonyms import Pseudonyms
from client.datacheck.inspection import CaseReport
from client.datacheck.site import SiteCheck
from client.datacheck.summary import Summary
from client.datacheck.text import measured, summary_lines
from protocol.config.study import StudyProtocol
from protocol.files import write_text
from protocol.keys import PRIVATE_MODE
from reporting.blocks import Facts, Gallery, Group, Picture, Section, Table, Text
from reporting.render import render_page


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
        summary: All cases together.
        protocol: The study.
        pseudonyms: What cases are called.

    Raises:
        OSError: It cannot be written.
    """
    refused = [_refused(check, pseudonyms)] if check.refused else []
    facts = Facts(items=tuple(summary_lines(check, summary, protocol, pseudonyms)))
    text = render_page(
        f"Data check of site {site}",
        f"{datetime.now():%Y-%m-%d %H:%M}, against {which}",
        [
            *refused,
            Section(title="All cases together", blocks=(facts,)),
            *_parts(check, summary, pseudonyms),
        ],
        notices=(
            Text(text=_verdict(check), tone="bad" if check.refused else "good"),
            Text(
                text="For this site alone: it shows scans. Cases bear pseudonyms; asdnet-site check"
                f" --site {site} --who PSEUDONYM shows at the site which one is meant.",
                tone="caution",
            ),
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # It shows scans: only this user may read it.
    write_text(path, text, PRIVATE_MODE)


def _verdict(check: SiteCheck) -> str:
    used = sum(report.status == "used" for report in check.reports)
    excluded = sum(report.status == "excluded" for report in check.reports)
    verdict = f"{used} cases are used"
    if check.refused:
        verdict = f"{len(check.refused)} not used, {verdict}"
    return verdict + (f", {excluded} left out by the site's file" if excluded else "")


def _refused(check: SiteCheck, pseudonyms: Pseudonyms) -> Section:
    rows = tuple(
        (
            pseudonyms.of(report.name) if report.name else "the folder",
            report.part or "",
            report.problem.rule,
            report.problem.anonymous,
        )
        for report in check.refused
        if report.problem
    )
    table = Table(
        name="",
        caption="Cases that are not used",
        header=("case", "part", "rule", "why, and what to do"),
        groups=(Group(title="", rows=rows),),
        sentences=True,
    )
    return Section(title="Not used, and what to do", blocks=(table,))


def _parts(check: SiteCheck, summary: Summary, pseudonyms: Pseudonyms) -> list[Section]:
    """The cases that are used, those to be looked at first."""
    flags: dict[str, list[str]] = {}
    for outlier in summary.outliers:
        text = f"{outlier.organ} {outlier.volume_ml:.3g} ml: far from the others here"
        flags.setdefault(outlier.report.name, []).append(text)
    sections = []
    for part in get_args(Part):
        used = [r for r in check.reports if r.part == part and r.status == "used"]
        pictures = [_picture(report, flags.get(report.name, []), pseudonyms) for report in used]
        if pictures:
            gallery = Gallery(pictures=tuple(sorted(pictures, key=lambda one: not one.flags)))
            sections.append(Section(title=f"{part} ({len(pictures)})", blocks=(gallery,)))
    return sections


def _picture(report: CaseReport, flags: list[str], pseudonyms: Pseudonyms) -> Picture:
    assert report.measures is not None
    case = pseudonyms.of(report.name)
    outlined = ", organs outlined" if report.measures.volumes_ml else ""
    with Image.open(io.BytesIO(report.measures.picture)) as picture:
        width_px = picture.width
    return Picture(
        name=case,
        alt=f"Axial, coronal and sagittal plane of {case}{outlined}",
        title=case,
        caption=measured(report.measures),
        flags=(*flags, *report.notes),
        png=report.measures.picture,
        width_px=width_px,
    )
