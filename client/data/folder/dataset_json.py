"""Reads dataset.json, which describes a folder of scans in nnU-Net's or the decathlon's words.

Both forms are read alike: nnU-Net 2 (`channel_names`, `labels` by name, `file_ending`), and the
Medical Segmentation Decathlon's, which nnU-Net 1 has too (`modality`, `labels` by number, and the
lists `training` and `test`).  It says what the numbers in label maps mean, how many channels a case
has, and which files there are.  Anything else in it is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

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
from client.data.errors import ScanError
from protocol.config.explanation import rule_of

NAME = "dataset.json"
_IGNORE = "ignore"  # nnU-Net's name for voxels that nobody has annotated
_BACKGROUND = "background"  # theirs for voxels of no organ
_MAX_BYTES = 64 << 20


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

    @model_validator(mode="after")
    def _background_is_zero(self) -> Self:
        for name, value in self.labels.items():
            if name.strip().casefold() == _BACKGROUND and value not in (0, (0,)):
                raise ValueError(
                    f"labels: {name} is {value}, must be 0 as in every label map here; look into"
                    " the label maps"
                )
        return self

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
        if not self.labels:
            mistakes.append("has no `labels`, which say what the numbers in label maps are")
        if self.regions:
            mistakes.append(
                "`labels` has regions of several values; an organ is one value: name each by itself"
            )
        if self.ignored is not None:
            mistakes.append(
                f"`labels` ignores the value {self.ignored}, voxels that nobody has annotated; here"
                " an organ is annotated in a whole scan or not: take it out of the label maps and"
                " of `labels`"
            )
        organs = {organ_name(name): value for name, value in self.values.items()}
        if len(organs) < len(self.values):
            mistakes.append("two of its labels are one name in a study; rename one")
        if self.labels and not self.regions:
            try:
                check_organs(organs)
            except ValueError as error:
                mistakes.append(str(error))
        if mistakes:
            raise ScanError(NAME, f": {'; '.join(mistakes)}", rule="values")
        return organs

    def contradiction(self, organs: Mapping[str, int]) -> str | None:
        """What it says of the labels where these organs are not its own; None where they are.

        Of regions and of voxels to be ignored only the values count: organs may name their parts.
        """
        if not self.labels:
            return None
        if not self.regions:
            said = {organ_name(name): value for name, value in self.values.items()}
            if said == dict(organs):
                return None
        elif set(organs.values()) == {
            v for value in self.labels.values() for v in _each(value) if v
        }:
            return None
        return ", ".join(f"{name}={value}" for name, value in self.labels.items())


def _each(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value


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
        content = json.loads(path.read_bytes(), object_pairs_hook=_once)
    except OSError as error:
        message = f": cannot be opened: {error.strerror}; correct it or take it away"
        raise ScanError(NAME, message, rule="closed") from None
    except _TwiceError as error:
        message = f": has {error} twice, of which one would be lost; keep one"
        raise ScanError(NAME, message, rule="format") from None
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


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(f"the key {key[:40]!r}")
        found[key] = value
    return found


def _explained(error: ValidationError) -> str:
    """Every field that breaks a rule, and the rule, once."""
    lines = []
    for item in error.errors():
        rule = rule_of(item)
        lines.append(f"`{item['loc'][0]}`: {rule[:1].lower()}{rule[1:]}" if item["loc"] else rule)
    return "; ".join(dict.fromkeys(lines))
