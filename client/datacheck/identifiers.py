"""Finds header fields that may identify the patient; their contents are never repeated."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import SimpleITK as sitk

# Free text of a NIfTI-1 header: offset and length in bytes (nifti1.h, NIfTI Data Format WG).
_NIFTI_TEXTS = {"db_name": (14, 18), "descrip": (148, 80), "aux_file": (228, 24)}
_NIFTI_HEADER = 348
_EXTENDER = 4
# Words of MetaImage and NRRD keys; ITK writes DICOM's tags there when it converts.
_TELLING = ("patient", "birth", "accession", "institution", "physician", "operator", "study_id")
_TELLING_GROUPS = ("0010|", "0008|0050", "0008|0080", "0008|0090", "0008|1070", "0020|0010")


def header_identifiers(path: Path) -> tuple[str, ...]:
    """Names of the fields that hold something and may identify; of a file that is no DICOM.

    Args:
        path: A NIfTI, MetaImage or NRRD file that can be read.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return _nifti(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    keys = (key for key in reader.GetMetaDataKeys() if reader.GetMetaData(key).strip())
    return tuple(sorted(key for key in keys if _may_identify(key)))


def _may_identify(key: str) -> bool:
    small = key.lower()
    return any(word in small for word in _TELLING) or small.startswith(_TELLING_GROUPS)


def _nifti(path: Path) -> tuple[str, ...]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as stream:
        header = stream.read(_NIFTI_HEADER + _EXTENDER)
    fields = [
        name
        for name, (start, length) in _NIFTI_TEXTS.items()
        if header[start : start + length].split(b"\0", 1)[0].strip()
    ]
    # Header extensions may contain DICOM headers or comments.
    if len(header) > _NIFTI_HEADER and struct.unpack_from("B", header, _NIFTI_HEADER)[0]:
        fields.append("header extension")
    return tuple(fields)
