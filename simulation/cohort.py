"""The cases of a command: a folder's, or those of a cohort that is made first."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from protocol.config.presets import PresetName
from simulation.split import StudyCase, deal_to_sites, read_cohort, refuse_duplicates

_PHANTOM_SEED = 2018
_PHANTOM_VOXEL_MM: dict[PresetName, float] = {"smoke": 5.0, "quick": 1.5, "paper": 1.0}
# Enough for every site of `smoke` to train, validate and test, and no more.
_SMOKE_COUNTS = {"A": (4, 0), "B": (4, 0), "C": (4, 0), "D": (4, 1), "E": (4, 0), "F": (0, 3)}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which cases, and how they are dealt.

    Attributes:
        data: The folder; None: the phantom cohort of the preset, made in the cache.
        labelled: None: what is usual for the folder's layout; unlabelled alike.
        seed: Deals cases to sites.
    """

    preset: PresetName
    data: Path | None
    labelled: int | None
    unlabelled: int | None
    sites: int
    seed: int
    cache: Path
    workers: int


def find_study_cases(wanted: Wanted, console: Console) -> tuple[list[StudyCase], dict[str, Any]]:
    """The cases with their sites, no scan twice, and what to say of the cohort in a result.

    Raises:
        SplitError, ScanError: If the folder cannot be used.
        CohortError: If the phantom cannot be made.
    """
    if wanted.data is None:
        cases, cohort = _phantom(wanted, console)
    else:
        cohort = {"kind": "folder"}
        cases = deal_to_sites(
            read_cohort(wanted.data, wanted.labelled, wanted.unlabelled),
            wanted.sites,
            wanted.seed,
        )
    refuse_duplicates(cases)
    return cases, cohort


def _phantom(wanted: Wanted, console: Console) -> tuple[list[StudyCase], dict[str, Any]]:
    from simulation.phantom.cohort import SITES, make_cohort

    counts = _SMOKE_COUNTS if wanted.preset == "smoke" else None
    labelled, unlabelled = wanted.labelled, wanted.unlabelled
    if counts:
        labelled = sum(count for count, _ in counts.values())
        unlabelled = sum(count for _, count in counts.values())
    folder = wanted.cache / f"phantom-{wanted.preset}"
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("making the phantom cohort (once)", total=None)
        manifest = make_cohort(
            folder,
            seed=_PHANTOM_SEED,
            voxel_mm=_PHANTOM_VOXEL_MM[wanted.preset],
            counts=counts,
            workers=wanted.workers,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    cases = deal_to_sites(read_cohort(folder, labelled, unlabelled), len(SITES), wanted.seed)
    pool = sum(case.part == "unlabelled" for case in cases)
    console.print(
        f"cohort: {len(cases) - pool} labelled and {pool} unlabelled synthetic pelvic phantoms, "
        f"version {manifest.version}, {manifest.sha256[:12]}",
        highlight=False,
    )
    return cases, {"kind": "phantom", "version": manifest.version, "sha256": manifest.sha256}
