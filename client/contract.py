"""The data contract of one site: which files make a case, and what is said where they do not.

The layout extends that of the Medical Segmentation Decathlon:

    imagesTr/ + labelsTr/     labelled training cases
    imagesUn/                 training cases without labels
    imagesVal/ + labelsVal/   validation cases
    imagesTs/ + labelsTs/     test cases

Every part is optional, but one training case there must be.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import SimpleITK as sitk

from client.dicom import dicom_files
from client.intact import data_file
from client.scans import ScanError, read_image, read_label_map, scan_files, voxel_hash

logger = logging.getLogger(__name__)

Part = Literal["labelled", "unlabelled", "validation", "test"]

LAYOUT: tuple[tuple[Part, str, str | None], ...] = (
    ("labelled", "imagesTr", "labelsTr"),
    ("unlabelled", "imagesUn", None),
    ("validation", "imagesVal", "labelsVal"),
    ("test", "imagesTs", "labelsTs"),
)
_CHANNEL = "_0000"  # the decathlon's later tools append the channel to an image's name


class ContractError(ValueError):
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
class Case:
    """One subject's scan, and its label map where it has one."""

    name: str
    part: Part
    image: Path
    label: Path | None


def find_cases(folder: Path) -> tuple[Case, ...]:
    """The cases of a site's data folder, by part in the order of `Part`, then by name.

    Files are paired by name and not opened; `check_cases` reads them.

    Raises:
        ContractError: With all mistakes: no folder or no training case, an image without label
            or a label without image, one case name twice.
    """
    if not folder.is_dir():
        raise ContractError([f"data folder {folder.name}: does not exist; correct the site file"])
    cases: list[Case] = []
    mistakes: list[str] = []
    for part, images, labels in LAYOUT:
        cases += _part_cases(folder, part, images, labels, mistakes)
    if not mistakes and not any(case.part in ("labelled", "unlabelled") for case in cases):
        mistakes.append(
            f"data folder {folder.name}: holds no training case; put scans in imagesTr (with"
            " labelsTr) or imagesUn"
        )
    part_of: dict[str, Part] = {}
    for case in cases:
        before = part_of.setdefault(case.name, case.part)
        if before != case.part:
            mistakes.append(
                f"case {case.name}: is in the parts {before} and {case.part}; keep it in one"
            )
    if mistakes:
        raise ContractError(mistakes)
    return tuple(cases)


def check_cases(
    cases: Iterable[Case],
    organs: Mapping[str, int],
    *,
    warn: Callable[[str], None] = logger.warning,
) -> list[str]:
    """Read every case; the mistakes found, one for each bad case, none stopping the others.

    Args:
        cases: As `find_cases` gives them.
        organs: Value of each organ in the label maps.
        warn: Told of what is lawful but seldom meant: a label map without any organ.
    """
    mistakes = []
    for case in cases:
        try:
            image = read_image(case.image, case=case.name)
            if case.label is None:
                continue
            label = read_label_map(case.label, image, organs, case=case.name)
        except ScanError as error:
            mistakes.append(str(error))
            continue
        if not sitk.GetArrayViewFromImage(label).any():
            warn(f"case {case.name}: label map holds no organ at all; look whether it is finished")
    return mistakes


def duplicate_mistakes(cases: Iterable[tuple[str, Case]]) -> list[str]:
    """Scans that are there twice, in one site or in two, by what they show and not by name.

    A test scan that is also trained on makes every score of it worthless. Copies are found
    where they were renamed, compressed or converted (`scans.voxel_hash`). Cases that cannot be
    read are passed over; `check_cases` reports them.

    Args:
        cases: Pairs of site and case.
    """
    mistakes = []
    first_with: dict[str, str] = {}
    for site, case in cases:
        here = f"site {site}, {case.part} case {case.name}"
        try:
            shown = voxel_hash(read_image(case.image, case=case.name))
        except ScanError:
            continue
        if shown in first_with:
            mistakes.append(f"{here}: is the same scan as {first_with[shown]}; keep one of the two")
        else:
            first_with[shown] = here
    return mistakes


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; changes whenever what `scans` would read from it may change.

    Of a DICOM folder: its files in name order. Of a .mhd or .nhdr header: it and its voxels.

    Raises:
        ScanError: The path, or the file of its voxels, is missing or cannot be opened.
    """
    place = f"scan {path.name}"
    if path.is_dir():
        return hashlib.sha256("".join(map(_file_hash, dicom_files(path))).encode()).hexdigest()
    if not path.is_file():
        raise ScanError(place, "does not exist; check the name and the folder", rule="missing")
    data = data_file(path, place=place)
    if data is None:
        return _file_hash(path)
    return hashlib.sha256((_file_hash(path) + _file_hash(data)).encode()).hexdigest()


def _part_cases(
    folder: Path, part: Part, images: str, labels: str | None, mistakes: list[str]
) -> list[Case]:
    """The cases of one part; what is wrong with it is added to the mistakes."""
    image_of = _files(folder / images, mistakes)
    label_of = _files(folder / labels, mistakes) if labels else {}
    if image_of is None or label_of is None:
        return []  # pairing what is left would report cases that are there
    image_of = _without_channel(image_of, label_of if labels else None)
    if labels is None:
        return [Case(name=n, part=part, image=p, label=None) for n, p in sorted(image_of.items())]
    if image_of and not (folder / labels).is_dir():
        mistakes.append(
            f"{images}: {len(image_of)} images, but no folder {labels}; add their label maps, or"
            " move the images to imagesUn"
        )
        return []
    for name in sorted(image_of.keys() - label_of.keys()):
        mistakes.append(
            f"case {name}: {images} holds its image, {labels} no label map; add it, or move the"
            " image to imagesUn"
        )
    for name in sorted(label_of.keys() - image_of.keys()):
        mistakes.append(
            f"case {name}: {labels} holds its label map, {images} no image; add it, or remove"
            " the label map"
        )
    return [
        Case(name=name, part=part, image=image_of[name], label=label_of[name])
        for name in sorted(image_of.keys() & label_of.keys())
    ]


def _files(folder: Path, mistakes: list[str]) -> dict[str, Path] | None:
    """Scans by case name, none where the folder is not there; None where names clash."""
    if not folder.exists():
        return {}
    try:
        return scan_files(folder)
    except ScanError as error:
        mistakes.extend(str(error).splitlines())
        return None


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


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ScanError(
            f"scan {path.name}",
            f"cannot be opened: {error.strerror}; check its permissions",
            rule="closed",
        ) from error
