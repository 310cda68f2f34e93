"""The layout of a site's data folder: which files make a case, and what is wrong where they do not.

The layout extends that of the Medical Segmentation Decathlon:

    imagesTr/ + labelsTr/     labelled training cases
    imagesUn/                 training cases without labels
    imagesVal/ + labelsVal/   validation cases
    imagesTs/ + labelsTs/     test cases

Every part is optional, but one training case there must be.  A DICOM case is a folder of any depth;
contours or segments that lie in it are its label where the labels' folder has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.data.case import (
    Case,
    Part,
)
from client.data.dicom.objects import label_objects
from client.data.entries import (
    double_problem,
    scan_entries,
)
from client.data.errors import (
    Problem,
    ScanError,
)
from client.data.integrity import data_file
from client.data.names import check_name, utf8_problem
from protocol.config.rules import Rule
from protocol.config.site import SiteConfig

LAYOUT: tuple[tuple[Part, str, str | None], ...] = (
    ("labelled", "imagesTr", "labelsTr"),
    ("unlabelled", "imagesUn", None),
    ("validation", "imagesVal", "labelsVal"),
    ("test", "imagesTs", "labelsTs"),
)
_CHANNEL = "_0000"  # the decathlon's later tools append the channel to an image's name


class LayoutError(ValueError):
    """Every mistake of a site's data, one a line.

    Attributes:
        mistakes: One message each.
    """

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__(self.mistakes)

    def __str__(self) -> str:
        """All mistakes, one a line."""
        return "\n".join(self.mistakes)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why something in a site's folder is not used.

    Attributes:
        case: The case's name; empty where it is about the folder.
        part: What the case would have been for; None where it is about the folder.
        problem: What is wrong, and what to do.
    """

    case: str
    part: Part | None
    problem: Problem


@dataclass(kw_only=True)
class Survey:
    """What a site's folder holds, by names alone; nothing of it is left unsaid.

    Attributes:
        cases: Those that may be used, by part in the order of `Part`, then by name.
        refused: What is not used, and why.
        excluded: Cases that the site's file leaves out.
        passed_over: Entries that are no scan and no label, by folder; "." is the data folder.
    """

    cases: list[Case] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    excluded: list[Case] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def refuse(
        self, rule: Rule, location: str, message: str, *, case: str = "", part: Part | None = None
    ) -> None:
        """Note what is not used."""
        problem = Problem(rule=rule, location=location, message=message)
        self.refused.append(Refusal(case=case, part=part, problem=problem))


def find_cases(folder: Path, config: SiteConfig | None = None) -> tuple[Case, ...]:
    """The cases of a data folder; files are not opened.

    Args:
        folder: With the layout above.
        config: The site's file, with the rules for reading them; None: labels are in the
            study's own numbers.

    Raises:
        LayoutError: With all mistakes: no folder or no training case, an image without label
            or a label without image, one case name twice.
    """
    survey = survey_folder(folder, config)
    if survey.refused:
        raise LayoutError(str(refusal.problem) for refusal in survey.refused)
    return tuple(survey.cases)


def survey_folder(folder: Path, config: SiteConfig | None = None) -> Survey:
    """Everything in a data folder, paired by name.

    Args:
        folder: With the layout above.
        config: The site's file, if it is a site's.
    """
    survey = Survey()
    location = f"data folder {folder.name}"
    if not folder.is_dir():
        survey.refuse("missing", location, ": does not exist; correct the site file")
        return survey
    if (problem := utf8_problem(folder.absolute(), location)) is not None:
        survey.refused.append(Refusal(case="", part=None, problem=problem))
        return survey
    known = {name for _, images, labels in LAYOUT for name in (images, labels)}
    others = sorted(e.name for e in folder.iterdir() if e.name not in known)
    survey.passed_over["."] = [name for name in others if not name.startswith(".")]
    cases: list[Case] = []
    for part, images, labels in LAYOUT:
        cases += _part_cases(folder, part, images, labels, survey, config)
    if not survey.refused and not any(c.part in ("labelled", "unlabelled") for c in cases):
        survey.refuse(
            "missing",
            location,
            ": holds no training case; put scans in imagesTr (with labelsTr) or imagesUn",
        )
    _separate(cases, survey, config)
    return survey


def _separate(cases: list[Case], survey: Survey, config: SiteConfig | None) -> None:
    """Cases that are excluded, that are there in two parts, and the rest."""
    exclude = config.exclude if config else {}
    part_of: dict[str, Part] = {}
    for case in cases:
        if case.name in exclude:
            survey.excluded.append(case)
            continue
        before = part_of.setdefault(case.name, case.part)
        if before == case.part:
            survey.cases.append(case)
            continue
        message = f": is in the parts {before} and {case.part}; keep it in one"
        survey.refuse("name", f"case {case.name}", message, case=case.name, part=case.part)
    for name in sorted(set(exclude) - {case.name for case in cases}):
        message = f": exclude names a case that is not there: {name}; correct the name or remove it"
        survey.refuse("missing", f"{config.site if config else ''}.yaml", message)


def _part_cases(
    folder: Path,
    part: Part,
    images: str,
    labels: str | None,
    survey: Survey,
    config: SiteConfig | None,
) -> list[Case]:
    """The cases of one part; what is wrong with it is added to the survey."""
    image_of = _files(folder / images, part, survey, "image")
    label_of = _files(folder / labels, part, survey, "label") if labels else {}
    image_of = _without_channel(image_of, label_of if labels else None)
    if labels is None:
        return [
            Case(name=n, part=part, image=p, label=None, site=config)
            for n, p in sorted(image_of.items())
        ]
    label_of |= _labels_in_trees(image_of, label_of, part, survey)
    refused = {refusal.case for refusal in survey.refused if refusal.part == part}
    if image_of and not label_of and not (folder / labels).is_dir():
        message = (
            f": {len(image_of)} images, but no folder {labels}; add their label maps, or move the"
            " images to imagesUn"
        )
        survey.refuse("pair", images, message, part=part)
        return []
    for name in sorted(image_of.keys() ^ label_of.keys()):
        if name in refused:
            continue
        message = (
            f": {images} holds its image, {labels} no label map; add it, or move the image to"
            " imagesUn"
            if name in image_of
            else f": {labels} holds its label map, {images} no image; add it, or remove the label"
            " map"
        )
        survey.refuse("pair", f"case {name}", message, case=name, part=part)
    return [
        Case(name=name, part=part, image=image_of[name], label=label_of[name], site=config)
        for name in sorted(image_of.keys() & label_of.keys())
        if name not in refused
    ]


def _labels_in_trees(
    image_of: Mapping[str, Path], label_of: Mapping[str, Path], part: Part, survey: Survey
) -> dict[str, Path]:
    """Contours or segments next to the slices of a DICOM case that has no label of its own."""
    tree_label_of = {}
    for name, image in image_of.items():
        if name in label_of or not image.is_dir():
            continue
        try:
            objects = label_objects(image, location=f"case {name}: image {image.name}")
        except ScanError as error:
            survey.refused.append(Refusal(case=name, part=part, problem=error.problem))
            continue
        if len(objects) == 1:
            tree_label_of[name] = objects[0]
        elif objects:
            message = (
                f": its folder holds {len(objects)} sets of contours or segments; keep one, or put"
                " the one that is meant in the folder of labels"
            )
            survey.refuse("pair", f"case {name}", message, case=name, part=part)
    return tree_label_of


def _files(folder: Path, part: Part, survey: Survey, what: str) -> dict[str, Path]:
    """Entries by case name, none where the folder is not there; names that clash or that no
    reader takes are refused.
    """
    if not folder.exists():
        return {}
    entries = scan_entries(folder)
    scans = [path for paths in entries.values() for path in paths]
    taken = {path.name for path in scans} | {path.name for path in _voxel_files(scans)}
    over = [e.name for e in sorted(folder.iterdir()) if e.name not in taken]
    survey.passed_over[folder.name] = [name for name in over if not name.startswith(".")]
    for case, paths in entries.items():
        if len(paths) > 1:
            problem = double_problem(folder, case, paths)
            survey.refused.append(Refusal(case=case, part=part, problem=problem))
            continue
        try:
            check_name(paths[0], f"case {case}: {what} {paths[0].name}")
        except ScanError as error:
            survey.refused.append(Refusal(case=case, part=part, problem=error.problem))
    refused = {refusal.case for refusal in survey.refused if refusal.part == part}
    return {case: paths[0] for case, paths in entries.items() if case not in refused}


def _voxel_files(scans: Iterable[Path]) -> Iterator[Path]:
    """The files that belong to .mhd and .nhdr headers."""
    for path in scans:
        with suppress(ScanError, OSError):
            data = data_file(path, location="") if path.is_file() else None
            if data is not None:
                yield data


def _without_channel(
    image_of: dict[str, Path], label_of: Mapping[str, Path] | None
) -> dict[str, Path]:
    """Case names with the channel suffix taken off, where it is one and not part of the name.

    It is one where the label has the shorter name or, without labels, where all images bear it.
    """
    named: dict[str, Path] = {}
    every = all(name.endswith(_CHANNEL) for name in image_of)
    for name, path in image_of.items():
        short = name.removesuffix(_CHANNEL)
        is_channel = every if label_of is None else name not in label_of and short in label_of
        # Where case and case_0000 are both there, each keeps its name and one lacks its label.
        named[short if is_channel and short not in image_of else name] = path
    return named
