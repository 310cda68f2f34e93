"""Series to draw segmentations on, as a scan and where it is from."""

import os
import shutil
from pathlib import Path

import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.dicom.series import DicomSeries, find_series, read_series

ORGANS = {"bladder": 1, "prostate": 2, "rectum": 7}
SHAPE = (5, 14, 18)
ORDER = [3, 0, 4, 1, 2]
real = pytest.mark.skipif("ASDNET_REAL_DATA" not in os.environ, reason="ASDNET_REAL_DATA not set")
validator = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy not installed")
Case = tuple[sitk.Image, DicomSeries]


def case_of(folder: Path, made: ph.Phantom, *, multiframe: bool = False) -> Case:
    if multiframe:
        ph.write_enhanced(folder / "scan" / "a", made, order=ORDER)
    else:
        ph.write_classic(folder / "scan", made)
    series = find_series(folder / "scan", location="case 1")
    return read_series(series, location="case 1"), series


def real_gland() -> tuple[sitk.Image, DicomSeries, NDArray[np.uint8]]:
    """A patient's scan, and the gland on it, (Z, Y, X)."""
    folder = Path(os.environ["ASDNET_REAL_DATA"]) / "prostatex"
    series = find_series(folder / "dicom_t2w", location="case 1")
    image = read_series(series, location="case 1")
    gland = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "gland_AI_Bosma22b.nii.gz")))
    return image, series, gland.astype(np.uint8)
