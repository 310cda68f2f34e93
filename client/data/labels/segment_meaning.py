"""What the names in a label map's header mean at a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from client.data.labels.label_map import LabelMapping, folded
from client.data.labels.segment_names import Segment, read_segment_names

IGNORED = "ignored"


def mapping_of(path: Path, mapping: LabelMapping, *, location: str) -> LabelMapping:
    """The mapping, with the names of a label map that numbers of the site's file explain.

    Raises:
        ScanError: Its names cannot be read.
    """
    segments = read_segment_names(path, location=location).segments
    return replace(mapping, names={**mapping.names, **by_number(segments, mapping)})


def structures_of(path: Path, mapping: LabelMapping, *, location: str) -> list[str]:
    """The names by which a label map is read; none where it is read by numbers.

    Raises:
        ScanError: Its names cannot be read.
    """
    segments = read_segment_names(path, location=location).segments
    return [segment.name for segment in segments] if are_names(segments, mapping) else []


def are_names(segments: Sequence[Segment], mapping: LabelMapping) -> bool:
    """Whether a label map is read by its segments' names: one is a person's, or known."""
    return any(segment.named or reading(segment.name, mapping) for segment in segments)


def have_numbers(segments: Sequence[Segment]) -> bool:
    """Whether their values tell them apart; those of layers may begin anew in each."""
    return len({each.value for each in segments}) == len(segments)


def by_number(segments: Sequence[Segment], mapping: LabelMapping) -> dict[str, str]:
    """What the site's file has as the numbers of names that it does not know, by folded name."""
    organs_of: dict[str, set[str]] = {}
    if mapping.numbered and have_numbers(segments):
        for each in segments:
            if each.value in mapping.values and reading(each.name, mapping) is None:
                organs_of.setdefault(folded(each.name), set()).add(mapping.values[each.value])
    return {name: organs.pop() for name, organs in organs_of.items() if len(organs) == 1}


def reading(name: str, mapping: LabelMapping) -> str | None:
    """What the site says of a name: an organ, ignored, or nothing."""
    return mapping.names.get(folded(name)) or (IGNORED if mapping.ignores(name) else None)
