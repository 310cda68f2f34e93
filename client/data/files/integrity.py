"""Checks that a scan's file is complete, before ITK reads it.

ITK cannot be trusted with this: SimpleITK 2.5 reads a NIfTI file that was cut short, a damaged
compressed MetaImage and some damaged compressed NRRD files without an exception, and returns
voxels that were never measured. An interrupted copy would then train a network.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from client.data.errors import ScanError
from client.data.files.nifti import (
    CHUNK,
    check_length,
    check_nifti_voxels,
    check_scaling,
    is_nifti,
    open_nifti,
)
from client.data.files.nifti_geometry import nifti_numbers, nifti_reading
from client.data.files.readings import Reading, check_axes
from client.data.files.text_header import TextHeader, read_text_header, text_reading
from client.data.notes import Note, unheard

_LARGEST_NUMBER = 1e30  # the NRRD library's squares of larger ones overflow, and become 1 mm
_SEVERAL_FILES = "its voxels are spread over several files; save it as one .mha or .nrrd file"
_MOST_DIMENSIONS = 10
_UNREAD = {"bzip2": "compressed by bzip2", "text": "written as text"}


def check_header(path: Path, *, location: str) -> None:
    """Raise where a file's header is none, its geometry no numbers, or its values in doubt.

    Voxels stay closed.

    Args and Raises as for `check_integrity`, the voxels left aside.
    """
    with _refusing_damage(location):
        if not path.stat().st_size:
            raise ScanError(
                location, "is cut short: it has 0 bytes; copy or export it again", rule="damaged"
            )
        if is_nifti(path):
            nifti = open_nifti(path, location=location)
            _check_numbers(nifti_numbers(nifti), location)
            check_scaling(nifti, location=location)
            return
        header = read_text_header(path)
        _check_dimensions(header, location)
        _check_numbers(header.numbers(), location)
        _check_encoding(header, location)
        _data_file(path, header, location)


def check_integrity(path: Path, *, location: str) -> None:
    """Raise where the bytes of a file are fewer than, or other than, its header promises.

    The length, the checksum of compressed voxels, and NaN or infinite voxels of NIfTI.

    Args:
        path: One file with a suffix of `IMAGE_IO`.
        location: How the message begins, e.g. `case 014: image 014.nii.gz`.

    Raises:
        ScanError: The file is cut short, damaged, lacks the file of its voxels, or holds NaN.
    """
    check_header(path, location=location)
    with _refusing_damage(location):
        if is_nifti(path):
            check_nifti_voxels(path, open_nifti(path, location=location), location=location)
            return
        header = read_text_header(path)
        data = _data_file(path, header, location)
        promised = header.promised_bytes()
        with (data or path).open("rb") as stream:
            stream.seek(0 if data else header.end)
            length = _length(stream, header, location)
        if length is not None and promised is not None:
            check_length(length, *promised, location=location)


def header_reading(path: Path, *, location: str, note: Note = unheard) -> Reading | None:
    """The geometry of a header, by a second reader beside ITK; None where it is not 3-D.

    Args:
        path: As for `check_integrity`; `check_header` has passed it.
        location: As for `check_integrity`.
        note: Called where the header does not place the image in the body.

    Raises:
        ScanError: The header says no geometry, several, or one of sheared or scaled axes.
    """
    with _refusing_damage(location):
        if is_nifti(path):
            nifti = open_nifti(path, location=location)
            reading = nifti_reading(nifti, location=location, note=note) if nifti.is_3d else None
        else:
            header = read_text_header(path)
            reading = text_reading(header, location=location, note=note) if header.is_3d else None
    if reading is not None:
        check_axes(reading, location=location)
    return reading


def data_file(path: Path, *, location: str) -> Path | None:
    """The file that holds the voxels of a .mhd or .nhdr header; None where there is none.

    Raises:
        ScanError: The header names several files, or one that is missing.
    """
    if path.suffix.lower() not in (".mhd", ".nhdr", ".mha", ".nrrd"):
        return None
    return _data_file(path, read_text_header(path), location)


def _data_file(path: Path, header: TextHeader, location: str) -> Path | None:
    named = header.data_file
    if not named:
        return None
    if named.upper().startswith("LIST") or "%" in named:
        raise ScanError(location, f": {_SEVERAL_FILES}", rule="format")
    data = path.parent / os.fsdecode(named.encode("latin-1"))  # bytes, as the file system has them
    if not data.is_file():
        raise ScanError(
            location,
            ": the file of its voxels is missing; copy both files together",
            rule="missing",
            detail=data.name,
        )
    return data


def _check_dimensions(header: TextHeader, location: str) -> None:
    """MetaIO writes beyond its memory at more than ten dimensions: the process would end."""
    count = header.fields.get("ndims", "3")
    known = count.isdecimal() and 1 <= int(count) <= _MOST_DIMENSIONS
    if not header.nrrd and (not known or "ndims" in header.doubled):
        raise ScanError(
            location,
            f"has NDims {count[:20]} in its header, must be 3; copy or export it again",
            rule="damaged",
        )


def _check_encoding(header: TextHeader, location: str) -> None:
    unread = {"bzip2"} if header.nrrd else {"text"}
    if header.encoding in unread:
        raise ScanError(
            location,
            f"has its voxels {_UNREAD[header.encoding]}, which is not read here; save it again,"
            " raw or compressed by gzip",
            rule="format",
        )


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


def _check_numbers(numbers: Iterable[float], location: str) -> None:
    """Raise where a header's number would be read as another one."""
    if any(not abs(number) <= _LARGEST_NUMBER for number in numbers):
        raise ScanError(
            location,
            "has a NaN, infinite or overflowing geometry in its header; export it again",
            rule="undefined",
        )


def _length(stream: BinaryIO, header: TextHeader, location: str) -> int | None:
    """Bytes of voxels from here on; None where others may be among them."""
    if header.encoding == "zlib":
        length, packed = _inflate(stream)
        said = header.fields.get("compresseddatasize", "0")
        # ITK inflates so many bytes, or the header too where it is not said; all in silence.
        least = 0 if header.data_file and said == "0" else packed
        if not said.isdecimal() or int(said) < least:
            raise ScanError(
                location,
                f"has CompressedDataSize {said} in its header, must be {packed}; save it again",
                rule="damaged",
            )
        return length
    if header.skips:
        return None
    if header.encoding == "gzip":
        with gzip.GzipFile(fileobj=stream) as unpacked:
            return sum(len(chunk) for chunk in iter(lambda: unpacked.read(CHUNK), b""))
    return os.fstat(stream.fileno()).st_size - stream.tell() if header.encoding == "raw" else None


def _inflate(stream: BinaryIO) -> tuple[int, int]:
    """Bytes that a stream inflates to, and those that it takes."""
    inflater = zlib.decompressobj(wbits=47)  # 47: zlib or gzip, as MetaIO accepts both
    length = taken = 0
    while not inflater.eof:
        chunk = stream.read(CHUNK)
        if not chunk:
            raise EOFError
        length += len(inflater.decompress(chunk))
        taken += len(chunk)
    return length, taken - len(inflater.unused_data)
