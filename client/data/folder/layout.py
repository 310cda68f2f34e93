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

import os
from collections.abc import Iterable, Mapping, Set
from functools import partial
from pathlib import Path

from client.data.case import Case, Part
from client.data.dicom.objects import label_objects
from client.data.errors import Problem, ScanError
from client.data.folder.channels import several_channels, without_channel
from client.data.folder.dataset_json import NAME as DATASET_JSON
from client.data.folder.entries import check_entry, double_problem, list_folder
from client.data.folder.names import core_of, same_name, utf8_problem
from client.data.folder.survey import Refusal, Survey
from client.data.unexpected import attempt_at
from protocol.config.site import SiteConfig

LAYOUT: tuple[tuple[Part, str, str | None], ...] = (
    ("labelled", "imagesTr", "labelsTr"),
    ("unlabelled", "imagesUn", None),
    ("validation", "imagesVal", "labelsVal"),
    ("test", "imagesTs", "labelsTs"),
)


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
    _look_beside(folder, survey)
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


def _look_beside(folder: Path, survey: Survey) -> None:
    """What lies beside the folders of the layout; a folder that is nearly called so is refused."""
    known = {name.lower(): name for _, *names in LAYOUT for name in names if name}
    beside = sorted(e.name for e in folder.iterdir() if e.name not in known.values())
    unread = [name for name in beside if not name.startswith(".") and name != DATASET_JSON]
    survey.passed_over["."] = unread
    for name in beside:
        meant = known.get(same_name(name).strip().lower())
        if meant is not None and (folder / name).is_dir():
            message = f"is not read under this name; rename it {meant}"
            survey.refuse("name", f"folder {name}", message)


def _separate(cases: list[Case], survey: Survey, config: SiteConfig | None) -> None:
    """Cases that are excluded, that are there in two parts, and the rest."""
    exclude = {same_name(name) for name in config.exclude} if config else set()
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
    there = {case.name for case in cases} | {refusal.case for refusal in survey.refused}
    for name in sorted(exclude - there):
        message = f": exclude names a case that is not there: {name}; correct the name or remove it"
        survey.refuse("missing", f"{config.site if config else ''}.yaml", message)
    # A case that cannot be read may be left out on purpose too, which is one way to go on.
    for refusal in [one for one in survey.refused if one.case in exclude and one.part]:
        survey.refused.remove(refusal)
        nowhere = Path(refusal.case)
        survey.excluded.append(
            Case(name=refusal.case, part=refusal.part or "labelled", image=nowhere, label=None)
        )


def _part_cases(
    folder: Path,
    part: Part,
    images: str,
    labels: str | None,
    survey: Survey,
    config: SiteConfig | None,
) -> list[Case]:
    """The cases of one part; what is wrong with it is added to the survey."""
    images_of = _entries(folder / images, part, survey)
    labels_of = _entries(folder / labels, part, survey) if labels else {}
    if images_of is None or labels_of is None:  # of a folder that is not read no pair is missed
        return []
    named = labels_of if labels else None
    images_of = _without_several_channels(folder / images, images_of, named, part, survey)
    images_of = without_channel(images_of, named)
    image_of = _usable(folder / images, images_of, part, survey, "image")
    if labels is None:
        return [
            Case(name=n, part=part, image=p, label=None, site=config)
            for n, p in sorted(image_of.items())
        ]
    label_of = _usable(folder / labels, labels_of, part, survey, "label")
    label_of |= _labels_in_trees(image_of, label_of, part, survey)
    if image_of and not label_of and not (folder / labels).is_dir():
        message = (
            f": {len(image_of)} images, but no folder {labels}; add their label maps, or move the"
            " images to imagesUn"
        )
        survey.refuse("pair", images, message, part=part)
        return []
    refused = {refusal.case for refusal in survey.refused if refusal.part == part}
    _refuse_single(
        image_of.keys() - refused, label_of.keys() - refused, (images, labels), part, survey
    )
    return [
        Case(name=name, part=part, image=image_of[name], label=label_of[name], site=config)
        for name in sorted(image_of.keys() & label_of.keys())
        if name not in refused
    ]


def _refuse_single(
    images: Set[str], labels: Set[str], folders: tuple[str, str], part: Part, survey: Survey
) -> None:
    """Refuse images without a label and labels without an image; nearly equal names are told."""
    near: dict[str, list[str]] = {}
    for image in images - labels:
        near.setdefault(core_of(image, "image"), []).append(image)
    for label in labels - images:
        near.setdefault(core_of(label, "label"), []).append(label)
    for name in sorted(images ^ labels):
        here, there = folders if name in images else folders[::-1]
        what, other, remedy = (
            ("image", "label map", "move the image to imagesUn")
            if name in images
            else ("label map", "image", "remove the label map")
        )
        core = core_of(name, "image" if name in images else "label")
        others = sorted(n for n in near[core] if (n in images) != (name in images))
        message = f": {here} holds its {what}, {there} no {other}"
        message += (
            " but one of nearly this name; give both one name"
            if others
            else f"; add it, or {remedy}"
        )
        problem = Problem(
            rule="pair", location=f"case {name}", message=message, detail=", ".join(others)
        )
        survey.refused.append(Refusal(case=name, part=part, problem=problem))


def _labels_in_trees(
    image_of: Mapping[str, Path], label_of: Mapping[str, Path], part: Part, survey: Survey
) -> dict[str, Path]:
    """Contours or segments next to the slices of a DICOM case that has no label of its own."""
    tree_label_of = {}
    for name, image in image_of.items():
        if name in label_of or not image.is_dir():
            continue
        location = f"case {name}: image {image.name}"
        objects = attempt_at(location, partial(label_objects, image, location=location))
        if isinstance(objects, ScanError):
            survey.refused.append(Refusal(case=name, part=part, problem=objects.problem))
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


def _entries(folder: Path, part: Part, survey: Survey) -> dict[str, list[Path]] | None:
    """Entries by case name, none where the folder is not there; None where it cannot be read."""
    if not os.path.lexists(folder):
        return {}
    try:
        listing = list_folder(folder)
    except ScanError as error:
        survey.refused.append(Refusal(case="", part=part, problem=error.problem))
        return None
    survey.passed_over[folder.name] = listing.passed_over
    return listing.scans


def _usable(
    folder: Path, entries: Mapping[str, list[Path]], part: Part, survey: Survey, what: str
) -> dict[str, Path]:
    """The entries of one path that readers take; the others are refused, a line for each case."""
    refused = {refusal.case for refusal in survey.refused if refusal.part == part}
    usable: dict[str, Path] = {}
    for case, paths in entries.items():
        if len(paths) > 1:
            problem = double_problem(folder, case, paths)
        else:
            location = f"case {case}: {what} {paths[0].name}"
            refusal = attempt_at(location, partial(check_entry, paths[0], location))
            if refusal is None:
                usable[case] = paths[0]
                continue
            problem = refusal.problem
        if case not in refused:
            survey.refused.append(Refusal(case=case, part=part, problem=problem))
    return usable


def _without_several_channels(
    folder: Path,
    images_of: dict[str, list[Path]],
    labels_of: Mapping[str, object] | None,
    part: Part,
    survey: Survey,
) -> dict[str, list[Path]]:
    """The images of cases of one channel; the others are refused, a line for each case."""
    several = several_channels(images_of, labels_of)
    for case, names in several.items():
        message = (
            f": {folder.name} holds {len(names)} channels of it, one can be read; keep the files of"
            " one channel, as case_0000"
        )
        problem = Problem(
            rule="dimensions", location=f"case {case}", message=message, detail=", ".join(names)
        )
        survey.refused.append(Refusal(case=case, part=part, problem=problem))
    taken = {name for names in several.values() for name in names}
    return {name: paths for name, paths in images_of.items() if name not in taken}
