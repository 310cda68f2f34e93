"""What DICOM objects made of a series share: patient, referenced series, description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from client.data.dicom.frames import frame_places
from client.data.dicom.headers import load
from client.data.dicom.series import DicomSeries, series_grid
from client.data.errors import ScanError
from client.data.geometry import same_grid_error
from protocol.files import atomic_file

NOT_CLINICAL = "AI-made, not for clinical use"
MANUFACTURER = "asdnet-federated"


@dataclass(frozen=True)
class Drawing:
    """A label map to be written as a DICOM object.

    Attributes:
        label: Values of `organs` and 0, (Z, Y, X), on the image's grid.
        image: The series as `read_series` reads it.
        series: Where the image is from.
        organs: Value of each organ; one that is not in the label is there without voxels.
        model: What drew them, for the reader of the file.
    """

    label: NDArray[np.uint8]
    image: sitk.Image
    series: DicomSeries
    organs: Mapping[str, int]
    model: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The series of an image, as its headers have it.

    Attributes:
        headers: One of each file; of a classic series in the image's order along z.
        frames: Of each slice, its multi-frame file and the place in it, both from 0; None for a
            classic series.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[tuple[int, int], ...] | None

    def of_slice(self, z: int) -> tuple[Dataset, int | None]:
        """The header of a slice's file, and the slice's frame in it."""
        if self.frames is None:
            return self.headers[z], None
        file, frame = self.frames[z]
        return self.headers[file], frame


def source_of(drawing: Drawing, *, location: str) -> Source:
    """The series' headers, where an image and its label map are on the series' grid.

    Raises:
        ScanError: They are not, or the series cannot be read or names no frame of reference.
    """
    series, image, label = drawing.series, drawing.image, drawing.label
    grid = series_grid(series, location=location)
    if label.shape != image.GetSize()[::-1]:
        raise ScanError(
            location, f"has shape {label.shape}, its image {image.GetSize()[::-1]}", rule="grid"
        )
    difference = same_grid_error(image, grid.image(np.zeros(grid.shape, np.uint8)))
    if difference is not None:
        raise ScanError(
            location,
            f": its image is not on the grid of its series: {difference}; resample the labels"
            " with nearest neighbour",
            rule="grid",
        )
    if not series.frame_uid:
        raise ScanError(
            location,
            ": its series names no frame of reference, so nothing can be placed in it; save a"
            " label map instead",
            rule="reference",
        )
    if series.multiframe:
        headers = tuple(load(file, location=location) for file in series.files)
        places = frame_places(headers)
        return Source(headers=headers, frames=tuple(places[at] for at in grid.order))
    headers = tuple(load(series.files[index], location=location) for index in grid.order)
    return Source(headers=headers, frames=None)


def save(dataset: Dataset, path: Path, *, location: str) -> None:
    """Write a data set so that readers see the old file or the new.

    Raises:
        ScanError: It cannot be written.
    """
    try:
        with atomic_file(path) as draft:
            dataset.save_as(draft, enforce_file_format=True)
    except OSError as error:
        raise ScanError(
            location, "cannot be written; check its folder and the disk", rule="closed"
        ) from error
