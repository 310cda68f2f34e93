"""What a site says of its training data so that a study can be planned.

Cases stand behind it in blocks, as behind scores (`blocks.py`): a fingerprint that is asked for
again, when a case has come or gone, is none that could be subtracted from the last.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.bounding_box import bounding_box
from client.data.blocks import FINGERPRINT, Block, Counted, Release, plan_release
from client.data.case import Case
from client.data.files.geometry import axes_along_patient
from protocol.config.site import SiteConfig
from protocol.planning.fingerprint import (
    Fingerprint,
    OrganFingerprint,
    Spread,
    share_of,
    spread_of,
)

# A scan is wider than the body where the body's box takes less than this of it along an axis.
_BODY_SHARE = 0.9
# An organ is in one piece where its largest component has this share of its voxels.
_ONE_PIECE = 0.99

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class CaseShape:
    """A case's geometry along the patient's axes x, y, z (LPS).

    Attributes:
        spacing_mm: Voxel edges.
        size_voxels: Of the scan.
        extent_mm: Of the scan.
        wider_than_body: Whether much of the scan is air around the body.
        organ_extent_mm: By organ that is there, its box.
        one_component: By organ that is there, whether it is in one piece.
    """

    spacing_mm: Triple
    size_voxels: Triple
    extent_mm: Triple
    wider_than_body: bool
    organ_extent_mm: Mapping[str, Triple]
    one_component: Mapping[str, bool]


class Measured(Protocol):
    """A usable case of the data check."""

    @property
    def shape(self) -> CaseShape | None:
        """None unless it was asked for."""
        ...

    @property
    def intensity(self) -> tuple[float, ...]:
        """Percentiles of the body."""
        ...

    @property
    def volumes_ml(self) -> Mapping[str, float]:
        """By organ that is drawn."""
        ...

    @property
    def voxel_hash(self) -> str:
        """Equal for copies."""
        ...

    @property
    def organ_hashes(self) -> Mapping[str, str]:
        """By organ that is drawn, of where it is; "": absent."""
        ...


def case_shape(
    scan: sitk.Image,
    label: sitk.Image | None,
    body_zyx: NDArray[np.bool_],
    organs: Mapping[str, int],
) -> CaseShape:
    """Measure a case that has been read.

    Args:
        scan: As read.
        label: On its grid, in the study's values; None: it has none.
        body_zyx: The body, of any sampling of the scan's grid.
        organs: Those that are drawn, with their values.
    """
    spacing, size = np.array(scan.GetSpacing()), np.array(scan.GetSize(), np.float64)
    along_patient = axes_along_patient(scan.GetDirection())

    def placed(values: NDArray[np.float64]) -> Triple:
        """From the scan's axes to the patient's."""
        x, y, z = (float(values[axis]) for axis in along_patient)
        return (x, y, z)

    body = _edges(bounding_box(body_zyx))
    extents: dict[str, Triple] = {}
    one: dict[str, bool] = {}
    array = None if label is None else sitk.GetArrayViewFromImage(label)
    for organ, value in organs.items():
        mask = None if array is None else array == value
        if mask is None or not mask.any():
            continue
        box = bounding_box(mask)
        extents[organ] = placed(_edges(box) * spacing)
        one[organ] = _in_one_piece(mask[box])
    return CaseShape(
        spacing_mm=placed(spacing),
        size_voxels=placed(size),
        extent_mm=placed(size * spacing),
        wider_than_body=bool((body < _BODY_SHARE * np.array(body_zyx.shape[::-1])).any()),
        organ_extent_mm=extents,
        one_component=one,
    )


def _edges(box: tuple[slice, ...]) -> NDArray[np.int_]:
    """Voxels of a box along x, y, z."""
    return np.array([along.stop - along.start for along in reversed(box)])


def _in_one_piece(mask: NDArray[np.bool_]) -> bool:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    counts = np.bincount(sitk.GetArrayFromImage(sitk.ConnectedComponent(image)).ravel())
    return bool(counts[1:].max() >= _ONE_PIECE * counts[1:].sum())


def counted_cases(cases: Sequence[tuple[Case, Measured]]) -> list[Counted]:
    """Training cases as they count in a fingerprint: of scans, and of each organ that is drawn."""
    return [
        Counted(
            part="unlabelled",  # labels do not count among scans: one group
            ids={FINGERPRINT: _digest(measures.voxel_hash, FINGERPRINT)}
            | {
                f"{FINGERPRINT} {organ}": _digest(measures.voxel_hash, f"{FINGERPRINT} {shown}")
                for organ, shown in measures.organ_hashes.items()
                if shown
            },
        )
        for _, measures in cases
    ]


def fingerprint_of(
    config: SiteConfig, organs: Collection[str], cases: Sequence[tuple[Case, Measured]]
) -> tuple[Fingerprint, Release]:
    """The fingerprint of a site's usable training cases; its machine is not in it yet.

    Args:
        config: The site; its `min_cases_reported` holds.
        organs: The study's.
        cases: Labelled and unlabelled training cases, with their shapes.

    Returns:
        With the blocks, which must be written down before it leaves (`write_released`).

    Raises:
        CohortFileError: What has left before cannot be read.
    """
    of_case, fewest = counted_cases(cases), config.min_cases_reported
    release = plan_release(config, of_case)

    def standing(quantity: str) -> list[Measured]:
        blocks: Sequence[Block] = release.released.get(quantity, ())
        ids = frozenset[str]().union(*blocks)
        return [
            measures
            for (_, measures), case in zip(cases, of_case, strict=True)
            if case.ids.get(quantity) in ids
        ]

    scans = standing(FINGERPRINT)
    shapes = [m.shape for m in scans if m.shape is not None]
    found = Fingerprint(
        labelled=sum(case.part == "labelled" for case, _ in cases),
        unlabelled=sum(case.part == "unlabelled" for case, _ in cases),
        spacing_mm=_by_axis((s.spacing_mm for s in shapes), fewest),
        size_voxels=_by_axis((s.size_voxels for s in shapes), fewest),
        extent_mm=_by_axis((s.extent_mm for s in shapes), fewest),
        intensity=_by_axis((_three(m.intensity) for m in scans), fewest),
        wider_than_body=share_of([s.wider_than_body for s in shapes], fewest),
        organs={
            organ: _organ(organ, standing(f"{FINGERPRINT} {organ}"), fewest) for organ in organs
        },
    )
    return found, release


def _organ(organ: str, cases: Sequence[Measured], fewest: int) -> OrganFingerprint:
    there = [(m, m.shape) for m in cases if m.shape and organ in m.shape.organ_extent_mm]
    if len(there) < fewest:
        return OrganFingerprint()
    return OrganFingerprint(
        volume_ml=spread_of((m.volumes_ml[organ] for m, _ in there), fewest),
        extent_mm=_by_axis((shape.organ_extent_mm[organ] for _, shape in there), fewest),
        one_component=share_of([shape.one_component[organ] for _, shape in there], fewest),
    )


def _by_axis(values: Iterable[Triple], fewest: int) -> tuple[Spread, Spread, Spread]:
    columns = list(zip(*values, strict=True)) or [(), (), ()]
    x, y, z = (spread_of(column, fewest) for column in columns)
    return (x, y, z)


def _three(values: tuple[float, ...]) -> Triple:
    low, median, high = values
    return (low, median, high)


def _digest(scan: str, shown: str) -> str:
    return hashlib.sha256(f"{scan}\n{shown}".encode()).hexdigest()
