"""Splits cases into sites, and writes each site's share as a hospital's folder.

The made cohort's cases know their site; those of other folders are dealt to sites in the made
cohort's proportions.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import yaml

from client.data.case import Case
from client.data.errors import ScanError
from client.data.files.integrity import data_file
from client.data.files.writing import write_image
from client.data.folder.entries import suffix_of
from client.data.folder.layout import LAYOUT
from client.data.folder.names import check_name
from protocol.config.site import SiteConfig, read_site
from protocol.wording import counted
from simulation.errors import SplitError
from simulation.folds import apportion
from simulation.layouts import StudyCase
from simulation.partial_labels import Hidden

# (labelled, unlabelled) of the synthetic cohort; other numbers of cases are dealt in proportion.
SIX_SITES: Mapping[str, tuple[int, int]] = {
    "A": (15, 0),
    "B": (12, 0),
    "C": (10, 0),
    "D": (8, 5),
    "E": (5, 0),
    "F": (0, 15),
}
# A site has so many labelled cases, or there are fewer sites: one to test on in each fold.
_USUAL_LABELLED = 5
_SITE_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FOLDERS = {part: (images, labels) for part, images, labels in LAYOUT}


def deal_to_sites(cases: Sequence[StudyCase], sites: int | None, seed: int) -> list[StudyCase]:
    """A site for every case that has none, in the proportions of the made cohort.

    Cases of one kind are shuffled by the seed, then dealt in blocks.

    Args:
        cases: Of a folder.
        sites: How many; None: those that the cases have, or `usual_sites`.
        seed: Another one deals otherwise.

    Raises:
        SplitError: If there are fewer cases than sites.
    """
    if all(case.site for case in cases):
        present = len({case.site for case in cases})
        if sites not in (None, present):
            raise SplitError(
                f"the cohort has {present} sites of its own, --sites is {sites}; leave it out"
            )
        return list(cases)
    sites = usual_sites(cases) if sites is None else sites
    if not 1 <= sites <= len(_SITE_NAMES):
        raise SplitError(f"--sites must be 1 to {len(_SITE_NAMES)}, not {sites}")
    shares = _shares(sites)
    if all(case.part == "labelled" for case in cases):
        # A site without labels would have nothing: it gets as many as the smallest that has some.
        fewest = min(count for count, _ in shares.values() if count)
        shares = {name: (count or fewest, 0) for name, (count, _) in shares.items()}
    rng = np.random.default_rng([seed, 7])
    dealt: list[StudyCase] = []
    for kind, index in (("labelled", 0), ("unlabelled", 1)):
        of_kind = [case for case in cases if case.part == kind]
        order = rng.permutation(len(of_kind))
        counts = apportion(len(of_kind), [share[index] for share in shares.values()])
        names = [s for s, n in zip(shares, counts, strict=True) for _ in range(n)]
        dealt += [replace(of_kind[i], site=name) for i, name in zip(order, names, strict=True)]
    empty = sorted(set(shares) - {case.site for case in dealt})
    if empty:
        raise SplitError(
            f"{counted(len(cases), 'case')} for {counted(sites, 'site')}: none is left for site"
            f" {empty[0]}; lower --sites"
        )
    return sorted(dealt, key=lambda case: (case.site, case.part, case.name))


def deal_evenly(cases: Sequence[StudyCase], sites: int, seed: int) -> list[StudyCase]:
    """Cases of each part, shuffled by the seed, to this many sites in turn.

    Raises:
        SplitError: If there are fewer cases of a part than sites.
    """
    rng = np.random.default_rng([seed, 7])
    dealt: list[StudyCase] = []
    for part in sorted({case.part for case in cases}):
        of_part = sorted((c for c in cases if c.part == part), key=lambda case: case.name)
        if len(of_part) < sites:
            raise SplitError(
                f"{counted(len(of_part), f'{part} case')} for {counted(sites, 'site')}; lower"
                " --sites"
            )
        order = rng.permutation(len(of_part))
        dealt += [
            replace(of_part[index], site=_SITE_NAMES[turn % sites])
            for turn, index in enumerate(order)
        ]
    return sorted(dealt, key=lambda case: (case.site, case.part, case.name))


def usual_sites(cases: Sequence[StudyCase]) -> int:
    """Six, or fewer where they would have under five labelled cases each on average; two at least.

    One case alone is of one site.
    """
    labelled = sum(case.part == "labelled" for case in cases)
    return min(len(SIX_SITES), max(2, labelled // _USUAL_LABELLED), max(1, labelled))


def write_sites(
    cases: Sequence[StudyCase],
    folder: Path,
    cache: Path,
    *,
    device: str,
    threads: int,
    hidden: Hidden | None = None,
    organs: Mapping[str, int] | None = None,
) -> dict[str, SiteConfig]:
    """Each site's folder, as at a hospital, and its site file; scans are linked, not copied.

    Args:
        cases: With site and part.
        folder: Where the sites' folders and files are written.
        cache: For preprocessed scans, shared by all.
        device: Of every site.
        threads: Of every site.
        hidden: By site, organs that it has not drawn: its labels are written without them.
        organs: The study's label values, where organs are hidden.

    Raises:
        ScanError: The folder's name is not UTF-8.
    """
    check_name(folder.absolute(), f"folder {folder}:")
    hidden, organs = hidden or {}, organs or {}
    by_site: dict[str, list[StudyCase]] = defaultdict(list)
    for case in cases:
        by_site[case.site].append(case)
    configs = {}
    for site in sorted(by_site):
        data = folder / site
        for case in by_site[site]:
            images, labels = _FOLDERS[case.part]
            _link(case.image, data / images, case.name)
            label = case.reference if case.part == "test" else case.label
            if not labels or label is None:
                continue
            if site in hidden:
                _write_partly(case, label, data / labels, hidden[site], organs)
            else:
                _link(label, data / labels, case.name)
        path = folder / f"{site}.yaml"
        facts: dict[str, Any] = {
            "site": site,
            "description": "a simulated site",
            "data": site,
            "cache": str(cache.resolve()),
            "state": f"{site}/state",
            "device": device,
            "threads": threads,
            # The simulation has every hospital's scans already: nothing is kept back.
            "min_cases_reported": 1,
            # One cache for all sites and studies, on the user's own machine.
            "limits": {"cache_gib": 1000},
        }
        if site in hidden:
            facts["not_annotated"] = sorted(hidden[site])
        path.write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
        configs[site] = read_site(path)
    return configs


def _write_partly(
    case: StudyCase, label: Path, folder: Path, hidden: Collection[str], organs: Mapping[str, int]
) -> None:
    """The label without the hidden organs, as if not annotated; never a link to the full label."""
    whole = Case(name=case.name, part=case.part, image=case.image, label=label)
    full = whole.read_label(whole.read_scan(), organs)
    array = sitk.GetArrayFromImage(full)
    for organ in hidden:
        array[array == organs[organ]] = 0
    partly = sitk.GetImageFromArray(array)
    partly.CopyInformation(full)
    folder.mkdir(parents=True, exist_ok=True)
    # NRRD keeps the geometry to the last digit.
    write_image(partly, folder / f"{case.name}.nrrd")


def _shares(sites: int) -> dict[str, tuple[int, int]]:
    """Six sites as in the method; else labelled evenly, a quarter and the rest unlabelled last."""
    if sites == len(SIX_SITES):
        return dict(SIX_SITES)
    names = _SITE_NAMES[:sites]
    if sites == 1:
        return {"A": (1, 1)}
    if sites == 2:
        return {"A": (1, 0), "B": (1, 1)}
    middle = {name: (1, 0) for name in names[:-2]}
    return middle | {names[-2]: (1, 1), names[-1]: (0, 3)}


def _link(source: Path, folder: Path, name: str) -> None:
    """A symbolic link, or a copy where the file system has none; the name keeps its suffixes."""
    folder.mkdir(parents=True, exist_ok=True)
    length = len(suffix_of(source) or source.suffix)
    suffix = "" if source.is_dir() else source.name[len(source.name) - length :]
    _link_one(source, folder / f"{name}{suffix}")
    try:
        voxels = None if source.is_dir() else data_file(source, location=f"case {name}")
    except (ScanError, OSError):
        return  # The header alone: reading it says what is wrong.
    if voxels is not None:
        # The header names it by its path from the header.
        target = Path(os.path.normpath(folder / os.path.relpath(voxels, source.parent)))
        if not target.is_relative_to(folder):
            raise SplitError(
                f"case {name}: the file of its voxels, {voxels.name}, is not beside its header; "
                "put it there, or save the scan as one file"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_one(voxels, target)


def _link_one(source: Path, target: Path) -> None:
    if target.is_symlink() or target.exists():
        return  # Voxels that two headers share; never written through a link.
    try:
        os.symlink(source.resolve(), target, target_is_directory=source.is_dir())
    except OSError:
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
