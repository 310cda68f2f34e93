"""Finds the cases of a command: a folder's, or those of the phantom cohort, which is made first."""

from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import Progress

from protocol.config.presets import PresetName
from protocol.wording import counted
from simulation.errors import SplitError
from simulation.experiment.benchmarks import Benchmark
from simulation.experiment.preparation import faults_of
from simulation.layouts import (
    CohortFiles,
    StudyCase,
    choose_cases,
    find_files,
    labelled_case,
    read_cohort,
)
from simulation.options import CommonOptions
from simulation.sites_file import assigned_cases, assignment_digest
from simulation.split import SIX_SITES, deal_evenly, deal_to_sites

_PHANTOM_SEED = 2018
_PHANTOM_VOXEL_MM: dict[PresetName, float] = {
    "smoke": 5.0,
    "quick": 1.5,
    "planned": 1.5,
    "paper": 1.0,
}
# Enough for every site of `smoke` to train, validate and test, and no more.
_SMOKE_COUNTS = {"A": (4, 0), "B": (4, 0), "C": (4, 0), "D": (4, 1), "E": (4, 0), "F": (0, 3)}


def find_cohort(options: CommonOptions, console: Console) -> tuple[list[StudyCase], dict[str, Any]]:
    """The cases with their sites, and the cohort's description for a result.

    Raises:
        SplitError: If the folder or the file of sites cannot be used; with every mistake.
        CohortError: If the phantom cannot be made.
    """
    if options.data is None:
        return _phantom(options, console)
    files = find_files(options.data)
    if files.passed_over:
        console.print(
            f"note: {options.data}: passed over {counted(len(files.passed_over), 'file')}, no scan:"
            f" {', '.join(files.passed_over[:5])}",
            highlight=False,
            soft_wrap=True,
        )
    if files.mistakes:
        # Those cases that have their files are read too: every fault at once.
        faults = faults_of(files.cases, options.protocol, options.workers, console)
        raise SplitError("\n".join(dict.fromkeys([*files.mistakes, *faults])))
    if options.benchmark is not None:
        return _benchmark(options.benchmark, options, files, console)
    if options.sites_file is not None:
        cases = assigned_cases(options.sites_file, files)
        return cases, {"kind": "folder", "sites_file": assignment_digest(cases)}
    cases = choose_cases(options.data, files, options.labelled, options.unlabelled)
    dealt = deal_to_sites(cases, options.sites, options.protocol.seed)
    sites = len({case.site for case in dealt})
    if options.sites is None and sites < len(SIX_SITES) and not cases[0].site:
        labelled = sum(case.part == "labelled" for case in cases)
        console.print(
            f"note: {counted(labelled, 'labelled case')} on {counted(sites, 'site')}; --sites deals"
            " them to another number",
            highlight=False,
            soft_wrap=True,
        )
    return dealt, {"kind": "folder"}


def _benchmark(
    benchmark: Benchmark, options: CommonOptions, files: CohortFiles, console: Console
) -> tuple[list[StudyCase], dict[str, Any]]:
    """Every case has its part by its name; both parts are dealt to the sites evenly."""
    if files.pool:
        raise SplitError(
            f"{options.data}: benchmark {benchmark.name} has no imagesUn/; take the"
            f" {counted(len(files.pool), 'scan')} in it away"
        )
    tested = benchmark.test_names([*files.images])
    cases = [
        replace(
            labelled_case(files, name, ""),
            part="test" if name in tested else "labelled",
            fixed=True,
        )
        for name in files.images
    ]
    if note := benchmark.note(options.training_labels):
        console.print(note, highlight=False, soft_wrap=True)
    dealt = deal_evenly(cases, options.sites or benchmark.sites, options.protocol.seed)
    return dealt, {"kind": "folder", "benchmark": benchmark.name}


def _phantom(options: CommonOptions, console: Console) -> tuple[list[StudyCase], dict[str, Any]]:
    from simulation.phantom.cohort import make_cohort
    from simulation.phantom.sites import SITES

    counts = _SMOKE_COUNTS if options.preset == "smoke" else None
    labelled, unlabelled = options.labelled, options.unlabelled
    if counts:
        labelled = sum(count for count, _ in counts.values())
        unlabelled = sum(count for _, count in counts.values())
    folder, seed = options.cache / f"phantom-{options.preset}", options.protocol.seed
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("making the phantom cohort (once)", total=None)
        manifest = make_cohort(
            folder,
            seed=_PHANTOM_SEED,
            voxel_mm=_PHANTOM_VOXEL_MM[options.preset],
            counts=counts,
            workers=options.workers,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    cases = deal_to_sites(read_cohort(folder, labelled, unlabelled), len(SITES), seed)
    pool = sum(case.part == "unlabelled" for case in cases)
    console.print(
        f"cohort: {len(cases) - pool} labelled and {pool} unlabelled synthetic pelvic phantoms, "
        f"version {manifest.version}, {manifest.sha256[:12]}",
        highlight=False,
    )
    return cases, {"kind": "phantom", "version": manifest.version, "sha256": manifest.sha256}
