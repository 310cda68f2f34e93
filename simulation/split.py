"""A folder of cases into sites and folds, and each site's share as a hospital's folder.

Two kinds of folder are read: the made cohort, whose cases know their site, and the layout of the
Medical Segmentation Decathlon, whose cases are dealt to sites in the made cohort's proportions.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from client.contract import LAYOUT, Case, Part, duplicate_mistakes
from client.intact import ScanError, data_file
from client.scans import scan_files
from protocol.sites import SiteConfig, read_site

# (labelled, unlabelled) of method section 8; other numbers of cases are dealt in proportion.
SIX_SITES: Mapping[str, tuple[int, int]] = {
    "A": (15, 0),
    "B": (12, 0),
    "C": (10, 0),
    "D": (8, 5),
    "E": (5, 0),
    "F": (0, 15),
}
_SITE_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FOLDS = 5
_FOLDERS = {part: (images, labels) for part, images, labels in LAYOUT}


class SplitError(ValueError):
    """The folder does not hold what the split needs."""


@dataclass(frozen=True, kw_only=True)
class StudyCase:
    """One case of the study.

    `label` is what a reader drew, for training; `reference` what is scored against.  A withheld
    case is unlabelled to its site, and its reference is known to the study alone.
    """

    name: str
    image: Path
    label: Path | None
    reference: Path | None
    site: str = ""
    part: Part = "labelled"


def read_cohort(folder: Path, labelled: int, unlabelled: int) -> list[StudyCase]:
    """The cases of a folder, labelled first.

    Args:
        folder: With imagesTr/ and labelsTr/; cohort.json names sites; imagesUn/, or else the last
            cases in name order, are the unlabelled pool.
        labelled: How many labelled cases to use, in name order.
        unlabelled: How many unlabelled cases.

    Raises:
        SplitError: If a folder is missing or holds too few cases.
        ScanError: If two files of a folder claim one case.
    """
    images = _files(folder / "imagesTr", required=True)
    labels = _files(folder / "labelsTr", required=True)
    pool = _files(folder / "imagesUn", required=False)
    references = _files(folder / "labelsRef", required=False)
    withheld = _files(folder / "labelsUn", required=False)
    _check_pairs(folder, images, labels)
    sites = _made_sites(folder)
    names = sorted(images)
    if not pool and unlabelled:
        if len(names) < labelled + unlabelled:
            raise SplitError(
                f"{folder / 'imagesTr'}: holds {len(names)} cases, {labelled} labelled and "
                f"{unlabelled} withheld are asked for; lower --labelled or --unlabelled"
            )
        held = names[-unlabelled:]
        pool = {name: images[name] for name in held}
        withheld = {name: labels[name] for name in held}
        names = names[:-unlabelled]
    for what, have, want in (
        ("labelled", len(names), labelled),
        ("unlabelled", len(pool), unlabelled),
    ):
        if have < want:
            raise SplitError(
                f"{folder}: holds {have} {what} cases, {want} are asked for; lower --{what}"
            )
    cases = [
        StudyCase(
            name=name,
            image=images[name],
            label=labels[name],
            reference=references.get(name, labels[name]),
            site=sites.get(name, ""),
        )
        for name in names[:labelled]
    ]
    cases += [
        StudyCase(
            name=name,
            image=pool[name],
            label=None,
            reference=withheld.get(name),
            site=sites.get(name, ""),
            part="unlabelled",
        )
        for name in sorted(pool)[:unlabelled]
    ]
    return cases


def deal_to_sites(cases: Sequence[StudyCase], sites: int, seed: int) -> list[StudyCase]:
    """A site for every case that has none, in the proportions of the made cohort.

    Cases of one kind are shuffled by the seed, then dealt in blocks.

    Raises:
        SplitError: If there are fewer cases than sites.
    """
    if all(case.site for case in cases):
        present = len({case.site for case in cases})
        if present != sites:
            raise SplitError(
                f"the cohort has {present} sites of its own, --sites says {sites}; leave it out"
            )
        return list(cases)
    if not 1 <= sites <= len(_SITE_NAMES):
        raise SplitError(f"--sites must be 1 to {len(_SITE_NAMES)}, not {sites}")
    shares = _shares(sites)
    rng = np.random.default_rng([seed, 7])
    dealt: list[StudyCase] = []
    for kind, index in (("labelled", 0), ("unlabelled", 1)):
        of_kind = [case for case in cases if case.part == kind]
        order = rng.permutation(len(of_kind))
        counts = _apportion(len(of_kind), [share[index] for share in shares.values()])
        names = [s for s, n in zip(shares, counts, strict=True) for _ in range(n)]
        dealt += [replace(of_kind[i], site=name) for i, name in zip(order, names, strict=True)]
    empty = sorted(set(shares) - {case.site for case in dealt})
    if empty:
        raise SplitError(
            f"{len(cases)} cases leave site {empty[0]} without any; lower --sites to fit them"
        )
    return sorted(dealt, key=lambda case: (case.site, case.part, case.name))


def choose_fold(cases: Sequence[StudyCase], fold: int, seed: int) -> list[StudyCase]:
    """Parts of fold 1 to 5: a fifth of the labelled cases is tested on, half a fifth validated on.

    Stratified by site: each site's shuffled cases are dealt to the folds in turn, and the next
    site continues where the last one stopped, so folds differ by one case at most.
    """
    if not 1 <= fold <= FOLDS:
        raise SplitError(f"--fold must be 1 to {FOLDS}, not {fold}")
    rng = np.random.default_rng([seed, 11])
    by_site: dict[str, list[StudyCase]] = defaultdict(list)
    for case in cases:
        if case.part == "labelled":
            by_site[case.site].append(case)
    folds: list[list[StudyCase]] = [[] for _ in range(FOLDS)]
    turn = 0
    for site in sorted(by_site):
        for index in rng.permutation(len(by_site[site])):
            folds[turn % FOLDS].append(by_site[site][index])
            turn += 1
    test = {case.name for case in folds[fold - 1]}
    validation = {case.name for case in folds[fold % FOLDS][::2]}
    for of_site in by_site.values():
        # A site keeps a labelled case to train on: first what it validates on gives way.
        names = sorted((case.name for case in of_site), key=lambda name: name in test)
        if names and not set(names) - test - validation:
            test.discard(names[0])
            validation.discard(names[0])
    parts: list[StudyCase] = []
    for case in cases:
        part: Part = case.part
        if part == "labelled" and case.name in test:
            part = "test"
        elif part == "labelled" and case.name in validation:
            part = "validation"
        parts.append(replace(case, part=part))
    return parts


def refuse_duplicates(cases: Sequence[StudyCase]) -> None:
    """The same scan in two sites or two parts would be trained and tested on.

    Raises:
        SplitError: Naming every pair.
    """
    try:
        mistakes = duplicate_mistakes(
            (case.site, Case(name=case.name, part=case.part, image=case.image, label=None))
            for case in cases
        )
    except ScanError as error:
        raise SplitError(str(error)) from None
    if mistakes:
        raise SplitError("\n".join(mistakes))


def write_sites(
    cases: Sequence[StudyCase], folder: Path, cache: Path, *, device: str, threads: int
) -> dict[str, SiteConfig]:
    """Each site's folder, as at a hospital, and its site file; scans are linked, not copied."""
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
            if labels and label is not None:
                _link(label, data / labels, case.name)
        path = folder / f"{site}.yaml"
        facts = {
            "site": site,
            "description": "a simulated site",
            "data": site,
            "cache": str(cache.resolve()),
            "state": f"{site}/state",
            "device": device,
            "threads": threads,
            # The simulation has every hospital's scans already: nothing is kept back.
            "min_cases_reported": 1,
        }
        path.write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
        configs[site] = read_site(path)
    return configs


def _files(folder: Path, *, required: bool) -> dict[str, Path]:
    if not folder.is_dir():
        if required:
            raise SplitError(
                f"{folder}: no such folder; --data wants imagesTr/ and labelsTr/ as in the Medical "
                "Segmentation Decathlon"
            )
        return {}
    files = scan_files(folder)
    if required and not files:
        raise SplitError(f"{folder}: holds no scan that can be read (.nii.gz, .mha, .nrrd, DICOM)")
    return files


def _check_pairs(folder: Path, images: Mapping[str, Path], labels: Mapping[str, Path]) -> None:
    mistakes = [
        f"{folder}: label {name} has no image in imagesTr; add the image or remove the label"
        for name in sorted(set(labels) - set(images))
    ]
    mistakes += [
        f"{folder}: image {name} has no label in labelsTr; add the label or move it to imagesUn"
        for name in sorted(set(images) - set(labels))
    ]
    if mistakes:
        raise SplitError("\n".join(mistakes))


def _made_sites(folder: Path) -> dict[str, str]:
    manifest = folder / "cohort.json"
    if not manifest.exists():
        return {}
    content = json.loads(manifest.read_text(encoding="utf-8"))
    return {case["name"]: case["site"] for case in content["cases"]}


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


def _apportion(total: int, shares: Sequence[int]) -> list[int]:
    """Whole numbers in proportion, largest remainders first (Hamilton's method)."""
    if not total:
        return [0] * len(shares)
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _link(source: Path, folder: Path, name: str) -> None:
    """A symbolic link, or a copy where the file system has none; the name keeps its suffixes."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "" if source.is_dir() else source.name[len(name) :]
    target = folder / f"{name}{suffix}"
    _link_one(source, target)
    voxels = None if source.is_dir() else data_file(source, place=f"case {name}")
    if voxels is not None:
        _link_one(voxels, folder / voxels.name)


def _link_one(source: Path, target: Path) -> None:
    try:
        os.symlink(source.resolve(), target, target_is_directory=source.is_dir())
    except OSError:
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
