"""Multi-frame files (Enhanced MR, CT and the like): geometry from their functional groups.

ITK guesses the geometry of such a file from two of its frames, keeps them in the order of the
file, and rescales all by one slope.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset

from client.data.dicom.decoding import rescale, stored
from client.data.dicom.headers import load
from client.data.dicom.one_scan import check_acquisition, note_frames
from client.data.dicom.pixels import check_pixels, slice_of
from client.data.dicom.slices import Grid, Slice, stack
from client.data.errors import ScanError
from client.data.notes import Note, unheard

# The functional groups that are read here (PS3.3, C.7.6.16.2).
_GROUPS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
    "MREchoSequence",
    "MRDiffusionSequence",
    "MRImageFrameTypeSequence",
)


def read_frames(files: Sequence[Path], *, location: str, note: Note = unheard) -> sitk.Image:
    """The volume of all frames of files, sorted by position, each rescaled by its own slope.

    Args:
        files: Of one series: one of many frames, several, or one of each frame.
        location: How a message begins.
        note: Called with what hints at frames that are missing, or of several scans.

    Raises:
        ScanError: Pixels that `check_pixels` or GDCM refuses, frames without a geometry, or
            frames that are no one stack of one acquisition.
    """
    headers = [load(file, location=location, pixels=True) for file in files]
    groups, grid = _grid(headers, location)
    check_acquisition(groups, location=location, note=note)
    note_frames(groups, note=note)
    voxels = np.empty(grid.shape, np.float32)
    places = np.argsort(grid.order).tolist()  # of each frame along z
    frames = zip(groups, places, strict=True)
    for header, file in zip(headers, files, strict=True):
        for values in stored(header, file, location=location):
            group, z = next(frames)
            slope, intercept = rescale(group, location=location)
            np.multiply(values, slope, out=voxels[z])
            voxels[z] += intercept
    return grid.image(voxels)


def frames_grid(files: Sequence[Path], *, location: str) -> Grid:
    """The grid of multi-frame files; its order is of `frame_places`.

    Raises:
        ScanError: As for `read_frames`, the pixels left aside.
    """
    groups, grid = _grid([load(file, location=location) for file in files], location)
    check_acquisition(groups, location=location, note=unheard)
    return grid


def frame_places(headers: Sequence[Dataset]) -> tuple[tuple[int, int], ...]:
    """Of each frame of files, in the order of these: the file and the place in it, from 0."""
    return tuple((n, at) for n, header in enumerate(headers) for at in range(_frames(header)))


def frame_groups(header: Dataset, *, location: str) -> list[list[Dataset]]:
    """The data sets that describe each frame: its own, then the shared ones, then the file's.

    Raises:
        ScanError: It does not say where each frame lies.
    """
    frames: Sequence[Dataset] = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared: Iterable[Dataset] = header.get("SharedFunctionalGroupsSequence") or ()
    if not frames and "NumberOfFrames" not in header:
        return [[header]]  # a classic slice
    if len(frames) != _frames(header):
        raise ScanError(
            location,
            "is a multi-frame file that does not say where each frame lies; export it as an"
            " enhanced or a classic series",
            rule="slices",
        )
    common = [item for group in shared for item in _items(group)]
    return [[*_items(frame), *common, header] for frame in frames]


def _grid(headers: Sequence[Dataset], location: str) -> tuple[list[list[Dataset]], Grid]:
    """What describes each frame, and the grid of all."""
    groups: list[list[Dataset]] = []
    slices: list[Slice] = []
    for header in headers:
        check_pixels(header, location=location)
        of_file = frame_groups(header, location=location)
        slices += [slice_of(header, group, location=location) for group in of_file]
        groups += of_file
    for group in groups:
        rescale(group, location=location)
    try:
        return groups, stack(slices, location=location)
    except ScanError as error:
        if len(headers) == 1:
            raise
        why = error.problem.message.lstrip(": ").partition(";")[0]
        raise ScanError(
            location,
            f"holds {len(headers)} multi-frame files in one series that do not make one stack"
            f" ({why}); give each scan, with all its files, a case of its own",
            rule="slices",
        ) from error


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _items(group: Dataset) -> list[Dataset]:
    return [item for name in _GROUPS for item in group.get(name) or ()]
