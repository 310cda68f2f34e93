"""Writing images so that a full disk is an error.

ITK's NIfTI writer returns without an error when the disk is full, and leaves a file that is cut
short.  So its bytes go through Python here, and other formats are read back.
"""

from __future__ import annotations

import errno
import gzip
import os
import struct
import uuid
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from client.data.errors import ScanError
from client.data.files.integrity import check_integrity
from client.data.files.nifti import clear_codes, is_nifti
from protocol.files import atomic_file

# nifti1.h: bytes before the voxels of a file of one part; where sizes and slope stand in them.
_HEADER, _SIZES_AT, _SLOPE_AT = 352, 42, 112
_LONGEST = 2**15 - 1
_STUB = 2  # voxels along each axis of the image whose header ITK writes
_PROBE = b"\0" * 2**20


def write_image(
    image: sitk.Image,
    path: Path,
    *,
    level: int = 6,
    slope: float | None = None,
    unplaced: bool = False,
) -> None:
    """Write an image of one channel; readers see the old file or the whole new one.

    Args:
        image: Of three dimensions.
        path: A .nii, .nii.gz, .mha or .nrrd file in a folder that exists.
        level: Of the compression of NIfTI, 1 to 9.
        slope: By which readers of a NIfTI file multiply its values; None: by nothing.
        unplaced: A NIfTI file gets no codes of its geometry, like the scan that it goes with.

    Raises:
        OSError: It cannot be written; `strerror` says why, a full disk among others.
        RuntimeError: ITK cannot write such an image.
    """
    with atomic_file(path) as draft:
        if not is_nifti(path):
            _write_by_itk(image, draft)
            return
        header = _nifti_header(image, draft)
        if slope is not None:
            header = header[:_SLOPE_AT] + struct.pack("=2f", slope, 0.0) + header[_SLOPE_AT + 8 :]
        voxels = np.ascontiguousarray(sitk.GetArrayViewFromImage(image)).data
        with draft.open("wb") as file:
            _write_parts(
                file, clear_codes(header) if unplaced else header, voxels, path.name, level
            )


def _write_parts(file: BinaryIO, header: bytes, voxels: memoryview, name: str, level: int) -> None:
    if not name.lower().endswith(".gz"):
        file.write(header)
        file.write(voxels)
        return
    # Neither a name nor a time in it: the same voxels make the same bytes.
    with gzip.GzipFile("", "wb", level, file, mtime=0) as packed:
        packed.write(header)
        packed.write(voxels)


def _nifti_header(image: sitk.Image, beside: Path) -> bytes:
    """As ITK writes it, which is the geometry's only author here; from a small image beside it."""
    if max(image.GetSize()) > _LONGEST:
        raise RuntimeError("NIfTI has no room for so many voxels along an axis")
    stub = sitk.Image([_STUB] * 3, image.GetPixelID())
    stub.SetSpacing(image.GetSpacing())
    stub.SetOrigin(image.GetOrigin())
    stub.SetDirection(image.GetDirection())
    file = beside.with_name(f".{uuid.uuid4().hex}.nii")
    try:
        _write_by_itk(stub, file)
        header = bytearray(file.read_bytes()[:_HEADER])
    finally:
        file.unlink(missing_ok=True)
    struct.pack_into("=3h", header, _SIZES_AT, *image.GetSize())
    return bytes(header)


def _write_by_itk(image: sitk.Image, path: Path) -> None:
    """Write, and read it back.

    Raises:
        OSError: Not every byte has arrived.
        RuntimeError: ITK cannot write such an image.
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        _raise_reason(path)
        raise
    try:
        check_integrity(path, location="image")
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        whole = np.array_equal(stored, sitk.GetArrayViewFromImage(image))
    except (RuntimeError, ScanError):
        whole = False
    if not whole:
        _raise_reason(path)
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def _raise_reason(path: Path) -> None:
    """Where a file could not be written, writing on says why, which ITK does not."""
    with path.open("ab") as file:
        file.write(_PROBE)
        file.flush()
        os.fsync(file.fileno())
