"""Reads the cases of a folder, in each of the supported layouts.

The made cohort, whose cases know their site; the Medical Segmentation Decathlon's; and PROMISE12's
as it is downloaded, all scans and segmentations in one folder.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.data.case import Case, Part
from client.data.errors import ScanError
from client.data.files.integrity import data_file
from client.data.folder.dataset_files import dataset_problems
from client.data.folder.dataset_json import read_dataset_json
from client.data.folder.entries import list_folder, scan_files
from client.data.folder.layout import survey_folder
from protocol.wording import counted
from simulation.errors import SplitError

_PROMISE12 = re.compile(r"(Case[0-9]+)(_segmentation)?\.mhd", re.IGNORECASE)
PROMISE12_ORGANS: Mapping[str, int] = {"prostate": 1}


@dataclass(frozen=True, kw_only=True)
class StudyCase:
    """One case of the simulation.

    `label` is what a reader drew, for training; `reference` what is scored against.  A withheld
    case is unlabelled to its site, and only the simulation knows its reference.  The folds decide
    the part of a labelled case, unless it is `fixed`; cases of one `group` get one part and fold.
    """

    name: str
    image: Path
    label: Path | None
    reference: Path | None
    site: str = ""
    part: Part = "labelled"
    fixed: bool = False
    group: str = ""


def read_cohort(folder: Path, labelled: int | None, unlabelled: int | None) -> list[StudyCase]:
    """The cases of a folder, labelled first; as `find_files` and `choose_cases`.

    Raises:
        SplitError: With every mistake of the folder's files by their names, or too few cases.
    """
    files = find_files(folder)
    if files.mistakes:
        raise SplitError("\n".join(files.mistakes))
    return choose_cases(folder, files, labelled, unlabelled)


@dataclass(frozen=True, kw_only=True)
class CohortFiles:
    """The files of a folder by case.

    Attributes:
        images: Of the cases with labels.
        labels: Of the same cases.
        pool: Images without labels; {}: some of the labelled cases are to be withheld.
        references: What is scored against where it is not the label.
        withheld: Of the pool.
        passed_over: Files in its folders that are no scan.
        mistakes: What is wrong by names alone; the cases above are those without any.
    """

    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    pool: Mapping[str, Path] = field(default_factory=dict)
    references: Mapping[str, Path] = field(default_factory=dict)
    withheld: Mapping[str, Path] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()

    @property
    def cases(self) -> list[Case]:
        """All of them, as a site would read them."""
        labelled = [
            Case(name=name, part="labelled", image=image, label=self.labels[name])
            for name, image in self.images.items()
        ]
        return labelled + [
            Case(name=name, part="unlabelled", image=image, label=self.withheld.get(name))
            for name, image in self.pool.items()
        ]


def find_files(folder: Path) -> CohortFiles:
    """The files of a folder by case, found and paired as the data check does it.

    What is wrong with single cases is in `mistakes`: an image without label or a label without
    image, a name twice or that cannot be read, files that dataset.json does not say.

    Args:
        folder: With imagesTr/ and labelsTr/ (names may end in nnU-Net's `_0000`); imagesUn/ is the
            unlabelled pool.  Or PROMISE12's: CaseNN.mhd next to CaseNN_segmentation.mhd.

    Raises:
        SplitError: There is no such folder, or no scan in it.
    """
    if is_promise12(folder):
        return _promise12_files(folder)
    if not (folder / "imagesTr").is_dir():
        raise SplitError(
            f"{folder / 'imagesTr'}: no such folder; wants imagesTr/ and labelsTr/ as in the "
            "Medical Segmentation Decathlon, or PROMISE12's CaseNN.mhd"
        )
    survey = survey_folder(folder)
    over = survey.passed_over
    here = over.get("imagesTr", [])
    if not list_folder(folder / "imagesTr").scans:
        raise SplitError(
            f"{folder / 'imagesTr'}: holds no scan that can be read (.nii.gz, .mha, .nrrd, DICOM)"
            + (f", but {', '.join(here[:5])}" if here else "")
        )
    # What lies in imagesVal and imagesTs is not used here: folds validate and test.
    mistakes = [
        str(r.problem) for r in survey.refused if r.part in ("labelled", "unlabelled", None)
    ]
    of_part: dict[Part, list[Case]] = {"labelled": [], "unlabelled": []}
    for case in survey.cases:
        of_part.setdefault(case.part, []).append(case)
    images = {case.name: case.image for case in of_part["labelled"]}
    labels = {case.name: case.label for case in of_part["labelled"] if case.label is not None}
    try:
        described = read_dataset_json(folder)
        if described is not None:
            # A case that is refused is there; what is wrong with it has its own line.
            refused = {r.case: folder for r in survey.refused if r.part == "labelled"}
            mistakes += map(str, dataset_problems(described, refused | images, refused | labels))
    except ScanError as error:
        mistakes.append(str(error))
    references = _references(folder / "labelsRef", mistakes)
    withheld = _references(folder / "labelsUn", mistakes)
    return CohortFiles(
        images=images,
        labels=labels,
        pool={case.name: case.image for case in of_part["unlabelled"]},
        references=references,
        withheld=withheld,
        passed_over=tuple(
            f"{name}/{file}"
            for name in ("imagesTr", "labelsTr", "imagesUn")
            for file in over.get(name, [])
        ),
        mistakes=tuple(mistakes),
    )


def choose_cases(
    folder: Path, files: CohortFiles, labelled: int | None, unlabelled: int | None
) -> list[StudyCase]:
    """So many cases of a folder, in name order, labelled first.

    Args:
        folder: Its cohort.json names sites.
        files: Of the folder.  Without a pool the last labelled cases in name order are withheld.
        labelled: How many labelled cases to use; None: all that are not withheld.
        unlabelled: How many unlabelled cases; None: the whole pool, and none is withheld.

    Raises:
        SplitError: If there are too few.
    """
    names = sorted(files.images)
    pool, withheld = dict(files.pool), dict(files.withheld)
    unlabelled = len(pool) if unlabelled is None else unlabelled
    if labelled is None:
        labelled = max(1, len(names) - (0 if pool else unlabelled))
    if not pool and unlabelled:
        if len(names) < labelled + unlabelled:
            raise SplitError(
                f"{folder}: holds {counted(len(names), 'case')}, {labelled} labelled and "
                f"{unlabelled} withheld are asked for; lower --labelled or --unlabelled"
            )
        last = names[-unlabelled:]
        pool = {name: files.images[name] for name in last}
        withheld = {name: files.labels[name] for name in last}
        names = names[:-unlabelled]
    _check_counts(folder, ("labelled", len(names), labelled), ("unlabelled", len(pool), unlabelled))
    sites = _made_sites(folder)
    cases = [labelled_case(files, name, sites.get(name, "")) for name in names[:labelled]]
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


def labelled_case(files: CohortFiles, name: str, site: str) -> StudyCase:
    """One of the cases with labels."""
    return StudyCase(
        name=name,
        image=files.images[name],
        label=files.labels[name],
        reference=files.references.get(name, files.labels[name]),
        site=site,
    )


def _check_counts(folder: Path, *counts: tuple[str, int, int]) -> None:
    for what, have, want in counts:
        if have < want:
            raise SplitError(
                f"{folder}: holds {counted(have, f'{what} case')}, {want} are asked for; lower"
                f" --{what}"
            )


def _references(folder: Path, mistakes: list[str]) -> dict[str, Path]:
    """Label maps by case; what is wrong is added to the mistakes."""
    try:
        return scan_files(folder) if folder.is_dir() else {}
    except ScanError as error:
        mistakes.append(str(error))
        return {}


def _made_sites(folder: Path) -> dict[str, str]:
    manifest = folder / "cohort.json"
    if not manifest.exists():
        return {}
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        return {case["name"]: case["site"] for case in content["cases"]}
    except (ValueError, KeyError, TypeError):
        raise SplitError(
            f"{manifest}: is no made cohort's; take it away, or make the cohort again"
        ) from None


def is_promise12(folder: Path) -> bool:
    """Whether the folder is PROMISE12's: Case00.mhd, Case00.raw, Case00_segmentation.mhd, ..."""
    return folder.is_dir() and any(_PROMISE12.fullmatch(path.name) for path in folder.iterdir())


def _promise12_files(folder: Path) -> CohortFiles:
    """Image and segmentation of every case, and all that is missing."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    mistakes: list[str] = []
    faulty: set[str] = set()
    for path in sorted(folder.iterdir()):
        if matched := _PROMISE12.fullmatch(path.name):
            (labels if matched[2] else images)[matched[1]] = path
            try:
                data_file(path, location=f"case {matched[1]}: {path.name}")
            except (ScanError, OSError) as error:
                faulty.add(matched[1])
                reason = getattr(error, "strerror", None)
                where = f"case {matched[1]}: {path.name}"
                mistakes.append(f"{where} cannot be opened: {reason}" if reason else str(error))
    for name in sorted(set(images) ^ set(labels)):
        missing = f"{name}{'_segmentation' if name in images else ''}.mhd"
        mistakes.append(
            f"{folder}: case {name} has no {missing}; add it, or take the case out of the folder"
        )
    pairs = sorted((images.keys() & labels.keys()) - faulty)
    return CohortFiles(
        images={name: images[name] for name in pairs},
        labels={name: labels[name] for name in pairs},
        mistakes=tuple(mistakes),
    )
