"""Whether the files of a folder are those that its dataset.json says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from client.data.errors import Problem
from client.data.folder.channels import FIRST_CHANNEL
from client.data.folder.dataset_json import NAME, DatasetJson
from client.data.folder.entries import IMAGE_IO, case_name, suffix_of

_SHOWN = 10


def dataset_problems(
    described: DatasetJson, images: Mapping[str, Path], labels: Mapping[str, Path]
) -> list[Problem]:
    """Where the files of imagesTr and labelsTr, by case, are not what dataset.json says."""
    problems = []
    if len(described.channels) > 1:
        problems.append(
            Problem(
                rule="dimensions",
                location=NAME,
                message=f": names {len(described.channels)} channels a case, one can be read; keep"
                " the files of one channel, as case_0000, and name it alone",
                detail=_some(described.channels),
            )
        )
    problems += _ending_problems(described, [*images.values(), *labels.values()])
    problems += _list_problems(described, images, labels)
    return problems


def _ending_problems(described: DatasetJson, files: list[Path]) -> Iterator[Problem]:
    ending = described.file_ending
    if ending is None:
        return
    if ending.lower() not in IMAGE_IO:
        message = (
            f": `file_ending` is {ending!r}, which cannot be read; convert the files to .nii.gz"
        )
        yield Problem(rule="format", location=NAME, message=message)
        return
    others = [p for p in files if p.is_file() and suffix_of(p) != ending.lower()]
    if others:
        yield Problem(
            rule="format",
            location=NAME,
            message=f": `file_ending` is {ending!r}, but {len(others)} file(s) have another one;"
            " take them away, or correct it",
            detail=_some(f"{path.parent.name}/{path.name}" for path in others),
        )


def _list_problems(
    described: DatasetJson, images: Mapping[str, Path], labels: Mapping[str, Path]
) -> Iterator[Problem]:
    listed = {
        "imagesTr": {_listed_case(case.image) for case in described.training},
        "labelsTr": {_listed_case(case.label) for case in described.training},
    }
    for folder, there in (("imagesTr", images), ("labelsTr", labels)):
        # nnU-Net 1 lists case.nii.gz, whose file is case_0000.nii.gz.
        absent = sorted(
            name
            for name in listed[folder]
            if name not in there and name.removesuffix(FIRST_CHANNEL) not in there
        )
        if absent:
            yield Problem(
                rule="missing",
                location=NAME,
                message=f": `training` lists {len(absent)} case(s) that are not in {folder}; add"
                " their files, or take them out of the list",
                detail=_some(absent),
            )
    unlisted = sorted(
        name
        for name in images
        if name not in listed["imagesTr"] and name + FIRST_CHANNEL not in listed["imagesTr"]
    )
    if described.training and unlisted:
        yield Problem(
            rule="pair",
            location=NAME,
            message=f": `training` does not list {len(unlisted)} case(s) that are in imagesTr; list"
            " them, or take them out of the folder",
            detail=_some(unlisted),
        )
    count = described.num_training
    if not described.training and count is not None and count != len(images):
        yield Problem(
            rule="missing",
            location=NAME,
            message=f": `numTraining` is {count}, but imagesTr holds {len(images)} case(s); look"
            " which are missing or too many, or correct it",
        )


def _listed_case(path: str) -> str:
    """The case that a listed file is of; lists of Windows have backslashes."""
    return case_name(Path(PurePosixPath(path.replace("\\", "/")).name))


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
