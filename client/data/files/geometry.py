"""The grid of an image, and checks whether two images lie on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.geometry import format_numbers
from client.data.errors import ScanError

FORM_CODES = ("qform_code", "sform_code")  # ITK's keys of NIfTI's form codes
_PATIENT_AXES = ("LR", "PA", "SI")
_SAME_MM = 1e-3
_SAME_COSINE = 3e-4
# Of MR and CT of people: from ex-vivo microscopy to the gaps of a localiser, from a crop of a
# cochlea to a whole body on its table.
_VOXEL_MM = (0.01, 50.0)
_LONGEST_EDGE_MM = (5.0, 3000.0)
_FARTHEST_M = 10.0  # of the first voxel, from where the scanner's or an atlas's coordinates begin


@dataclass(frozen=True, kw_only=True)
class ImageGrid:
    """Where an image lies, as SimpleITK has it (LPS), from its header alone.

    Attributes:
        size_xyz: In voxels.
        spacing_mm_xyz: From voxel to voxel.
        origin_mm: Centre of the first voxel.
        direction: Nine cosines; columns are the axes of the image.
    """

    size_xyz: tuple[int, ...]
    spacing_mm_xyz: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image, size_xyz: Sequence[int]) -> ImageGrid:
        """The grid of an image that stands for one of this size."""
        return cls(
            size_xyz=tuple(size_xyz),
            spacing_mm_xyz=image.GetSpacing(),
            origin_mm=image.GetOrigin(),
            direction=image.GetDirection(),
        )


def same_grid_error(label: sitk.Image, image: sitk.Image) -> str | None:
    """The first difference of two grids, for a message; None where they count as equal.

    Equal: the same size, spacing and origin to 1e-3 mm, direction cosines to 3e-4.  The last is
    wide enough for NIfTI, whose 32-bit quaternion turns a grid by up to 2e-4 (seen in public
    masks of one scan), which is harmless: a tenth of a voxel at the corners of 200 mm.
    """
    for what, unit, tolerance, of_label, of_image in (
        ("size", "", 0.0, label.GetSize(), image.GetSize()),
        ("spacing", " mm", _SAME_MM, label.GetSpacing(), image.GetSpacing()),
        ("origin", " mm", _SAME_MM, label.GetOrigin(), image.GetOrigin()),
        ("direction cosines", "", _SAME_COSINE, label.GetDirection(), image.GetDirection()),
    ):
        if not np.allclose(of_label, of_image, rtol=0, atol=tolerance):
            return (
                f"{what} {format_numbers(of_label)}{unit} against {format_numbers(of_image)}{unit}"
            )
    return None


def check_plausible(grid: ImageGrid, *, location: str, whole: bool = True) -> None:
    """Raise where no scan of a person is so small or so large; most often its unit is not mm.

    Args:
        grid: Of a scan or a label map.
        location: How a message begins.
        whole: A scan; a label map may be the box around an organ alone.

    Raises:
        ScanError: A voxel's edge is not from 0.01 to 50 mm, or the longest edge of the scan not
            from 5 mm to 3 m, or it lies over 10 m away.
    """
    farthest_m = max(map(abs, grid.origin_mm)) / 1000
    if farthest_m > _FARTHEST_M:
        raise ScanError(
            location,
            f"has its first voxel {farthest_m:.4g} m away from where its coordinates begin, a scan"
            f" of a person {_FARTHEST_M:g} m at most; correct its origin, or export it again",
            rule="geometry",
        )
    low, high = _VOXEL_MM
    if not all(low <= mm <= high for mm in grid.spacing_mm_xyz):
        raise ScanError(
            location,
            f"has voxels of {format_numbers(grid.spacing_mm_xyz)} mm, a scan of a person has edges"
            f" of {low:g} to {high:g} mm; write millimetres",
            rule="geometry",
        )
    edges_mm = [n * mm for n, mm in zip(grid.size_xyz, grid.spacing_mm_xyz, strict=True)]
    low, high = _LONGEST_EDGE_MM
    if whole and not low <= max(edges_mm) <= high:
        raise ScanError(
            location,
            f"has a field of view of {format_numbers(edges_mm)} mm, the longest edge of a scan of a"
            f" person is {low:g} to {high:g} mm; write millimetres",
            rule="geometry",
        )


def unplaced(scan: sitk.Image) -> bool:
    """Whether a scan or label, as `image_io` reads it, is NIfTI without quaternion and matrix.

    Readers then place it as they like, and what is made of it lies on it in all of them only if it
    is written without them too.
    """
    return all(scan.HasMetaDataKey(key) and scan.GetMetaData(key) == "0" for key in FORM_CODES)


def put_on_grid(label: sitk.Image, image: sitk.Image, *, location: str) -> None:
    """Give a label map exactly the geometry of its image, from which it may differ by rounding.

    Raises:
        ScanError: Its grid is another one.
    """
    difference = same_grid_error(label, image)
    if difference is not None:
        hint = "resample it with nearest neighbour"
        if unplaced(label) != unplaced(image):  # resampled, it would lie elsewhere
            hint = "one of the two has form codes of 0, and no certain place; export both again"
        elif (axes := _turned_axes(label, image)) is not None:
            hint = (
                f"it is where {axes} point the other way, so that one of the two headers names the"
                " wrong space (LPS, RAS, LAS); correct it, and do not resample"
            )
        raise ScanError(
            location,
            f"is not on the image grid: {difference}; {hint}",
            rule="grid",
        )
    label.CopyInformation(image)


def _turned_axes(label: sitk.Image, image: sitk.Image) -> str | None:
    """Axes of the patient that, turned about in the label's header, put it on the image's grid."""
    for signs, axes in (((-1, -1, 1), "x and y"), ((-1, 1, 1), "x"), ((1, -1, 1), "y")):
        turned = sitk.Image([1, 1, 1], sitk.sitkUInt8)
        turned.CopyInformation(label[:1, :1, :1])
        turned.SetOrigin([s * mm for s, mm in zip(signs, label.GetOrigin(), strict=True)])
        rows = np.reshape(label.GetDirection(), (3, 3)) * np.array(signs)[:, None]
        turned.SetDirection(rows.ravel().tolist())
        if label.GetSize() == image.GetSize() and not same_grid_error(turned, image[:1, :1, :1]):
            return axes
    return None


def axes_along_patient(direction: Sequence[float]) -> list[int]:
    """The image's axis along each of the patient's, x, y, z (LPS), each once however oblique.

    As `SimpleITK.DICOMOrient` has them.  The largest cosine of each axis will not do: of a scan
    between two planes, as hearts are, two axes may have it along the same one of the patient.
    """
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(list(direction))
    return [next(i for i, letter in enumerate(letters) if letter in pair) for pair in _PATIENT_AXES]


def upright_view(image: sitk.Image) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Voxels with their axes turned to LPS, (Z, Y, X), and the spacing (x, y, z) in mm.

    As `SimpleITK.DICOMOrient` has it, but a view: no scan is held twice for a picture.
    """
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    # And whether each runs against the patient's.
    axes = axes_along_patient(image.GetDirection())
    against = [letters[axis] == pair[1] for axis, pair in zip(axes, _PATIENT_AXES, strict=True)]
    voxels_zyx = sitk.GetArrayViewFromImage(image)
    turned = voxels_zyx.transpose([2 - axis for axis in reversed(axes)])
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in reversed(against))
    return turned[steps], tuple(image.GetSpacing()[axis] for axis in axes)
