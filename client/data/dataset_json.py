"""Reads dataset.json, which describes a folder of scans in nnU-Net's or the decathlon's words.

Both forms are read alike: nnU-Net 2 (`channel_names`, `labels` by name, `file_ending`), and the
Medical Segmentation Decathlon's, which nnU-Net 1 has too (`modality`, `labels` by number, and the
lists `training` and `test`).  It says what the numbers in label maps mean, how many channels a case
has, and which files there are.  Anything else in it is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from asdnet_models.organs import check_organs
from client.data.entries import IMAGE_IO, case_name, suffix_of
from client.data.errors import Problem, ScanError

NAME = "dataset.json"
_IGNORE = "ignore"  # nnU-Net's name for voxels that nobody has annotated
_MAX_BYTES = 64 << 20
_SHOWN = 10


def _whole(value: Any) -> Any:
    """Numbers are written as 1 or "1"; true, 1.5 and "one" are none."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return int(value)
    return value


def _channels(value: Any) -> Any:
    """Written by number, {"0": "T2"}; a list and a single name are as clear."""
    if isinstance(value, Mapping):
        return tuple(str(name) for name in value.values())
    return (value,) if isinstance(value, str) else value


Value = Annotated[int, Field(strict=True, ge=0), BeforeValidator(_whole)]


class ListedCase(BaseModel):
    """A training case as the lists name it: files under the folder."""

    model_config = ConfigDict(frozen=True)

    image: str = Field(description="as ./imagesTr/case.nii.gz")
    label: str = Field(description="as ./labelsTr/case.nii.gz")


class DatasetJson(BaseModel):
    """What dataset.json says, in either form."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: dict[str, Value | tuple[Value, ...]] = Field(
        {},
        description="by name as written, its value in label maps; of a region, the values in it",
    )
    channels: Annotated[tuple[str, ...], BeforeValidator(_channels)] = Field(
        (),
        validation_alias=AliasChoices("channel_names", "modality"),
        description="what each channel shows; (): not said",
    )
    file_ending: str | None = Field(None, description="suffix of all files; null: not said")
    training: tuple[ListedCase, ...] = Field((), description="training cases; (): not listed")
    num_training: NonNegativeInt | None = Field(
        None,
        validation_alias=AliasChoices("numTraining", "num_training"),
        description="how many training cases there are; null: not said",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, content: Any) -> Any:
        """The decathlon writes labels as {"1": "prostate"}; two organs of one name stay two."""
        labels = content.get("labels") if isinstance(content, Mapping) else None
        if not isinstance(labels, Mapping) or not labels:
            return content
        by_number = [number for number in labels if re.fullmatch(r"\s*[0-9]+\s*", str(number))]
        if len(by_number) < len(labels) or not all(isinstance(n, str) for n in labels.values()):
            return content
        if len(set(labels.values())) < len(labels):
            raise ValueError("labels: two numbers have one name; give each a name of its own")
        return {**content, "labels": {name: number for number, name in labels.items()}}

    @property
    def values(self) -> dict[str, int]:
        """By name as written, its value; without background, regions and voxels to be ignored."""
        return {
            name: value
            for name, value in self.labels.items()
            if isinstance(value, int) and value and name.strip().casefold() != _IGNORE
        }

    @property
    def regions(self) -> tuple[str, ...]:
        """Names that stand for several values: regions, which may overlap."""
        return tuple(name for name, value in self.labels.items() if not isinstance(value, int))

    @property
    def ignored(self) -> int | None:
        """The value of voxels that nobody has annotated; None where there is none."""
        for name, value in self.labels.items():
            if isinstance(value, int) and value and name.strip().casefold() == _IGNORE:
                return value
        return None

    def organs(self) -> dict[str, int]:
        """The organs of a study by these labels; `Left Atrium` is `left_atrium` there.

        Raises:
            ScanError: With every reason why they are none: regions, voxels to be ignored, names
                or values that no organ may have.
        """
        mistakes = []
        if self.regions:
            mistakes.append(
                "`labels` has regions of several values; an organ is one value: name each value by"
                " itself"
            )
        if self.ignored is not None:
            mistakes.append(
                f"`labels` ignores the value {self.ignored}, voxels that nobody has annotated; here"
                " an organ is annotated in a whole scan or not: take it out of the label maps and"
                " of `labels`"
            )
        organs: dict[str, int] = {}
        for name, value in self.values.items():
            if organs.setdefault(organ_name(name), value) != value:
                mistakes.append("two of its labels are one name in a study; rename one")
        if not self.labels:
            mistakes.append("has no `labels`, which say what the numbers in label maps are")
        elif not self.regions:
            try:
                check_organs(organs)
            except ValueError as error:
                mistakes.append(str(error))
        if mistakes:
            raise ScanError(NAME, f": {'; '.join(mistakes)}", rule="values")
        return organs


def organ_name(name: str) -> str:
    """A label's name as a study writes it: `Non-enhancing Tumor` is `non_enhancing_tumor`."""
    return re.sub(r"[^0-9a-z\x80-\U0010ffff]+", "_", name.strip().casefold()).strip("_")


def read_dataset_json(folder: Path) -> DatasetJson | None:
    """What the dataset.json of a folder says; None where there is none.

    Raises:
        ScanError: It cannot be opened, is no JSON, or breaks a rule; all that it breaks.
    """
    path = folder / NAME
    if not path.exists() and not path.is_symlink():
        return None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ScanError(NAME, ": is over 64 MB; that is no list of scans", rule="format")
        content = json.loads(path.read_bytes())
    except OSError as error:
        message = f": cannot be opened: {error.strerror}; correct it or take it away"
        raise ScanError(NAME, message, rule="closed") from None
    except (ValueError, RecursionError):
        raise ScanError(
            NAME, ": is no JSON in UTF-8; correct it or take it away", rule="format"
        ) from None
    if not isinstance(content, dict):
        raise ScanError(NAME, ": must hold names and values; correct it", rule="format")
    try:
        return DatasetJson.model_validate(content)
    except ValidationError as error:
        raise ScanError(NAME, f": {_explained(error)}; correct it", rule="format") from None


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
            if name not in there and name.removesuffix("_0000") not in there
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
        if name not in listed["imagesTr"] and f"{name}_0000" not in listed["imagesTr"]
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


def _explained(error: ValidationError) -> str:
    """Every field that breaks a rule, and the rule, once."""
    lines = []
    for item in error.errors():
        rule = item["msg"].removeprefix("Value error, ")
        lines.append(f"`{item['loc'][0]}`: {rule[:1].lower()}{rule[1:]}" if item["loc"] else rule)
    return "; ".join(dict.fromkeys(lines))


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
