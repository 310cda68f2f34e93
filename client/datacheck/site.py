"""The data check of a whole site: every case inspected, then compared with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from client.data.blocks import Counted, Release, counted, plan_release
from client.data.case import Case, Part
from client.data.dataset import BOX, tolerable
from client.data.declaration import count_rules, declare, is_boxed
from client.data.folder.layout import survey_folder
from client.data.folder.survey import Refusal, Survey
from client.data.labels.label_map import site_mapping
from client.data.leakage import LeakageCheck
from client.datacheck.apart import reports_apart
from client.datacheck.inspection import CaseReport, Measures, inspect_case
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.reports import SiteFacts

Progress = Callable[[CaseReport], None]


@dataclass(frozen=True, kw_only=True)
class SiteCheck:
    """What a site's folder holds, case by case.

    Attributes:
        reports: Cases by part and name; then what is refused by names alone, then the excluded.
        facts: What the centre would get; its box is zero unless boxes were asked for.
        survey: What was found by names alone.
        held_back: Whose scores would not leave in a new run, and why, a line each.
        patients: What the table of patients leaves open, a line each, without names.
    """

    reports: tuple[CaseReport, ...]
    facts: SiteFacts
    survey: Survey
    held_back: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[CaseReport, ...]:
        """What is not used although the site did not exclude it."""
        return tuple(report for report in self.reports if report.status == "refused")


def check_site(
    config: SiteConfig,
    protocol: StudyProtocol,
    *,
    workers: int,
    pictures: bool = False,
    boxes: bool = False,
    progress: Progress = lambda _: None,
    begin: Callable[[int], None] = lambda _: None,
) -> SiteCheck:
    """Inspect every case; none stops the others.

    Args:
        config: The site.
        protocol: The study.
        workers: Processes that read cases side by side, apart from this one.
        pictures: Draw each case.
        boxes: Find the organs' boxes, for exactly what the centre would get.
        progress: Called with each case, in order.
        begin: Called with the number of cases, before the first.

    Raises:
        ProtocolError: The site's file does not fit the study, or its patients cannot be read.
        CohortFileError: What has left before cannot be read.
    """
    site_mapping(config, protocol.organs)
    survey = survey_folder(config.data, config)
    leakage = LeakageCheck(config, survey.cases, survey.unused)
    begin(len(survey.cases))
    reports: list[CaseReport] = []
    look = partial(inspect_case, protocol=protocol, picture=pictures, box=boxes)
    for case, report in zip(survey.cases, reports_apart(look, survey.cases, workers), strict=True):
        problem = leakage.problem(case, report.measures.voxel_hash) if report.measures else None
        report = report.noted(leakage.note(case)) if report.measures else report
        reports.append(report.refused(problem) if problem else report)
        progress(reports[-1])
    for refusal in survey.refused:
        reports.append(
            CaseReport(
                name=refusal.case, part=refusal.part, status="refused", problem=refusal.problem
            )
        )
        progress(reports[-1])
    for case in survey.excluded:
        reports.append(_excluded(case, config))
        progress(reports[-1])
    pairs = list(zip(survey.cases, reports, strict=False))
    would_count = [
        _counted(case, report, protocol) for case, report in pairs if report.status == "used"
    ]
    release = plan_release(config, [case for case, _ in would_count])
    return SiteCheck(
        reports=tuple(reports),
        facts=_facts(config, protocol, reports, _boxed(would_count, release)),
        survey=survey,
        held_back=release.held_back,
        patients=leakage.table_lines(),
    )


def _counted(case: Case, report: CaseReport, protocol: StudyProtocol) -> tuple[Counted, Measures]:
    """A case as it would count in what leaves."""
    measures = report.measures
    assert measures is not None
    boxed = is_boxed(measures, protocol.organ_names)
    return counted(case, measures.voxel_hash, measures.organ_hashes, boxed=boxed), measures


def _boxed(cases: Sequence[tuple[Counted, Measures]], release: Release) -> list[list[Measures]]:
    return [
        [measures for case, measures in cases if case.ids.get(BOX) in block]
        for block in release.released.get(BOX, ())
    ]


def _excluded(case: Case, config: SiteConfig) -> CaseReport:
    note = f"left out by the site's file: {config.exclude[case.name]}"
    return CaseReport(name=case.name, part=case.part, status="excluded", notes=(note,))


def _facts(
    config: SiteConfig,
    protocol: StudyProtocol,
    reports: Iterable[CaseReport],
    boxed: Sequence[Sequence[Measures]],
) -> SiteFacts:
    by_status: dict[str, list[CaseReport]] = {}
    for report in reports:
        key = str(report.part) if report.status == "used" else report.status
        by_status.setdefault(key, []).append(report)
    counts = {part: len(by_status.get(part, [])) for part in get_args(Part)}
    refused = [
        Refusal(case=report.name, part=report.part, problem=report.problem)
        for report in by_status.get("refused", [])
        if report.problem
    ]
    return declare(
        config,
        protocol.organ_names,
        labelled=[r.measures for r in by_status.get("labelled", []) if r.measures],
        unlabelled=counts["unlabelled"],
        validation=counts["validation"],
        test=counts["test"],
        refused=count_rules(refusal.problem for refusal in refused),
        excluded=len(by_status.get("excluded", [])),
        # A site whose data are not tolerable declares nothing that was measured.
        boxed=boxed if tolerable(refused, sum(counts.values()), protocol.contract) else (),
    )
