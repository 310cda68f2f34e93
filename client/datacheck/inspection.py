"""The data check of one case: whether it is used, why not, and its properties."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.preprocessing import body_mask, study_size
from client.data.cache import (
    check_demands,
    entry_bytes,
)
from client.data.case import (
    Case,
    Part,
)
from client.data.dicom.objects import is_dicom
from client.data.errors import (
    Problem,
    ScanError,
)
from client.data.files.geometry import upright_view
from client.data.fingerprint import CaseShape, case_shape
from client.data.hashing import voxel_hash
from client.data.organ_places import study_box
from client.data.unexpected import attempt
from client.datacheck.identifiers import header_identifiers
from protocol.config.study import StudyProtocol
from protocol.planning.fingerprint import INTENSITY_PERCENTILES
from reporting.overlay import Contours, three_planes

Status = Literal["used", "refused", "excluded"]
_PICTURE_PX = 150
_OBLIQUE_DEGREES = 0.5


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a readable case is like.

    Attributes:
        format: Of the scan's file.
        size_xyz: Voxels.
        spacing_mm_xyz: Voxel edges.
        orientation: Nearest axes, such as LPS, and whether the grid is oblique to them.
        intensity: Percentiles 1, 50 and 99.5 of the body.
        volumes_ml: By organ that is drawn; 0 where it is drawn as absent.
        voxel_hash: Equal for copies.
        organ_hashes: By organ that is drawn, of where it is.
        identifiers: Header fields that may identify the patient.
        cache_bytes: What it takes in the cache.
        study_voxels: On the study's grid.
        organ_box: Box around all organs, fractions of the scan; None unless asked for.
        picture: PNG of three planes with contours.
        shape: For a fingerprint; None unless asked for.
    """

    format: str
    size_xyz: tuple[int, ...]
    spacing_mm_xyz: tuple[float, ...]
    orientation: str
    intensity: tuple[float, ...]
    volumes_ml: Mapping[str, float]
    voxel_hash: str
    organ_hashes: Mapping[str, str]
    identifiers: tuple[str, ...]
    cache_bytes: int
    study_voxels: int
    organ_box: tuple[float, ...] | None = None
    picture: bytes = b""
    shape: CaseShape | None = None

    @property
    def annotated(self) -> frozenset[str]:
        """The study's organs that are drawn."""
        return frozenset(self.volumes_ml)


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """One line of the check.

    Attributes:
        name: At the site; for its own screen alone.
        part: What it is for; None where the problem is the folder's.
        status: Whether it is used.
        problem: Why not, and what to do.
        notes: What is valid but seldom meant.
        measures: None where it cannot be read.
    """

    name: str
    part: Part | None
    status: Status
    problem: Problem | None = None
    notes: tuple[str, ...] = ()
    measures: Measures | None = field(default=None, repr=False)

    def refused(self, problem: Problem) -> CaseReport:
        return replace(self, status="refused", problem=problem)

    def noted(self, line: str) -> CaseReport:
        return replace(self, notes=(*self.notes, line)) if line else self


def inspect_case(
    case: Case,
    protocol: StudyProtocol,
    *,
    picture: bool = False,
    box: bool = False,
    shape: bool = False,
) -> CaseReport:
    """Read one case completely, as training would, and measure it.

    Args:
        case: Where it is and how it is read.
        protocol: The study.
        picture: Draw it.
        box: Find the organs' box on the study's grid, whose sum the centre gets.
        shape: Measure what a fingerprint is made of.
    """
    notes: list[str] = []
    read = partial(_measured, case, protocol, notes, picture=picture, box=box, shape=shape)
    measures = attempt(case, read)
    if isinstance(measures, ScanError):
        problem = measures.problem
        return CaseReport(name=case.name, part=case.part, status="refused", problem=problem)
    return CaseReport(
        name=case.name, part=case.part, status="used", notes=tuple(notes), measures=measures
    )


def _measured(
    case: Case,
    protocol: StudyProtocol,
    notes: list[str],
    *,
    picture: bool,
    box: bool,
    shape: bool,
) -> Measures:
    """What a case is like; what is valid but seldom meant is added to the notes.

    Raises:
        ScanError: It cannot be used.
    """
    scan = case.read_scan(notes.append)
    check_demands(case, scan, protocol.contract)
    label = case.read_label(scan, protocol.organs, notes.append) if case.label else None
    volumes_ml = _volumes_ml(case, label, protocol)
    if label is not None:
        notes += _absences(volumes_ml, notes)
    if unused := case.unused_structures(protocol.organs):
        notes.append(
            f"{len(unused)} of its label's structures left aside: no organ of the study, and not"
            " in `ignored_labels` of the site's file"
        )
    study_voxels = math.prod(study_size(scan, protocol.spacing_mm))
    sampled = _sampled(scan)
    body = body_mask(sampled)
    return Measures(
        format=_format(case),
        size_xyz=scan.GetSize(),
        spacing_mm_xyz=scan.GetSpacing(),
        orientation=_orientation(scan),
        intensity=_intensity(sampled[body]),
        volumes_ml=volumes_ml,
        voxel_hash=voxel_hash(scan),
        organ_hashes=case.organ_hashes(label, protocol.organs),
        identifiers=_identifiers(case),
        cache_bytes=entry_bytes(study_voxels, labelled=label is not None),
        study_voxels=study_voxels,
        organ_box=study_box(label, protocol) if box and label is not None else None,
        picture=_picture(scan, label, protocol) if picture else b"",
        shape=case_shape(scan, label, body, _drawn(volumes_ml, protocol)) if shape else None,
    )


def _drawn(volumes_ml: Mapping[str, float], protocol: StudyProtocol) -> dict[str, int]:
    return {organ: protocol.organs[organ] for organ in volumes_ml}


def _absences(volumes_ml: Mapping[str, float], notes: Sequence[str]) -> list[str]:
    """Lines on organs that count as drawn and are nowhere, unless the notes say so already."""
    if not any(volumes_ml.values()):
        return ["its label holds no organ at all; look whether it is finished"]
    return [
        f"its label holds no {organ}, which counts as drawn and absent; say by `undrawn` of the"
        " site's file where nobody drew it"
        for organ, volume_ml in volumes_ml.items()
        if not volume_ml and not any(line.startswith(f"{organ}: ") for line in notes)
    ]


def _identifiers(case: Case) -> tuple[str, ...]:
    series = case.series
    return series.identified if series else header_identifiers(case.image)


def _format(case: Case) -> str:
    if is_dicom(case.image):
        return "DICOM"
    name = case.image.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return "NIfTI"
    return "NRRD" if name.endswith((".nrrd", ".nhdr")) else "MetaImage"


def _orientation(scan: sitk.Image) -> str:
    direction = scan.GetDirection()
    axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    largest = np.abs(np.array(direction).reshape(3, 3)).max(0).min()
    tilt = math.degrees(math.acos(min(1.0, float(largest))))
    return f"{axes}, {tilt:.0f} degrees oblique" if tilt > _OBLIQUE_DEGREES else str(axes)


def _sampled(scan: sitk.Image) -> NDArray[np.float32]:
    """Every second voxel along each axis: percentiles, and the body's box, need no more."""
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(scan)[::2, ::2, ::2])


def _intensity(body: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(body, INTENSITY_PERCENTILES))


def _volumes_ml(case: Case, label: sitk.Image | None, protocol: StudyProtocol) -> dict[str, float]:
    if label is None:
        return {}
    counts = np.zeros(256, np.int64)
    for part in sitk.GetArrayViewFromImage(label):  # by slices: `bincount` widens what it is given
        counts += np.bincount(part.ravel(), minlength=256)
    voxel_ml = math.prod(label.GetSpacing()) / 1000
    drawn = case.annotated(protocol.organs)
    return {
        organ: float(counts[protocol.organs[organ]]) * voxel_ml
        for organ in protocol.organ_names
        if organ in drawn
    }


def _picture(scan: sitk.Image, label: sitk.Image | None, protocol: StudyProtocol) -> bytes:
    voxels, spacing_mm = upright_view(scan)
    contours = [] if label is None else [Contours(label_zyx=upright_view(label)[0])]
    picture = three_planes(
        voxels,
        spacing_mm,
        contours,
        protocol.organs,
        height_px=_PICTURE_PX,
    )
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
