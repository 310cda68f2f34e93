"""Reads and caches every scan and label before anything is trained, and tells every fault."""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console

from client.data.cache import cached_case
from client.data.case import Case, Part
from client.data.dataset import SiteData, prepare_site
from client.data.errors import ScanError
from client.data.folder.layout import LayoutError, survey_folder
from client.data.folder.survey import Refusal
from client.data.labels.label_map import AT_SITE, WITHOUT_SITE
from client.data.unexpected import attempt
from client.datacheck.apart import reports_apart
from client.datacheck.inspection import inspect_case
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.layouts import StudyCase
from simulation.options import CommonOptions
from simulation.processes import all_results, spawned_pool
from simulation.split import write_sites


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """What the reading of a site, or of one reference, has shown.

    Attributes:
        mistakes: Without the site's name.
        shown: By part and case, the hash of what its scan shows.
    """

    mistakes: tuple[str, ...] = ()
    shown: Mapping[tuple[str, str], str]


def threads_of_site(workers: int) -> int:
    """Threads of each site where so many train at the same time."""
    return max(1, (os.cpu_count() or 1) // workers)


def check_cases(
    cases: Sequence[StudyCase],
    folder: Path,
    protocol: StudyProtocol,
    options: CommonOptions,
    console: Console,
    *,
    every_fold: bool = False,
) -> None:
    """Read every scan and label once, as training and scoring will; then they are cached.

    Args:
        cases: With the parts of a fold.
        folder: For the sites' folders; it is taken away again.
        protocol: Fitted to the scans.
        options: Device, workers and cache.
        console: Where it is said what is done.
        every_fold: Whether what is trained on in this fold is scored in another one.

    Raises:
        LayoutError: With every fault of every case, in the words of the data check, and every scan
            that is there twice.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        configs = write_sites(
            cases, folder, options.cache / "scans", device=options.device, threads=1
        )
        with (
            console.status("checking and preprocessing the scans"),
            spawned_pool(options.workers) as pool,
        ):
            sites = [pool.submit(_check_site, config, protocol) for config in configs.values()]
            others = _other_references(cases, every_fold=every_fold)
            cache = options.cache / "scans"
            references = [pool.submit(_check_reference, case, cache, protocol) for case in others]
            found = all_results([*sites, *references])
    except BrokenExecutor as error:  # a file, or too little memory, has ended a process: which one?
        surveys = [survey_folder(config.data, config) for config in configs.values()]
        faults = faults_of([c for s in surveys for c in s.cases], protocol, 1, console)
        raise (LayoutError(faults) if faults else error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    names = [*configs, *(case.site for case in others)]
    mistakes = [
        # A simulated site's file is made here: nobody can write `labels` into it.
        f"site {site}: {mistake.replace(AT_SITE, WITHOUT_SITE)}"
        for site, checked in zip(names, found, strict=True)
        for mistake in checked.mistakes
    ]
    mistakes += _duplicates(zip(configs, found, strict=False))
    if mistakes:
        # The scan is read with its reference, too: one line is enough.
        raise LayoutError(dict.fromkeys(mistakes))


def faults_of(
    cases: Sequence[Case], protocol: StudyProtocol, workers: int, console: Console
) -> list[str]:
    """What the data check says against each of these cases, where there is no run to prepare."""
    with console.status("checking the scans"):
        look = partial(inspect_case, protocol=protocol)
        reports = list(reports_apart(look, cases, workers))
    return [str(report.problem) for report in reports if report.problem]


def prepare_sites(
    configs: Mapping[str, SiteConfig], protocol: StudyProtocol, workers: int, console: Console
) -> None:
    """Check and cache every site's data as it is.

    Raises:
        LayoutError: With the mistakes of all sites.
    """
    with console.status("preprocessing the scans"), spawned_pool(workers) as pool:
        jobs = [pool.submit(_check_site, config, protocol) for config in configs.values()]
        by_site = zip(configs, all_results(jobs), strict=True)
    mistakes = [f"site {site}: {m}" for site, checked in by_site for m in checked.mistakes]
    if mistakes:
        raise LayoutError(mistakes)


def _check_site(config: SiteConfig, protocol: StudyProtocol) -> _Checked:
    """However much a study would tolerate: a simulation scores every case that it is given."""
    log = logging.getLogger(prepare_site.__module__)
    log.addFilter(_is_no_warning)  # What is not used is an error here, and said once.
    try:
        data = prepare_site(config, protocol, strict=False)
    finally:
        log.removeFilter(_is_no_warning)
    return _Checked(mistakes=tuple(map(_told, data.refused)), shown=_shown(data))


def _told(refusal: Refusal) -> str:
    """Here no site's file can say whose scans they are, and nobody chose the parts."""
    remedy = "; in a simulation, one `group` of --sites-file keeps them together"
    return f"{refusal.problem}{remedy if refusal.problem.rule == 'patient' else ''}"


def _is_no_warning(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING


def _shown(data: SiteData) -> dict[tuple[str, str], str]:
    return {
        (part, case.name): case.facts["voxel_hash"]
        for part in get_args(Part)
        for case in getattr(data, part)
    }


def _other_references(cases: Sequence[StudyCase], *, every_fold: bool) -> list[StudyCase]:
    """Cases that are scored against a label that no site reads in this fold."""
    return [
        case
        for case in cases
        if case.reference not in (None, case.label)
        and (case.part == "unlabelled" or (every_fold and case.part != "test"))
    ]


def _check_reference(case: StudyCase, cache: Path, protocol: StudyProtocol) -> _Checked:
    """No site reads it; a fault in it would show when everything is trained."""
    scored = Case(name=case.name, part="test", image=case.image, label=case.reference)
    cached = attempt(scored, partial(cached_case, scored, cache, protocol))
    return _Checked(mistakes=(str(cached),) if isinstance(cached, ScanError) else (), shown={})


def _duplicates(sites: Iterable[tuple[str, _Checked]]) -> list[str]:
    """Scans that are at two sites, by what they show: trained on here, they make tests there easy.

    Copies are found where they were renamed, compressed or converted. Two at one site have been
    refused there.
    """
    mistakes = []
    first_with: dict[str, str] = {}
    for site, checked in sites:
        for (part, name), shown in checked.shown.items():
            here = f"site {site}, {part} case {name}"
            first = first_with.setdefault(shown, here)
            if first != here:
                mistakes.append(f"{here}: is the same scan as {first}; keep one of the two")
    return mistakes
