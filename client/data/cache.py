"""Preprocessed scans on the site's own disk, keyed by content.

The key hashes the files' bytes and everything that shapes the result, so a changed scan, label,
spacing or version of the preprocessing makes a new entry and a restart finds the old one.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.preprocessing import PREPROCESSING_VERSION, preprocess_image, preprocess_label
from client.data.case import Case
from client.data.errors import ScanError
from client.data.hashing import (
    content_hash,
    voxel_hash,
)
from protocol.config.study import DataRequirements, StudyProtocol
from protocol.files import atomic_folder

# Raise this whenever the files of an entry change.
_ENTRY_VERSION = 3
_ROUNDING_MM = 1e-3
_DEMANDS = {"modality", "max_spacing_mm", "min_extent_mm"}
# Enough places to centre a patch on; sampled evenly, the same for the same label map.
_PLACES_PER_ORGAN = 4096


class CacheError(OSError):
    """The cache cannot be written."""


@dataclass(frozen=True)
class CachedCase:
    """One case on the study's grid; arrays are memory-mapped when first asked for."""

    case: Case
    folder: Path

    @property
    def name(self) -> str:
        """The case's name at the site."""
        return self.case.name

    @property
    def key(self) -> str:
        """Hash of the files' bytes and of what shapes the result."""
        return self.folder.name

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """(X, Y, Z), normalised."""
        array: NDArray[np.float32] = np.load(self.folder / "image.npy", mmap_mode="r")
        return array

    @cached_property
    def label(self) -> NDArray[np.uint8] | None:
        """(X, Y, Z) of the study's class numbers, or None."""
        path = self.folder / "label.npy"
        return np.load(path, mmap_mode="r") if path.exists() else None

    @cached_property
    def organ_places(self) -> dict[int, NDArray[np.int32]]:
        """For each class present, (n, 3) voxels of it, memory-mapped."""
        counts: dict[str, int] = self.facts["organ_places"]
        if not counts:
            return {}
        # One file for all organs, because a memory map keeps its file open.
        places = np.load(self.folder / "places.npy", mmap_mode="r")
        ends = np.cumsum(list(counts.values()))
        return dict(zip(map(int, counts), np.split(places, ends[:-1]), strict=True))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Geometry, voxel hash and organ box."""
        facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return facts

    @property
    def annotated(self) -> frozenset[str]:
        """The study's organs that are annotated; its label says nothing of the others."""
        return frozenset(self.facts["annotated"])

    @property
    def organ_box(self) -> tuple[float, ...] | None:
        """Box around all organs, fractions of the scan, (x0, y0, z0, x1, y1, z1)."""
        box = self.facts["organ_box"]
        return tuple(box) if box else None

    @property
    def lowest(self) -> float:
        """The image's lowest value, which continues air where a patch is padded."""
        return float(self.facts["lowest"])

    def grid(self) -> sitk.Image:
        """An empty image with the study grid's geometry."""
        grid = sitk.Image(self.facts["size_xyz"], sitk.sitkUInt8)
        grid.SetSpacing(self.facts["spacing_mm_xyz"])
        grid.SetOrigin(self.facts["origin_mm_xyz"])
        grid.SetDirection(self.facts["direction"])
        return grid


def cached_case(case: Case, cache: Path, protocol: StudyProtocol) -> CachedCase:
    """The case from the cache, preprocessed into it first if it is not there.

    Raises:
        ScanError: If a file cannot be used.
        CacheError: If the disk is full or not writable; nothing half written stays.
    """
    folder = cache / _key(case, protocol)
    if not folder.exists():
        _fill(folder, case, protocol)
    return CachedCase(case, folder)


def _key(case: Case, protocol: StudyProtocol) -> str:
    requirements = protocol.contract.model_dump(include=_DEMANDS)
    parts = [
        str((PREPROCESSING_VERSION, _ENTRY_VERSION)),
        json.dumps(
            [protocol.spacing_mm, case.how_it_is_read(protocol.organs), requirements],
            sort_keys=True,
        ),
        content_hash(case.image),
        content_hash(case.label) if case.label else "",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _fill(folder: Path, case: Case, protocol: StudyProtocol) -> None:
    scan = case.read_scan()
    check_demands(case, scan, protocol.contract)
    label = case.read_label(scan, protocol.organs) if case.label else None
    image = preprocess_image(scan, protocol.spacing_mm)
    arrays = {"image.npy": _xyz(image)}
    places: dict[str, NDArray[np.int32]] = {}
    box = None
    if label is not None:
        classes = _study_classes(label, protocol)
        arrays["label.npy"] = classes
        places = _places(classes, protocol.classes)
        if places:
            arrays["places.npy"] = np.concatenate(list(places.values()))
        box = _box(classes)
    facts = {
        "size_xyz": image.GetSize(),
        "spacing_mm_xyz": image.GetSpacing(),
        "origin_mm_xyz": image.GetOrigin(),
        "direction": image.GetDirection(),
        "voxel_hash": voxel_hash(scan),
        "lowest": float(arrays["image.npy"].min()),
        "organ_box": box,
        "organ_places": {value: len(voxels) for value, voxels in places.items()},
        "annotated": sorted(case.annotated(protocol.organs)),
    }
    _write(folder, arrays, facts)


def entry_bytes(voxels: float, *, labelled: bool) -> int:
    """What so many voxels on the study's grid take on the disk: 32-bit floats, and label bytes."""
    return int(voxels * (5 if labelled else 4))


def check_demands(case: Case, scan: sitk.Image, requirements: DataRequirements) -> None:
    """Whether a scan is what the study wants.

    Raises:
        ScanError: It is of another modality, too coarse or too small.
    """
    location = f"case {case.name}: image"
    series = case.series
    if series and requirements.modality and series.modality != requirements.modality:
        raise ScanError(
            location,
            f"is of modality {series.modality or 'unknown'}, the study takes"
            f" {requirements.modality}; take it out of the folder",
            rule="modality",
        )
    coarsest, most = max(scan.GetSpacing()), requirements.max_spacing_mm
    if most and coarsest > most + _ROUNDING_MM:
        raise ScanError(
            location,
            f"has voxels of {coarsest:.4g} mm, the study takes {most:g} mm at most; take a finer"
            " series",
            rule="spacing",
        )
    extents = (n * mm for n, mm in zip(scan.GetSize(), scan.GetSpacing(), strict=True))
    shortest, least = min(extents), requirements.min_extent_mm
    if least and shortest < least - _ROUNDING_MM:
        raise ScanError(
            location,
            f"is {shortest:.4g} mm long at its shortest edge, the study takes {least:g} mm at"
            " least; take the whole scan, not a crop",
            rule="extent",
        )


def _write(folder: Path, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
    """All files of an entry or none."""
    try:
        # Another process of this site may have been faster; its entry is as good.
        with (
            contextlib.suppress(FileExistsError),
            atomic_folder(folder, overwrite=False, durable=False) as draft,
        ):
            for name, array in arrays.items():
                np.save(draft / name, array)
            (draft / "facts.json").write_text(json.dumps(facts))
    except OSError as error:
        raise CacheError(
            f"cache {folder.parent}: cannot be written ({error.strerror}); free space on that "
            "disk or set `cache` in the site's file to another one"
        ) from None


def _xyz(image: sitk.Image) -> NDArray[Any]:
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0))


def study_box(label: sitk.Image, protocol: StudyProtocol) -> tuple[float, ...] | None:
    """Box around all organs on the study's grid, fractions of the scan, (x0, y0, z0, x1, y1, z1).

    Args:
        label: As read, in the study's values.
        protocol: The study.
    """
    box = _box(_study_classes(label, protocol))
    return tuple(box) if box else None


def _study_classes(label: sitk.Image, protocol: StudyProtocol) -> NDArray[np.uint8]:
    """A label map as read to channel numbers 0, 1, 2, ..., (X, Y, Z) on the study's grid."""
    table = np.zeros(256, np.uint8)
    for channel, organ in enumerate(protocol.organ_names, start=1):
        table[protocol.organs[organ]] = channel
    classes: NDArray[np.uint8] = table[_xyz(preprocess_label(label, protocol.spacing_mm))]
    return classes


def _places(label_xyz: NDArray[np.uint8], classes: int) -> dict[str, NDArray[np.int32]]:
    places = {}
    for value in range(1, classes):
        voxels = np.argwhere(label_xyz == value).astype(np.int32)
        if len(voxels):
            count = min(len(voxels), _PLACES_PER_ORGAN)
            places[str(value)] = voxels[np.linspace(0, len(voxels) - 1, count).astype(int)]
    return places


def _box(label_xyz: NDArray[np.uint8]) -> list[float] | None:
    voxels = np.argwhere(label_xyz > 0)
    if not len(voxels):
        return None
    low = voxels.min(0) / label_xyz.shape
    high = (voxels.max(0) + 1) / label_xyz.shape
    return [*low.tolist(), *high.tolist()]
