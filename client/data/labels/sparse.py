"""Organs of a label map that are drawn on every second, third, ... slice alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

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
        step = max(_step(drawn) for drawn in _drawn(array, value))
        if step == 1:
            continue
        if gaps != "keep":
            raise ScanError(
                location,
                f"holds {organ} on one of {step} slices alone; fill the slices between, or say"
                " `contour_gaps: keep` in the site's file",
                rule="organ",
            )
        note(f"{organ}: is on one of {step} slices alone; those between stay empty")


def _drawn(array: NDArray[np.uint8], value: int) -> tuple[NDArray[np.bool_], ...]:
    """Along each axis of (Z, Y, X), which slices hold the value."""
    along_z = np.zeros(len(array), np.bool_)
    over = np.zeros(array.shape[1:], np.bool_)
    for z, voxels in enumerate(array):  # slice by slice: no copy of the whole
        drawn = voxels == value
        along_z[z] = drawn.any()
        over |= drawn
    return along_z, np.any(over, axis=1), np.any(over, axis=0)


def _step(drawn: NDArray[np.bool_]) -> int:
    slices = np.flatnonzero(drawn).tolist()
    return usual_step([high - low for low, high in pairwise(slices)], _LEAST_STEPS)
