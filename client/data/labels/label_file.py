"""Label maps in files: what their own names say comes first, then the site's numbers.

A number alone is a convention, and the commonest mistake is another one; a name is what whoever
drew the organ meant. So names of a file's header (`segment_names`) decide what its values are, and
where the site's file says otherwise of a number, the case is refused with both readings. A name
that nobody knows contradicts nothing: there a number of the site's file decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError
from client.data.files.geometry import put_on_grid
from client.data.files.image_io import load_numbers
from client.data.labels.label_map import LabelMapping, folded, occurring_values, some, study_mapping
from client.data.labels.segment_box import unboxed
from client.data.labels.segment_meaning import (
    IGNORED,
    are_names,
    by_number,
    have_numbers,
    mapping_of,
    reading,
)
from client.data.labels.segment_names import Segment, SegmentNames, read_segment_names
from client.data.notes import Note, unheard

Masks = dict[str, NDArray[np.bool_]]


def read_label_file(
    path: Path,
    scan: sitk.Image | None,
    mapping: LabelMapping,
    *,
    case: str,
    location: str,
    note: Note = unheard,
) -> sitk.Image:
    """A label map in the study's numbers, 8-bit, exactly on the scan's grid.

    Args:
        path: A file in a format of scans.
        scan: The scan; None: the label map keeps a grid of its own.
        mapping: What names and numbers mean.
        case: The case's name.
        location: How messages begin.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: It cannot be read, is on another grid, holds a value that means nothing, lacks an
            organ, or its names contradict the site's file.
    """
    names = read_segment_names(path, location=location)
    label = load_numbers(path, location, note, layers=bool(names.segments))
    if scan is None:
        scan = label
    elif names.boxed:
        label = unboxed(label, scan, location=location)
    else:
        _check_is_another(label, scan, case)
    put_on_grid(label, scan, location=location)
    if are_names(names.segments, mapping):
        explained = by_number(names.segments, mapping)
        mapping = replace(mapping, names={**mapping.names, **explained})
        masks, drawn = _masks(label, names, mapping, location, note)
        told = {
            each.value: explained[folded(each.name)]
            for each in names.segments
            if drawn[each.name] and explained.get(folded(each.name)) in mapping.organs
        }
        if told:
            said = ", ".join(f"{value} is {organ}" for value, organ in sorted(told.items()))
            note(f"has names that the site's file does not know; its numbers decide: {said}")
        return mapping.combine(masks, scan, case=case, location=location, drawn=drawn, note=note)
    if label.GetNumberOfComponentsPerPixel() > 1:
        raise ScanError(
            location,
            "holds several layers whose segments bear no names; name them, because their numbers"
            " begin anew in each layer",
            rule="values",
        )
    if names.segments:
        note("its segments bear no names of organs; read by their numbers")
    return mapping.translate(label, case=case, location=location)


def _check_is_another(label: sitk.Image, scan: sitk.Image, case: str) -> None:
    """Raise where a scan is its own label map, saved in the place of both."""
    if label.GetNumberOfComponentsPerPixel() > 1 or label.GetSize() != scan.GetSize():
        return
    if np.array_equal(sitk.GetArrayViewFromImage(label), sitk.GetArrayViewFromImage(scan)):
        raise ScanError(
            f"case {case}: image",
            "is its own label map, value by value; put the scan in its place",
            rule="values",
        )


def read_label_map(
    path: Path, image: sitk.Image, organs: Mapping[str, int], *, case: str
) -> sitk.Image:
    """Read the label map of an image, as 8-bit integers with exactly the image's geometry.

    Grids count as equal as `same_grid_error` has it; an organ may be absent.

    Args:
        path: As for `read_image`.
        image: The scan that the label map belongs to.
        organs: Value of each organ, 1 to 255; 0 is background.
        case: The case's name, for messages.

    Raises:
        ScanError: It cannot be read, lies on another grid, or holds other values.
    """
    location = f"case {case}: label map {path.name}"
    return read_label_file(path, image, study_mapping(organs), case=case, location=location)


def load_label_map(path: Path, organs: Mapping[str, int], *, case: str) -> sitk.Image:
    """Read a label map that has no image, with its own geometry.

    Args and Raises as for `read_label_map`, the grid left aside.
    """
    location = f"case {case}: label map {path.name}"
    return read_label_file(path, None, study_mapping(organs), case=case, location=location)


def unused_segments(path: Path, mapping: LabelMapping, *, location: str) -> list[str]:
    """Named segments with voxels that are no organ of the study, and not ignored on purpose.

    Raises:
        ScanError: It cannot be read.
    """
    segments = read_segment_names(path, location=location).segments
    if not are_names(segments, mapping):
        return []
    ignored = mapping.ignored if have_numbers(segments) else ()
    mapping = mapping_of(path, mapping, location=location)
    if not (left := mapping.unused(s.name for s in segments if s.value not in ignored)):
        return []
    drawn = drawn_segments(path, location=location)
    return [name for name in left if drawn[name]]


def drawn_segments(path: Path, *, location: str) -> dict[str, bool]:
    """Whether the segments that a label map's header names hold anything, by name.

    Raises:
        ScanError: It cannot be read.
    """
    names = read_segment_names(path, location=location)
    if not names.segments:
        return {}
    _, segments, used = _layers(load_numbers(path, location, layers=True), names)
    return _drawn(segments, used)


def _masks(
    label: sitk.Image, names: SegmentNames, mapping: LabelMapping, location: str, note: Note
) -> tuple[Masks, dict[str, bool]]:
    """Of the study's organs, (Z, Y, X) by the name of the segment; and which segments hold any."""
    layers, segments, used = _layers(label, names)
    _check_values(segments, used, len(layers), mapping, location)
    _check_numbers(segments, mapping, location, note)
    masks: Masks = {}
    for organ in mapping.organs:
        own = [each for each in segments if mapping.organ_of(each.name) == organ]
        # An empty segment beside a drawn one says nothing.
        own = [each for each in own if (each.layer, each.value) in used] or own[:1]
        if len(own) > 1 and not _joined(organ, own, mapping):
            raise ScanError(
                location,
                f"holds {len(own)} structures for {organ}; keep one, or join them",
                rule="values",
                detail=", ".join(each.name for each in own),
            )
        if own:
            parts = [layers[each.layer or 0] == each.value for each in own]
            masks[own[0].name] = np.logical_or.reduce(parts)
    return masks, _drawn(segments, used)


def _layers(
    label: sitk.Image, names: SegmentNames
) -> tuple[NDArray[Any], list[Segment], set[tuple[int | None, int]]]:
    """(layers, Z, Y, X); the segments, each with its layer; what occurs, as (layer, value)."""
    array = sitk.GetArrayViewFromImage(label)
    layers = np.moveaxis(array, 3, 0) if array.ndim > 3 else array[None]
    segments = [
        replace(each, layer=number if len(layers) > 1 else 0) if each.layer is None else each
        for number, each in enumerate(names.segments)
    ]
    used: set[tuple[int | None, int]] = {
        (layer, v) for layer, part in enumerate(layers) for v in occurring_values(part) if v
    }
    return layers, segments, used


def _drawn(
    segments: Sequence[Segment], used: Collection[tuple[int | None, int]]
) -> dict[str, bool]:
    drawn: dict[str, bool] = {}
    for each in segments:
        drawn[each.name] = drawn.get(each.name, False) or (each.layer, each.value) in used
    return drawn


def _check_values(
    segments: Sequence[Segment],
    used: Collection[tuple[int | None, int]],
    layers: int,
    mapping: LabelMapping,
    location: str,
) -> None:
    """Every value that occurs has one meaning.

    Raises:
        ScanError: It has none, or two.
    """
    if any(not 0 <= (each.layer or 0) < layers for each in segments):
        raise ScanError(
            location,
            f"has segments in layers that are not there, it has {layers}; save it again",
            rule="damaged",
        )
    names_of: dict[tuple[int | None, int], set[str]] = {}
    for each in segments:
        names_of.setdefault((each.layer, each.value), set()).add(each.name)
    foreign = sorted({value for layer, value in used if (layer, value) not in names_of})
    if foreign := [value for value in foreign if value not in mapping.ignored]:
        raise ScanError(
            location,
            f"holds the values {some(foreign)}, which none of its {len(segments)} named segments"
            " has; name them in the program that drew them, or put them in `ignored_labels` of the"
            " site's file",
            rule="values",
        )
    for (_, value), names in sorted(names_of.items()):
        if len(names) > 1 and {reading(name, mapping) for name in names} & set(mapping.organs):
            raise ScanError(
                location,
                f"has {len(names)} names for its value {value}; keep one",
                rule="values",
                detail=", ".join(sorted(names)),
            )


def _check_numbers(
    segments: Sequence[Segment], mapping: LabelMapping, location: str, note: Note
) -> None:
    """What numbers say, where they are the site's and not those of a layer.

    Raises:
        ScanError: The site's file says of a number other than its name.
    """
    if not have_numbers(segments):
        return
    other = {}
    for each in segments:
        by_name = reading(each.name, mapping)
        by_number = mapping.values.get(each.value)
        if by_number is None and each.value in mapping.ignored:
            by_number = IGNORED
        if by_name and by_number and by_name != by_number:
            other[each.value] = (by_name, by_number)
    other = {v: both for v, both in other.items() if set(both) & set(mapping.organs)}
    if not other:
        return
    if mapping.numbered:
        value, (by_name, by_number) = sorted(other.items())[0]
        raise ScanError(
            location,
            f"names its value {value} {by_name}, the site's file has {value} as {by_number};"
            " correct the file's names, or the numbers in `labels` and `ignored_labels`",
            rule="values",
        )
    said = ", ".join(f"{value} is {by_name}" for value, (by_name, _) in sorted(other.items()))
    note(f"its own names decide, against the study's numbers: {said}")


def _joined(organ: str, own: Sequence[Segment], mapping: LabelMapping) -> bool:
    """Whether the site's file has the numbers too, not only the names, as one organ."""
    return mapping.numbered and all(mapping.values.get(each.value) == organ for each in own)
