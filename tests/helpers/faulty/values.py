"""Voxels of two values, of none that 32-bit floats tell apart, and label maps in a scan's place."""

import gzip
import struct
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from bad_cases import SHAPE, Place, on_grid, organs, save
from numpy.typing import NDArray

from . import Faulty
from .geometry import VOLUMES_ML

Array = NDArray[Any]
NAN = float("nan")
PLACED = np.array([[-0.5, 0, 0, 10], [0, -0.7, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def voxels() -> NDArray[np.uint16]:
    """Of scans that are refused: the same whatever other inputs there are, as is their row."""
    return np.random.default_rng(14).integers(1, 900, SHAPE).astype(np.uint16)


def scaled(slope: float, inter: float, *, label: bool = False) -> Callable[[Place], None]:
    """Slope and intercept put into the header of a scan, or of its label map."""

    def make(place: Place) -> None:
        save(place.scan() if label else on_grid(voxels()), place.image(".nii.gz"))
        save(on_grid(organs()), place.label(".nii.gz"))
        path = (place.label if label else place.image)(".nii.gz")
        content = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<2f", content, 112, slope, inter)
        path.write_bytes(gzip.compress(content))

    return make


def by_nibabel(*, label: bool = False) -> Callable[[Place], str]:
    def truth(place: Place) -> str:
        path = (place.label if label else place.image)(".nii.gz")
        slope, inter = struct.unpack_from("<2f", gzip.decompress(path.read_bytes()), 112)
        told = f"nibabel: scl_slope {slope:g}, scl_inter {inter:g}"
        try:
            values = np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
        except nib.spatialimages.HeaderDataError as error:
            return f"{told}: {error}"
        return f"{told}: values {values.min():g} to {values.max():g}"

    return truth


def wide(change: Callable[[Array], Array]) -> Callable[[Place], None]:
    """A scan of 64-bit numbers beside a good label."""

    def make(place: Place) -> None:
        values = change(voxels().transpose())
        image = nib.Nifti1Image(values, PLACED, dtype=values.dtype)
        image.set_qform(PLACED, 1)
        nib.save(image, place.image(".nii.gz"))
        place.good_label()

    return make


def wide_by_nibabel(place: Place) -> str:
    values = np.asarray(nib.load(place.image(".nii.gz")).dataobj)  # type: ignore[attr-defined]
    distinct = np.unique(values).size
    return f"nibabel: {values.dtype}, {distinct} values of {values.min():g} to {values.max():g}"


def label_twice(place: Place) -> None:
    save(on_grid(organs()), place.image(".nii.gz"))
    place.good_label()


def no_prostate(place: Place) -> None:
    save(place.scan(), place.image(".nii.gz"))
    save(on_grid((organs() == 1).astype(np.uint8)), place.label(".nii.gz"))


def label_by_nibabel(place: Place) -> str:
    values = np.asarray(nib.load(place.label(".nii.gz")).dataobj)  # type: ignore[attr-defined]
    return f"nibabel: the label map holds {', '.join(map(str, np.unique(values)))}"


def mask_in_pool(place: Place) -> None:
    save(on_grid((organs() > 0).astype(np.uint8)), place.image(".nii.gz", "Un"))


def by_values(part: str) -> Callable[[Place], str]:
    def truth(place: Place) -> str:
        values = np.asarray(nib.load(place.image(".nii.gz", part)).dataobj)  # type: ignore[attr-defined]
        return f"nibabel: the scan holds {', '.join(map(str, np.unique(values)))}"

    return truth


def far_away(place: Place) -> None:
    for image, path in ((place.scan(), place.image()), (on_grid(organs()), place.label())):
        image.SetOrigin((1e6, 20.0, 5.0))
        save(image, path)


def by_simpleitk(place: Place) -> str:
    return f"SimpleITK: origin {sitk.ReadImage(str(place.image())).GetOrigin()} mm"


INPUTS = {
    "values_label_shifted": Faulty(
        kind="14",
        what="NIfTI label map of slope 0 and intercept 1",
        make=scaled(0, 1, label=True),
        truth=by_nibabel(label=True),
        rule="undefined",
        said="says two values of a voxel: with scl_slope 0 and scl_inter 1 it is v + 1 to ITK, v to"
        " nibabel",
    ),
    "values_scan_shifted": Faulty(
        kind="14",
        what="NIfTI scan of slope 0 and intercept 5",
        make=scaled(0, 5),
        truth=by_nibabel(),
        rule="undefined",
        said="it is v + 5 to ITK, v to nibabel",
    ),
    "values_no_intercept": Faulty(
        kind="14",
        what="NIfTI scan of slope 2, its intercept NaN",
        make=scaled(2, NAN),
        truth=by_nibabel(),
        rule="undefined",
        said="it is 2 v to ITK, none to nibabel",
    ),
    "values_slope_nan": Faulty(
        kind="14",
        what="NIfTI label map of slope NaN and intercept 1",
        make=scaled(NAN, 1, label=True),
        truth=by_nibabel(label=True),
        rule="undefined",
        said="it is v + 1 to ITK, v to nibabel",
    ),
    "values_unscaled": Faulty(
        kind="14",
        what="NIfTI label map of slope and intercept NaN, by which nothing is scaled",
        make=scaled(NAN, NAN, label=True),
        truth=by_nibabel(label=True),
        rule="",
        said="",
        volumes_ml=VOLUMES_ML,
    ),
    "values_above_2_40": Faulty(
        kind="14",
        what="scan of 64-bit integers about 2^40",
        make=wide(lambda v: v.astype(np.int64) + 2**40),
        truth=wide_by_nibabel,
        rule="undefined",
        said="which 32-bit floats do not tell apart; scale them, or subtract what they share",
    ),
    "values_tiny": Faulty(
        kind="14",
        what="scan of 64-bit floats about 1e-58",
        make=wide(lambda v: v * 1e-60),
        truth=wide_by_nibabel,
        rule="undefined",
        said="which 32-bit floats do not tell apart",
    ),
    "values_huge": Faulty(
        kind="14",
        what="scan of 64-bit floats about 1e300",
        make=wide(lambda v: v * 1e298),
        truth=wide_by_nibabel,
        rule="undefined",
        said="which 32-bit floats do not tell apart",
    ),
    "values_label_as_scan": Faulty(
        kind="14",
        what="the label map in the place of its scan too",
        make=label_twice,
        truth=by_values("Tr"),
        rule="values",
        said="is its own label map, value by value; put the scan in its place",
    ),
    "values_mask_in_pool": Faulty(
        kind="14",
        what="a label map among the unlabelled scans",
        make=mask_in_pool,
        truth=by_values("Un"),
        rule="",
        said="its scan holds 2 values alone; look whether it is a label map",
    ),
    "values_no_prostate": Faulty(
        kind="6",
        what="label map that holds no prostate",
        make=no_prostate,
        truth=label_by_nibabel,
        rule="",
        said="its label holds no prostate, which counts as drawn and absent; say by `undrawn`"
        " of the site's file where nobody drew it",
        volumes_ml={"bladder": VOLUMES_ML["bladder"], "prostate": 0.0},
    ),
    "values_far_away": Faulty(
        kind="1b",
        what="scan 1 km away",
        make=far_away,
        truth=by_simpleitk,
        rule="geometry",
        said="has its first voxel 1000 m away from where its coordinates begin",
    ),
}
