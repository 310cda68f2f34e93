"""Preprocessed scans on the site's own disk, keyed by content.

The key hashes the files' bytes and everything that shapes the result, so a changed scan, label,
spacing or version of the preprocessing makes a new entry and a restart finds the old one.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.preprocessing import PREPROCESSING_VERSION, preprocess_image, study_size
from client.data.case import Case
from client.data.errors import ScanError
from client.data.grid_size import broken_by_grids, most_bytes, study_voxels
from client.data.hashing import content_hash, voxel_hash
from client.data.organ_places import array_xyz, organ_box, organ_places, study_classes
from client.data.room import CacheError, Lease, entry_size, make_room, touch
from client.data.unexpected import attempt
from protocol.config.limits import SiteLimits
from protocol.config.site import SiteConfig
from protocol.config.study import DataRequirements, StudyProtocol
from protocol.files import atomic_folder

# Raise this whenever the files of an entry change.
_ENTRY_VERSION = 4
_ROUNDING_MM = 1e-3
_DEMANDS = {"modality", "max_spacing_mm", "min_extent_mm"}


@dataclass(frozen=True)
class CachedCase:
    """One case on the study's grid; arrays are memory-mapped when first asked for."""

    case: Case
    folder: Path
    # While it lives, nobody removes the entry.
    lease: Lease | None = field(default=None, repr=False, compare=False)

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
    def organ_hashes(self) -> dict[str, str]:
        """By annotated organ, the hash of where it is; see `hashing.organ_hashes`."""
        hashes: dict[str, str] = self.facts["organ_hashes"]
        return hashes

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
        CacheError: If the disk is full or not writable, or the site's limits leave no room; nothing
            half written stays.
    """
    folder = cache / _key(case, protocol)
    limits = case.site.limits if case.site else SiteLimits()
    lease = None if folder.exists() else _fill(folder, case, protocol, limits)
    touch(folder)
    return CachedCase(case, folder, lease)


def cached_cases(
    cases: Sequence[Case], config: SiteConfig, protocol: StudyProtocol
) -> Iterator[tuple[Case, CachedCase | ScanError]]:
    """Each case from the cache, or why it cannot be used; room for all is made before any is read.

    Raises:
        CacheError: As for `cached_case`, of all cases together; by their headers, so that nothing
            is resampled in vain.
    """
    keys = [attempt(case, partial(_key, case, protocol)) for case in cases]
    wanted: dict[str, int] = {}
    missing: list[int] = []
    for case, key in zip(cases, keys, strict=True):
        if isinstance(key, ScanError):
            continue
        if (config.cache / key).exists():
            wanted[key] = entry_size(config.cache / key)
        elif voxels := study_voxels(case, protocol.spacing_mm):
            missing.append(voxels)
            wanted[key] = most_bytes(voxels, protocol, labelled=case.label is not None)
    _require_grids(config.site, config.limits, protocol, missing)
    lease = make_room(config.cache, config.limits, wanted)
    for case, key in zip(cases, keys, strict=True):
        if isinstance(key, ScanError):
            yield case, key
            continue
        folder = config.cache / key
        # A scan whose header cannot be read alone gets its room when it has been read.
        room = None if key in wanted else config.limits
        fill = partial(_fill, folder, case, protocol, room)
        own = None if folder.exists() else attempt(case, fill)
        if isinstance(own, ScanError):
            yield case, own
            continue
        touch(folder)
        yield case, CachedCase(case, folder, own or lease)


def _require_grids(
    site: str, limits: SiteLimits, protocol: StudyProtocol, voxels: Sequence[int]
) -> None:
    if broken := broken_by_grids(site, limits, protocol, voxels):
        raise CacheError("\n".join(broken))


def _key(case: Case, protocol: StudyProtocol) -> str:
    requirements = protocol.contract.model_dump(include=_DEMANDS)
    parts = [
        str((PREPROCESSING_VERSION, _ENTRY_VERSION)),
        json.dumps(
            [protocol.spacing_mm, case.how_it_is_read(protocol.organs), requirements],
            sort_keys=True,
        ),
        content_hash(case.image, f"case {case.name}: image {case.image.name}"),
        content_hash(case.label, f"case {case.name}: label {case.label.name}")
        if case.label
        else "",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _fill(
    folder: Path, case: Case, protocol: StudyProtocol, limits: SiteLimits | None
) -> Lease | None:
    """Preprocess a case; with limits, its room is made here.

    Raises:
        ScanError: It cannot be used.
        CacheError: There is no room for it.
    """
    scan = case.read_scan()
    check_demands(case, scan, protocol.contract)
    lease = None
    if limits is not None:
        voxels = math.prod(study_size(scan, protocol.spacing_mm))
        _require_grids(case.site.site if case.site else "", limits, protocol, [voxels])
        size = most_bytes(voxels, protocol, labelled=case.label is not None)
        lease = make_room(folder.parent, limits, {folder.name: size})
    label = case.read_label(scan, protocol.organs) if case.label else None
    image = preprocess_image(scan, protocol.spacing_mm)
    arrays = {"image.npy": array_xyz(image)}
    places: dict[str, NDArray[np.int32]] = {}
    box = None
    if label is not None:
        classes = study_classes(label, protocol)
        arrays["label.npy"] = classes
        places = organ_places(classes, protocol.classes)
        if places:
            arrays["places.npy"] = np.concatenate(list(places.values()))
        box = organ_box(classes)
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
        "organ_hashes": case.organ_hashes(label, protocol.organs),
    }
    _write(folder, arrays, facts)
    return lease


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
            atomic_folder(folder, mode=0o700, overwrite=False, durable=False) as draft,
        ):
            for name, array in arrays.items():
                np.save(draft / name, array)
            (draft / "facts.json").write_text(json.dumps(facts))
            for file in draft.iterdir():
                file.chmod(0o600)
    except OSError as error:
        raise CacheError(
            f"cache {folder.parent}: cannot be written ({error.strerror}); free space on that "
            "disk or set `cache` in the site's file to another one"
        ) from None
