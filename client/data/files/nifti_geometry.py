"""The geometry of a NIfTI header as nibabel has it, beside which ITK's is checked.

A NIfTI header says its geometry up to three times: voxel sizes (pixdim), a quaternion (qform) and a
matrix (sform).  ITK takes the spacing of the first, the axes of the last that it can use, and says
nothing where they contradict each other; nibabel takes the matrix alone, other readers the
quaternion.  A scan is used where all say the same.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from asdnet_models.geometry import format_numbers
from client.data.errors import ScanError
from client.data.files.nifti import NiftiFile
from client.data.files.readings import CONTRADICTION, Reading, check_axes, check_same
from client.data.notes import Note

_CODES = range(6)  # 5 (template) since 2020
_UNITS = {1: "metre", 3: "micrometre"}  # by the three low bits of xyzt_units
_TO_LPS = np.diag([-1.0, -1.0, 1.0])
# SPM and others write where a scan was moved to into the matrix (code 2 and above), and leave the
# quaternion as the scanner had it (code 1).
_ALIGNED = (
    "if it was aligned on purpose (as by SPM's Coregister), set qform_code to 0 or copy sform into"
    " qform, in image and label alike; else set both to the right one, or export it again"
)
_UNPLACED = (
    "is placed by its voxel sizes alone, as its form codes are 0: which side is left or front is"
    " not known"
)


def nifti_numbers(file: NiftiFile) -> tuple[float, ...]:
    """The numbers of the header that place the voxels."""
    order, header = file.byte_order, file.header
    used: tuple[float, ...] = struct.unpack_from(order + "3f", header, 80)
    by_quaternion, by_matrix = struct.unpack_from(order + "2h", header, 252)
    if by_quaternion > 0:
        used += struct.unpack_from(order + "6f", header, 256)
    if by_matrix > 0:
        used += struct.unpack_from(order + "12f", header, 280)
    return used


def nifti_reading(file: NiftiFile, *, location: str, note: Note) -> Reading:
    """The one geometry of a header.

    Raises:
        ScanError: Its voxel sizes, quaternion and matrix are no geometry, or not the same one.
    """
    header = Nifti1Header(file.header, endianness=file.byte_order, check=False)
    _check_fields(header, location)
    sizes = Reading(
        source="its voxel sizes (pixdim)", spacing_mm_xyz=header["pixdim"][1:4].astype(float)
    )
    matrix, _ = header.get_sform(coded=True)
    if matrix is not None:
        check_axes(found := _placed(matrix, "its matrix (sform)"), location=location)
        check_same(found, sizes, location=location)
    quaternion = _quaternion(header, location)
    if quaternion is not None:
        if matrix is None:
            return quaternion
        aligned = int(header["qform_code"]) == 1 and int(header["sform_code"]) > 1
        check_same(
            found, quaternion, location=location, remedy=_ALIGNED if aligned else CONTRADICTION
        )
    if matrix is not None:
        return found
    note(_UNPLACED)
    return sizes


def _check_fields(header: Nifti1Header, location: str) -> None:
    sizes = header["pixdim"][1:4]
    if not np.all(sizes > 0):
        found = format_numbers(sizes)
        matrix, _ = header.get_sform(coded=True)
        lengths = None if matrix is None else np.linalg.norm(matrix[:3, :3], axis=0)
        beside = "" if lengths is None else f", of {format_numbers(lengths)} mm by its matrix"
        raise ScanError(
            location,
            f"has voxels of {found} mm by its voxel sizes (pixdim){beside}, must be above 0; export"
            " it again",
            rule="geometry",
        )
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit is not None:
        factor = {"metre": 1e3, "micrometre": 1e-3}[unit]
        raise ScanError(
            location,
            f"has the {unit} as its unit (xyzt_units), which some readers heed and others do not:"
            f" voxels of {format_numbers(sizes * factor)} or {format_numbers(sizes)} mm; write"
            " millimetres",
            rule="geometry",
        )
    for name in ("qform_code", "sform_code"):
        if int(header[name]) not in _CODES:
            raise ScanError(
                location,
                f"has the {name} {int(header[name])}, must be 0 to 5: readers take it or leave it;"
                " export it again",
                rule="geometry",
            )


def _quaternion(header: Nifti1Header, location: str) -> Reading | None:
    if int(header["qform_code"]) == 0:
        return None
    handedness = float(header["pixdim"][0])
    if handedness not in (-1, 0, 1):
        raise ScanError(
            location,
            f"has the handedness {handedness:g} (qfac, pixdim[0]), must be 1 or -1; export it"
            " again",
            rule="geometry",
        )
    header["pixdim"][0] = handedness or 1  # nifti1.h: 0 is 1
    try:
        affine, _ = header.get_qform(coded=True)
    except (ValueError, HeaderDataError) as error:
        length = np.linalg.norm([float(header[f"quatern_{part}"]) for part in "bcd"])
        raise ScanError(
            location,
            f"has a quaternion (qform) of length {length:.4g}, must be 1 at most: it is no"
            " rotation; export it again",
            rule="geometry",
        ) from error
    return _placed(affine, "its quaternion (qform)")


def _placed(affine: NDArray[Any], source: str) -> Reading:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        direction = np.where(lengths > 0, affine[:3, :3] / lengths, 0.0)
    return Reading(
        source=source,
        spacing_mm_xyz=lengths,
        direction=_TO_LPS @ direction,
        origin_mm=_TO_LPS @ affine[:3, 3],
    )
