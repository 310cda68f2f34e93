"""Checks that a scan's file is complete, before ITK reads it.

ITK cannot be trusted with this: SimpleITK 2.5 reads a NIfTI file that was cut short, a damaged
compressed MetaImage and some damaged compressed NRRD files without an exception, and returns
voxels that were never measured. An interrupted copy would then train a network. NaN in a NIfTI
file is read as 0.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from client.data.errors import ScanError

_CHUNK = 1 << 16  # small, because 64 kB of a constant scan may inflate to 64 MB
_HEADER_LIMIT = 1 << 20  # bytes; a text header longer than this is none
_NIFTI_HEADER = 348  # bytes; NIfTI-2, of 540, is nothing that ITK reads
_NIFTI_FLOATS = {16: "f4", 64: "f8"}  # by NIfTI's code of the voxel type
# Header fields of MetaImage and NRRD that locate the voxels.
_GEOMETRY_FIELDS = (
    *("elementspacing", "elementsize", "transformmatrix", "rotation", "orientation"),
    *("offset", "position", "origin", "spacings", "space directions", "space origin"),
)
_LARGEST_NUMBER = 1e30  # the NRRD library's squares of larger ones overflow, and become 1 mm
_SEVERAL_FILES = "its voxels are spread over several files; save it as one .mha or .nrrd file"


def check_header(path: Path, *, location: str) -> None:
    """Raise where a file's header is none, or its geometry no numbers; voxels stay closed.

    Args and Raises as for `check_integrity`, the voxels left aside.
    """
    with _refusing_damage(location):
        if not path.stat().st_size:
            raise ScanError(
                location, "is cut short: it has 0 bytes; copy or export it again", rule="damaged"
            )
        if _is_nifti(path):
            _open_nifti(path, location)
            return
        fields, _ = _text_header(path)
        words = " ".join(fields.get(name, "") for name in _GEOMETRY_FIELDS)
        _check_geometry(map(_number, re.split(r"[\s(),]+", words)), location)
        data_file(path, location=location)


def check_integrity(path: Path, *, location: str) -> None:
    """Raise where the bytes of a file are fewer than, or other than, its header promises.

    NIfTI: the length, the checksum of a compressed file, and NaN or infinite voxels. MetaImage
    and NRRD: the checksum of compressed voxels (ITK itself checks the length of the others).

    Args:
        path: One file with a suffix of `IMAGE_IO`.
        location: How the message begins, e.g. `case 014: image 014.nii.gz`.

    Raises:
        ScanError: The file is cut short, damaged, lacks the file of its voxels, or holds NaN.
    """
    check_header(path, location=location)
    with _refusing_damage(location):
        if _is_nifti(path):
            _check_nifti_voxels(path, _open_nifti(path, location), location)
            return
        fields, start = _text_header(path)
        data = data_file(path, location=location)
        with (data or path).open("rb") as stream:
            stream.seek(0 if data else start)
            if fields.get("compresseddata", "").lower() == "true":
                _inflate(stream)
            elif fields.get("encoding") in ("gzip", "gz") and not _skips(fields):
                _gunzip(stream)


@contextmanager
def _refusing_damage(location: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise ScanError(
            location, "is cut short or damaged; copy or export it again", rule="damaged"
        ) from error
    except OSError as error:
        reason = error.strerror or "input or output error"
        raise ScanError(
            location, f"cannot be opened: {reason}; check its permissions", rule="closed"
        ) from error


def data_file(path: Path, *, location: str) -> Path | None:
    """The file that holds the voxels of a .mhd or .nhdr header; None where there is none.

    Raises:
        ScanError: The header names several files, or one that is missing.
    """
    if path.suffix.lower() not in (".mhd", ".nhdr", ".mha", ".nrrd"):
        return None
    fields, _ = _text_header(path)
    named = fields.get("elementdatafile") or fields.get("data file") or fields.get("datafile")
    if named is None or named.upper() == "LOCAL":
        return None
    if named.upper().startswith("LIST") or "%" in named:
        raise ScanError(location, f": {_SEVERAL_FILES}", rule="format")
    data = path.parent / named
    if not data.is_file():
        raise ScanError(
            location,
            ": the file of its voxels is missing; copy both files together",
            rule="missing",
            detail=data.name,
        )
    return data


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _open_nifti(path: Path, location: str) -> _NiftiLayout:
    """Where its voxels lie; refused where it is no single file, or its geometry no numbers."""
    compressed = path.name.lower().endswith(".gz")
    twin = path.with_suffix("") if compressed else path.with_name(path.name + ".gz")
    if twin.exists():
        # The NIfTI library would open one of the two by its own choice, and silently.
        raise ScanError(
            location,
            "stands beside a file of the same name; keep one of the two",
            rule="name",
            detail=twin.name,
        )
    with _nifti_stream(path) as stream:
        header = stream.read(_NIFTI_HEADER)
    layout = _nifti_layout(header)
    if layout is None:
        raise ScanError(
            location, "is not a single-file NIfTI-1 image; convert it to .nii.gz", rule="format"
        )
    _check_nifti_geometry(header, layout.byte_order, location)
    return layout


def _nifti_stream(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")


def _check_nifti_voxels(path: Path, layout: _NiftiLayout, location: str) -> None:
    length = undefined = 0
    with _nifti_stream(path) as stream:
        stream.seek(layout.offset)
        while chunk := stream.read(_CHUNK):
            if layout.floats is not None:
                # Looked for here because the NIfTI library turns them into zeros in silence.
                kept = chunk[: max(0, layout.length - length)]
                values = np.frombuffer(kept, layout.floats, len(kept) // layout.floats.itemsize)
                undefined += values.size - int(np.count_nonzero(np.isfinite(values)))
            length += len(chunk)
    if length < layout.length:
        raise ScanError(
            location,
            f"is cut short: {length} of {layout.length} bytes of voxels; copy or export it again",
            rule="damaged",
        )
    if undefined:
        raise ScanError(
            location,
            f"is NaN or infinite in {undefined} voxel(s); give them a value first",
            rule="undefined",
        )


@dataclass(frozen=True, kw_only=True)
class _NiftiLayout:
    """Where the voxels of a NIfTI file lie, in bytes; `floats` where they are floats."""

    byte_order: str
    offset: int
    length: int
    floats: np.dtype[np.floating] | None


def _nifti_layout(header: bytes) -> _NiftiLayout | None:
    """The layout by a header; None where this is no header of a single-file NIfTI-1 image.

    Source: nifti1.h, NIfTI Data Format Working Group.
    """
    for order in "<>":
        if len(header) < _NIFTI_HEADER or header[344:347] != b"n+1":
            break
        dim = struct.unpack_from(order + "8h", header, 40)
        kind, bits = struct.unpack_from(order + "2h", header, 70)
        (offset,) = struct.unpack_from(order + "f", header, 108)
        if 1 <= dim[0] <= 7 and min(dim[1 : dim[0] + 1]) > 0 and 0 <= offset < _HEADER_LIMIT:
            return _NiftiLayout(
                byte_order=order,
                offset=max(int(offset), _NIFTI_HEADER),
                length=math.prod(dim[1 : dim[0] + 1]) * bits // 8,
                floats=np.dtype(order + _NIFTI_FLOATS[kind]) if kind in _NIFTI_FLOATS else None,
            )
    return None


def _check_nifti_geometry(header: bytes, byte_order: str, location: str) -> None:
    """The NIfTI library reads NaN as 0 and a spacing of 0 as 1 mm, in silence."""
    spacing_mm = struct.unpack_from(byte_order + "3f", header, 80)
    by_quaternion, by_matrix = struct.unpack_from(byte_order + "2h", header, 252)
    used = [*spacing_mm]
    if by_quaternion > 0:
        used += struct.unpack_from(byte_order + "6f", header, 256)
    if by_matrix > 0:
        used += struct.unpack_from(byte_order + "12f", header, 280)
    _check_geometry(used, location)
    if 0 in spacing_mm:
        raise ScanError(
            location,
            f"has a voxel spacing of 0 mm, {spacing_mm}; export it again",
            rule="undefined",
        )


def _check_geometry(numbers: Iterable[float], location: str) -> None:
    """Raise where a header's number would be read as another one."""
    if any(not abs(number) <= _LARGEST_NUMBER for number in numbers):
        raise ScanError(
            location,
            "has a NaN, infinite or overflowing geometry in its header; export it again",
            rule="undefined",
        )


def _number(word: str) -> float:
    """0 for a word that is no number, such as `none`."""
    try:
        return float(word)
    except ValueError:
        return 0.0


def _text_header(path: Path) -> tuple[Mapping[str, str], int]:
    """Fields (names in lower case) of a MetaImage or NRRD header, and where its voxels begin."""
    separator = ":" if path.suffix.lower() in (".nrrd", ".nhdr") else "="
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < _HEADER_LIMIT and (line := stream.readline(_CHUNK)):
            text = line.decode("latin-1").strip()
            if separator == ":" and not text:
                break
            name, delimiter, value = text.partition(separator)
            if delimiter:
                fields[name.strip().lower()] = value.strip()
            if name.strip().lower() == "elementdatafile":
                break
        return fields, stream.tell()


def _skips(fields: Mapping[str, str]) -> bool:
    return any(fields.get(name, "0") != "0" for name in ("line skip", "byte skip"))


def _gunzip(stream: BinaryIO) -> None:
    with gzip.GzipFile(fileobj=stream) as unpacked:
        while unpacked.read(_CHUNK):
            pass


def _inflate(stream: BinaryIO) -> None:
    inflater = zlib.decompressobj(wbits=47)  # 47: zlib or gzip, as MetaIO accepts both
    while not inflater.eof:
        chunk = stream.read(_CHUNK)
        if not chunk:
            raise EOFError
        inflater.decompress(chunk)
