"""What dataset.json, in a site's data folder, says of the numbers in its label maps.

Names come first here too: the study's numbers are a convention that such a folder may not follow.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from client.data.errors import ScanError
from client.data.folder.dataset_json import NAME, DatasetJson, organ_name, read_dataset_json
from client.data.labels.label_map import LabelMapping
from client.data.labels.segment_meaning import IGNORED, reading
from client.data.notes import Note, unheard


def as_described(
    mapping: LabelMapping, folder: Path, *, location: str, note: Note = unheard
) -> LabelMapping:
    """The mapping of a folder's label maps, with the numbers that its dataset.json names.

    Numbers of the site's file stand; without those, the names of dataset.json decide.

    Args:
        mapping: By the site's file and the study.
        folder: The site's data folder.
        location: How a message begins.
        note: Called where the study's numbers are other ones, or the site's are named otherwise.

    Raises:
        ScanError: dataset.json cannot be read, contradicts a number of the site's file, or lacks
            the name of an organ.
    """
    described = _read(folder)
    if described is None or not described.labels:
        return mapping
    meant = {v: _meant(name, mapping) for name, v in sorted(described.values.items(), key=_value)}
    organ_of = {v: meaning for v, meaning in meant.items() if meaning and meaning != IGNORED}
    other = {v: each for v, each in meant.items() if each and _said(mapping, v) != each}
    if mapping.numbered:
        for value, organ in other.items():
            by_file = _said(mapping, value)
            if by_file and {organ, by_file} & set(mapping.organs):
                raise ScanError(
                    location,
                    f"is of a folder whose {NAME} has {value} as {organ}, the site's file has"
                    f" {value} as {by_file}; correct one of the two",
                    rule="values",
                )
        unknown = {v: mapping.values.get(v) for v, meaning in meant.items() if meaning is None}
        if said := ", ".join(f"{v} is {o}" for v, o in unknown.items() if o in mapping.organs):
            note(f"{NAME} has names that the site's file does not know; its numbers decide: {said}")
        return mapping
    if lacking := sorted(mapping.annotated - set(organ_of.values())):
        raise ScanError(
            location,
            f"is of a folder whose {NAME} names no value {lacking[0]}; add the name that it has"
            " there to `labels` of the site's file, or its number",
            rule="organ",
            detail=", ".join(described.labels),
        )
    if moved := {v: organ for v, organ in other.items() if organ in mapping.organs}:
        told = ", ".join(f"{value} is {organ}" for value, organ in moved.items())
        note(f"{NAME} decides, against the study's numbers: {told}")
    return replace(mapping, values=organ_of)


def _meant(name: str, mapping: LabelMapping) -> str | None:
    return reading(name, mapping) or reading(organ_name(name), mapping)


def _value(label: tuple[str, int]) -> int:
    return label[1]


def _said(mapping: LabelMapping, value: int) -> str | None:
    return mapping.values.get(value) or (IGNORED if value in mapping.ignored else None)


def _read(folder: Path) -> DatasetJson | None:
    """As it is now; parsed once."""
    try:
        facts = (folder / NAME).stat()
    except OSError:
        return read_dataset_json(folder)
    return _parsed(folder, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4)
def _parsed(folder: Path, _changed_ns: int, _bytes: int) -> DatasetJson | None:
    return read_dataset_json(folder)
