"""Reads the cases of a folder, in each of the supported layouts.

The made cohort, whose cases know their site; the Medical Segmentation Decathlon's; and PROMISE12's
as it is downloaded, all scans and segmentations in one folder.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.data.case import Part
from client.data.entries import scan_files
from client.data.errors import ScanError
from client.data.integrity import data_file
from simulation.errors import SplitError

_PROMISE12 = re.compile(r"(Case[0-9]+)(_segmentation)?\.mhd", re.IGNORECASE)
_DECATHLON_COUNTS = (50, 20)
PROMISE12_ORGANS: Mapping[str, int] = {"prostate": 1}


@dataclass(frozen=True, kw_only=True)
class StudyCase:
    """One case of the simulation.

    `label` is what a reader drew, for training; `reference` what is scored against.  A withheld
    case is unlabelled to its site, and only the simulation knows its reference.
    """

    name: str
    image: Path
    label: Path | None
    reference: Path | None
    site: str = ""
    part: Part = "labelled"


def read_cohort(folder: Path, labelled: int | None, unlabelled: int | None) -> list[StudyCase]:
    """The cases of a folder, labelled first.

    Args:
        folder: With imagesTr/ and labelsTr/; cohort.json names sites; imagesUn/, or else the last
            cases in name order, are the unlabelled pool.  Or PROMISE12's: CaseNN.mhd next to
            CaseNN_segmentation.mhd.
        labelled: How many labelled cases to use, in name order; None: 50, of PROMISE12 all that
            are not unlabelled.
        unlabelled: How many unlabelled cases; None: 20, of PROMISE12 none.

    Raises:
        SplitError: If a folder is missing or holds too few cases, or a file of a pair is missing.
        ScanError: If two files of a folder claim one case.
    """
    images, labels, labelled, unlabelled = _pairs_and_counts(folder, labelled, unlabelled)
    pool = _files(folder / "imagesUn", required=False)
    references = _files(folder / "labelsRef", required=False)
    withheld = _files(folder / "labelsUn", required=False)
    names = sorted(images)
    if not pool and unlabelled:
        if len(names) < labelled + unlabelled:
            raise SplitError(
                f"{folder}: holds {len(names)} cases, {labelled} labelled and "
                f"{unlabelled} withheld are asked for; lower --labelled or --unlabelled"
            )
        withheld_names = names[-unlabelled:]
        pool = {name: images[name] for name in withheld_names}
        withheld = {name: labels[name] for name in withheld_names}
        names = names[:-unlabelled]
    _check_counts(folder, ("labelled", len(names), labelled), ("unlabelled", len(pool), unlabelled))
    sites = _made_sites(folder)
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


def _pairs_and_counts(
    folder: Path, labelled: int | None, unlabelled: int | None
) -> tuple[dict[str, Path], dict[str, Path], int, int]:
    """Images, label maps, and how many labelled and unlabelled cases are meant."""
    if is_promise12(folder):
        images, labels = _promise12_pairs(folder)
        unlabelled = unlabelled or 0
        labelled = max(1, len(images) - unlabelled) if labelled is None else labelled
        return images, labels, labelled, unlabelled
    images = _files(folder / "imagesTr", required=True)
    labels = _files(folder / "labelsTr", required=True)
    _check_pairs(folder, images, labels)
    labelled = _DECATHLON_COUNTS[0] if labelled is None else labelled
    unlabelled = _DECATHLON_COUNTS[1] if unlabelled is None else unlabelled
    return images, labels, labelled, unlabelled


def _check_counts(folder: Path, *counts: tuple[str, int, int]) -> None:
    for what, have, want in counts:
        if have < want:
            raise SplitError(
                f"{folder}: holds {have} {what} cases, {want} are asked for; lower --{what}"
            )


def _files(folder: Path, *, required: bool) -> dict[str, Path]:
    if not folder.is_dir():
        if required:
            raise SplitError(
                f"{folder}: no such folder; wants imagesTr/ and labelsTr/ as in the Medical "
                "Segmentation Decathlon, or PROMISE12's CaseNN.mhd"
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


def is_promise12(folder: Path) -> bool:
    """Whether the folder is PROMISE12's: Case00.mhd, Case00.raw, Case00_segmentation.mhd, ..."""
    return folder.is_dir() and any(_PROMISE12.fullmatch(path.name) for path in folder.iterdir())


def _promise12_pairs(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Image and segmentation of every case; one error lists all that is missing."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    mistakes = []
    for path in sorted(folder.iterdir()):
        if matched := _PROMISE12.fullmatch(path.name):
            (labels if matched[2] else images)[matched[1]] = path
            try:
                data_file(path, location=f"case {matched[1]}: {path.name}")
            except ScanError as error:
                mistakes.append(str(error))
    for name in sorted(set(images) ^ set(labels)):
        missing = f"{name}{'_segmentation' if name in images else ''}.mhd"
        mistakes.append(
            f"{folder}: case {name} has no {missing}; add it, or take the case out of the folder"
        )
    if mistakes:
        raise SplitError("\n".join(mistakes))
    return images, labels
