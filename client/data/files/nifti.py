"""The bytes of a NIfTI-1 file: whether it is one, where its voxels lie, and whether all are there.

ITK cannot be trusted with this: it reads a file that was cut short without an exception, and NaN
as 0.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from nibabel.nifti1 import data_type_codes

from client.data.errors import ScanError

CHUNK = 1 << 16  # small, because 64 kB of a constant scan may inflate to 64 MB
_HEADER = 348  # bytes; NIfTI-2, of 540, is nothing that ITK reads
_FIRST_VOXEL = 352
_OFFSET_LIMIT = 1 << 20  # bytes of header and extensions
_SCALE_AT = 112  # scl_slope and scl_inter, 4 bytes each
_NO_SCALE = float(np.finfo(np.float64).eps)  # below it ITK takes a slope or an intercept for none
_FLOATS = {16: "f4", 64: "f8"}  # by NIfTI's code of the voxel type
_CODES_AT = 252  # qform_code and sform_code, 2 bytes each
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class NiftiFile:
    """What stands in front of the voxels.

    Attributes:
        header: Its 348 bytes.
        byte_order: `<` or `>`.
        offset: Where the voxels begin, in bytes.
        length: Bytes of voxels that the header promises.
        slices: Along the last of three axes.
        floats: Their type, where they are floats.
    """

    header: bytes
    byte_order: str
    offset: int
    length: int
    slices: int
    floats: np.dtype[np.floating] | None

    @property
    def is_3d(self) -> bool:
        """Whether it has three dimensions, and no more than 1 along others."""
        count, *sizes = struct.unpack_from(self.byte_order + "8h", self.header, 40)
        return bool(count >= 3 and max(sizes[3:count], default=1) == 1)


def is_nifti(path: Path) -> bool:
    """Whether a file's name says that it is NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(path: Path, *, location: str) -> NiftiFile:
    """Read a file's header; its voxels stay closed.

    Raises:
        ScanError: It is no single-file NIfTI-1 image, is compressed unlike its name says, or
            stands beside a file of the same name.
        OSError, EOFError, zlib.error: It cannot be opened or inflated.
    """
    packed = _named_packed(path)
    twin = path.with_suffix("") if packed else path.with_name(path.name + ".gz")
    if twin.exists():
        # The NIfTI library would open one of the two by its own choice, and silently.
        raise ScanError(
            location,
            "stands beside a file of the same name; keep one of the two",
            rule="name",
            detail=twin.name,
        )
    with path.open("rb") as plain:
        begin = plain.read(_HEADER)
    if not packed and begin.startswith(_GZIP):
        raise ScanError(location, "is compressed, unlike its name; name it .nii.gz", rule="format")
    if packed and _parsed(begin) is not None:
        raise ScanError(location, "is not compressed, unlike its name; name it .nii", rule="format")
    with _stream(path) as stream:
        parsed = _parsed(stream.read(_HEADER))
    if parsed is None:
        raise ScanError(
            location, "is not a single-file NIfTI-1 image; convert it to .nii.gz", rule="format"
        )
    if parsed.offset < _FIRST_VOXEL:
        raise ScanError(
            location,
            f"says that its voxels begin at byte {parsed.offset}, must be {_FIRST_VOXEL} or more:"
            " readers begin at different ones; save it again",
            rule="format",
        )
    return parsed


def clear_codes(content: bytes) -> bytes:
    """A NIfTI file of little-endian bytes, its form codes set to 0: placed by voxel sizes alone."""
    return content[:_CODES_AT] + bytes(4) + content[_CODES_AT + 4 :]


def check_scaling(file: NiftiFile, *, location: str) -> None:
    """Raise where two readers make different values of the voxels.

    A slope of 0, NaN or infinity means that the voxels are the values; ITK adds the intercept all
    the same, so that one organ of a label map becomes the next.  Source: nifti1.h, and the code of
    ITK 5.4 and nibabel 5.

    Raises:
        ScanError: ITK and nibabel do.
    """
    slope, inter = struct.unpack_from(file.byte_order + "2f", file.header, _SCALE_AT)
    by_itk = _of_voxels(*_by_itk(slope, inter))
    if slope == 0 or not math.isfinite(slope):
        by_nibabel = _of_voxels(1, 0)
    elif not math.isfinite(inter):
        by_nibabel = "none"
    else:
        by_nibabel = _of_voxels(slope, inter if abs(inter) > _NO_SCALE else 0)
    if by_itk != by_nibabel:
        raise ScanError(
            location,
            f"says two values of a voxel: with scl_slope {slope:g} and scl_inter {inter:g} it is"
            f" {by_itk} to ITK, {by_nibabel} to nibabel; write the right ones, 1 and 0 where the"
            " voxels are the values, or export it again",
            rule="undefined",
        )


def _by_itk(slope: float, inter: float) -> tuple[float, float]:
    """Slope and intercept that ITK uses; its library makes 0 of what is not finite."""
    slope, inter = (number if math.isfinite(number) else 0.0 for number in (slope, inter))
    if abs(inter) <= _NO_SCALE:
        inter = 0.0
    return slope if abs(slope) > _NO_SCALE else 1.0, inter


def _of_voxels(slope: float, inter: float) -> str:
    """What is stored as v."""
    product = "v" if slope == 1 else f"{slope:g} v"
    return f"{product} {'-' if inter < 0 else '+'} {abs(inter):g}" if inter else product


def check_nifti_voxels(path: Path, file: NiftiFile, *, location: str) -> None:
    """Raise where voxels are missing, NaN or infinite.

    Raises:
        ScanError: They are.
        OSError, EOFError, zlib.error: The file is damaged inside.
    """
    length = undefined = 0
    with _stream(path) as stream:
        stream.seek(file.offset)
        while chunk := stream.read(CHUNK):
            if file.floats is not None:
                # Looked for here because the NIfTI library turns them into zeros in silence.
                kept = chunk[: max(0, file.length - length)]
                values = np.frombuffer(kept, file.floats, len(kept) // file.floats.itemsize)
                undefined += values.size - int(np.count_nonzero(np.isfinite(values)))
            length += len(chunk)
    check_length(length, file.length, file.length // file.slices, location=location)
    if undefined:
        raise ScanError(
            location,
            f"is NaN or infinite in {undefined} voxel(s); give them a value first",
            rule="undefined",
        )


def check_length(length: int, promised: int, per_slice: int, *, location: str) -> None:
    """Raise where a file holds fewer bytes of voxels than promised, or a slice more.

    Raises:
        ScanError: It does.
    """
    if length < promised:
        raise ScanError(
            location,
            f"is cut short: {length} of {promised} bytes of voxels; copy or export it again",
            rule="damaged",
        )
    if length >= promised + max(1, per_slice):
        raise ScanError(
            location,
            f"holds {length} bytes of voxels, its header says {promised}: size or type of voxels"
            " are not those of the header; export it again",
            rule="damaged",
        )


def _named_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _stream(path: Path) -> BinaryIO:
    if _named_packed(path):
        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")


def _parsed(header: bytes) -> NiftiFile | None:
    """A header; None where this is none of a single-file NIfTI-1 image.

    Source: nifti1.h, NIfTI Data Format Working Group.
    """
    for order in "<>":
        if len(header) < _HEADER or header[344:347] != b"n+1":
            break
        dim = struct.unpack_from(order + "8h", header, 40)
        kind, bits = struct.unpack_from(order + "2h", header, 70)
        if kind in data_type_codes.code:  # which ITK goes by; bits may be others
            bits = 8 * data_type_codes.dtype[kind].itemsize
        (offset,) = struct.unpack_from(order + "f", header, 108)
        if 1 <= dim[0] <= 7 and min(dim[1 : dim[0] + 1]) > 0 and 0 <= offset < _OFFSET_LIMIT:
            return NiftiFile(
                header=header,
                byte_order=order,
                offset=int(offset),
                length=math.prod(dim[1 : dim[0] + 1]) * bits // 8,
                slices=dim[3] if dim[0] >= 3 else 1,
                floats=np.dtype(order + _FLOATS[kind]) if kind in _FLOATS else None,
            )
    return None
