"""Preprocessed scans on the site's own disk, keyed by content.

The key hashes the files' bytes and everything that shapes the result, so a changed scan, label,
spacing or version of the preprocessing makes a new entry and a restart finds the old one.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.contract import Case, content_hash
from client.preprocessing import PREPROCESSING_VERSION, preprocess_image, preprocess_label
from client.scans import read_image, read_label_map, voxel_hash
from protocol.study import StudyProtocol

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
        """For each class present, (n, 3) voxels of it."""
        with np.load(self.folder / "places.npz") as places:
            return {int(key): places[key] for key in places.files}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Geometry, voxel hash and organ box."""
        facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return facts

    @property
    def annotated(self) -> frozenset[str]:
        """The study's organs that were drawn in this case; of the others its label says nothing."""
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


def cached_case(
    case: Case, cache: Path, protocol: StudyProtocol, *, not_annotated: Collection[str] = ()
) -> CachedCase:
    """The case from the cache, preprocessed into it first if it is not there.

    Args:
        case: Its files.
        cache: The cache's folder.
        protocol: Grid and organs.
        not_annotated: Organs that nobody has drawn at this site.  What its label says of them all
            the same does not get into the cache.

    Raises:
        ScanError: If a file cannot be used.
        CacheError: If the disk is full or not writable; nothing half written stays.
    """
    drawn = frozenset(protocol.organ_names) - set(not_annotated)
    folder = cache / _key(case, protocol, drawn)
    if not folder.exists():
        _fill(folder, case, protocol, drawn)
    return CachedCase(case, folder)


def _key(case: Case, protocol: StudyProtocol, drawn: frozenset[str]) -> str:
    parts = [
        str(PREPROCESSING_VERSION),
        json.dumps([protocol.spacing_mm, protocol.organs], sort_keys=True),
        content_hash(case.image),
        content_hash(case.label) if case.label else "",
    ]
    if drawn != set(protocol.organ_names):
        parts.append(json.dumps(sorted(drawn)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _fill(folder: Path, case: Case, protocol: StudyProtocol, drawn: frozenset[str]) -> None:
    scan = read_image(case.image, case=case.name)
    label = (
        read_label_map(case.label, scan, protocol.organs, case=case.name) if case.label else None
    )
    image = preprocess_image(scan, protocol.spacing_mm)
    arrays = {"image.npy": _xyz(image)}
    places: dict[str, NDArray[np.int32]] = {}
    box = None
    if label is not None:
        on_grid = _xyz(preprocess_label(label, protocol.spacing_mm))
        classes = _study_classes(on_grid, protocol, drawn)
        arrays["label.npy"] = classes
        places = _places(classes, protocol.classes)
        box = _box(classes)
    facts = {
        "size_xyz": image.GetSize(),
        "spacing_mm_xyz": image.GetSpacing(),
        "origin_mm_xyz": image.GetOrigin(),
        "direction": image.GetDirection(),
        "voxel_hash": voxel_hash(scan),
        "lowest": float(arrays["image.npy"].min()),
        "organ_box": box,
        "annotated": sorted(drawn) if label is not None else [],
    }
    _write(folder, arrays, places, facts)


def _write(
    folder: Path,
    arrays: dict[str, NDArray[Any]],
    places: dict[str, NDArray[np.int32]],
    facts: dict[str, Any],
) -> None:
    """All files of an entry or none: written beside it, then renamed."""
    draft = folder.parent / f".{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(draft / name, array)
        np.savez(draft / "places.npz", **places)  # type: ignore[arg-type]
        (draft / "facts.json").write_text(json.dumps(facts))
        # Another process of this site may have been faster; its entry is as good.
        with contextlib.suppress(FileExistsError):
            _rename(draft, folder)
    except OSError as error:
        raise CacheError(
            f"cache {folder.parent}: cannot be written ({error.strerror}); free space on that "
            "disk or set `cache` in the site's file to another one"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: Path, folder: Path) -> None:
    try:
        os.rename(draft, folder)
    except OSError:
        if not folder.exists():
            raise


def _xyz(image: sitk.Image) -> NDArray[Any]:
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0))


def _study_classes(
    label_xyz: NDArray[np.uint8], protocol: StudyProtocol, drawn: frozenset[str]
) -> NDArray[np.uint8]:
    """Label values of the study to channel numbers 0, 1, 2, ...; undrawn organs to 0."""
    table = np.zeros(256, np.uint8)
    for channel, organ in enumerate(protocol.organ_names, start=1):
        if organ in drawn:
            table[protocol.organs[organ]] = channel
    classes: NDArray[np.uint8] = table[label_xyz]
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
