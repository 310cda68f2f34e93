"""Organs of a label map that are drawn on every second, third, ... slice alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.dicom.labels.gaps import usual_step
from client.data.errors import ScanError
from client.data.notes import Note
from protocol.config.site import GapRule

_LEAST_STEPS = 3


def check_sparse(
    label: sitk.Image, organs: Mapping[str, int], gaps: GapRule, *, location: str, note: Note
) -> None:
    """Whether each organ has voxels on the slices between others, along every axis.

    Only slices whose shapes lie over each other are of one organ: small lesions, each on a thick
    slice or two, do not, wherever they are.

    Args:
        label: Of voxels that somebody drew; unlike between contours, nothing is interpolated.
        organs: Their values.
        gaps: `keep` takes such an organ as it is, with a note.
        location: How a message begins.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: An organ is drawn on every second or further slice alone.
    """
    array = sitk.GetArrayViewFromImage(label)
    for organ, value in organs.items():
        runs = [
            steps
            for axis, drawn in enumerate(_drawn(array, value))
            for steps in _runs(np.moveaxis(array, axis, 0), value, drawn)
        ]
        step = max((_step(steps) for steps in runs), default=1)
        often = max((usual_step(steps, _LEAST_STEPS) for steps in runs), default=1)
        if step > 1 and gaps != "keep":
            raise ScanError(
                location,
                f"holds {organ} on one of {step} slices alone; fill the slices between, or say"
                " `contour_gaps: keep` in the site's file",
                rule="organ",
            )
        if step > 1:
            note(f"{organ}: is on one of {step} slices alone; those between stay empty")
        elif often > 1:
            note(
                f"{organ}: is in part on one of {often} slices alone; look whether those between"
                " were forgotten"
            )


def _drawn(array: NDArray[np.uint8], value: int) -> tuple[NDArray[np.bool_], ...]:
    """Along each axis of (Z, Y, X), which slices hold the value."""
    along_z = np.zeros(len(array), np.bool_)
    over = np.zeros(array.shape[1:], np.bool_)
    for z, voxels in enumerate(array):  # slice by slice: no copy of the whole
        drawn = voxels == value
        along_z[z] = drawn.any()
        over |= drawn
    return along_z, np.any(over, axis=1), np.any(over, axis=0)


def _runs(slices: NDArray[np.uint8], value: int, drawn: NDArray[np.bool_]) -> Iterator[list[int]]:
    """The steps from one drawn slice to the next, by run of slices that lie over each other.

    Nothing where too few slices are left out for an organ to be sparse: the voxels are not read.
    """
    numbers = np.flatnonzero(drawn).tolist()
    if sum(high - low > 1 for low, high in pairwise(numbers)) < _LEAST_STEPS:
        return
    run: list[int] = []
    for low, high in pairwise(numbers):
        if _over(slices[low] == value, slices[high] == value):
            run.append(high - low)
        else:
            yield run
            run = []
    yield run


def _over(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether half of the smaller of two shapes lies over the other: an organ ends in a tip."""
    smaller = min(np.count_nonzero(first), np.count_nonzero(second))
    return bool(2 * np.count_nonzero(first & second) >= smaller)


def _step(steps: list[int]) -> int:
    """The step of a run that is regular, but for forgotten slices; 1: it is not."""
    step = min(steps, default=1)
    regular = all(each % step == 0 for each in steps) and steps.count(step) >= _LEAST_STEPS
    return step if regular else 1
