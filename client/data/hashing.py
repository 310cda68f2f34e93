"""Hashes of a scan: of the bytes of its files, and of what it shows."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from client.data.dicom.objects import dicom_files
from client.data.errors import NOT_THERE, ScanError
from client.data.files.integrity import data_file
from client.data.folder.entries import check_entry


def content_hash(path: Path, location: str = "") -> str:
    """SHA-256 of a file's bytes; changes whenever what is read from it may change.

    Of a DICOM folder: all its files in the order of their paths. Of a .mhd or .nhdr header: it and
    its voxels.

    Raises:
        ScanError: It is nothing that is read, as `check_entry` has it, or it or the file of its
            voxels cannot be opened.
    """
    location = location or f"scan {path.name}"
    check_entry(path, location)
    if path.is_dir():
        return hashlib.sha256("".join(map(_file_hash, dicom_files(path))).encode()).hexdigest()
    data = data_file(path, location=location)
    if data is None:
        return _file_hash(path)
    return hashlib.sha256((_file_hash(path) + _file_hash(data)).encode()).hexdigest()


def voxel_hash(image: sitk.Image) -> str:
    """SHA-256 of what a scan shows: voxels (as 32-bit floats), size and spacing (to 0.01 mm).

    The same for a copy that was compressed or converted. Origin and direction are left out:
    conversion and de-identification rewrite them, and the scan is still the same one.
    """
    digest = hashlib.sha256()
    digest.update(repr((image.GetSize(), [f"{mm:.2f}" for mm in image.GetSpacing()])).encode())
    for voxels in sitk.GetArrayViewFromImage(image):  # slice by slice: no copy of the whole
        digest.update(np.ascontiguousarray(voxels.astype("<f4") + np.float32(0)).data)  # no -0
    return digest.hexdigest()


def organ_hashes(label: sitk.Image, organs: Mapping[str, int]) -> dict[str, str]:
    """SHA-256 of where each organ is on the label's own grid, whatever it and the grid are called.

    The same in every study, under any name and number of the organ; "" where it is absent.
    """
    voxels = sitk.GetArrayViewFromImage(label)
    hashes = {}
    for organ, value in organs.items():
        mask = voxels == value
        packed = repr(mask.shape).encode() + np.packbits(mask).tobytes()
        hashes[organ] = hashlib.sha256(packed).hexdigest() if mask.any() else ""
    return hashes


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ScanError(f"scan {path.name}", NOT_THERE, rule="missing") from error
    except OSError as error:
        raise ScanError(
            f"scan {path.name}",
            f"cannot be opened: {error.strerror}; check its permissions",
            rule="closed",
        ) from error
