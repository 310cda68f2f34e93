"""Resamples and normalises scans to the study's grid, and maps predictions back.

Orientation LPS, the study's spacing, body mask, percentile clip, z-score (method: Nie et al. 2018
resample to 1 mm; the body mask is ours, because the share of air differs by field of view).
"""

import math
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.geometry import usable_geometry

# Raise this whenever an array that this module makes would change: it is part of the cache's key.
PREPROCESSING_VERSION = 1

_CLIP_PERCENTILES = (1.0, 99.5)
_BODY_FRACTION = 0.1
_LEAST_BODY = 0.05
_SAME_MM = 1e-3
_PART = 1 << 16  # voxels

Triple = tuple[float, float, float]


def preprocess_image(image: sitk.Image, spacing_mm: Triple) -> sitk.Image:
    """Oriented, resampled (linear, smoothed first where voxels grow) and normalised; float32.

    Raises:
        GeometryError: The image's geometry cannot be used.
    """
    # Not by a name of its own: each step lets go of the volume before.
    resampled = _resample(_smoothed(_oriented(image), spacing_mm), spacing_mm, sitk.sitkLinear)
    normalised = sitk.GetImageFromArray(normalise(sitk.GetArrayViewFromImage(resampled)))
    normalised.CopyInformation(resampled)
    return normalised


def preprocess_label(label: sitk.Image, spacing_mm: Triple) -> sitk.Image:
    """Oriented and resampled; each voxel takes the label with the largest linear share.

    Raises:
        GeometryError: The label map's geometry cannot be used.
    """
    return _resample(_oriented(label), spacing_mm, sitk.sitkLabelLinear)


def normalise(array_zyx: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clip to the body's 1st and 99.5th percentile, z-score over the body.

    Air gets the lowest value, so padding with the minimum continues it.
    """
    body = array_zyx[body_mask(array_zyx)]
    low, high = np.percentile(body, _CLIP_PERCENTILES)
    mean = _sum(body, lambda part: np.clip(part, low, high)) / len(body)
    square = _sum(body, lambda part: (np.clip(part, low, high) - mean) ** 2) / len(body)
    scale = math.sqrt(square) or 1.0
    normalised = np.empty(array_zyx.shape, np.float32)
    # By slices: in 64 bits a whole volume is several of its own size.
    for out, values in zip(normalised, array_zyx, strict=True):
        out[...] = (np.clip(values, low, high) - mean) / scale
    return normalised


def body_mask(array_zyx: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The patient: over a tenth of the bright level, largest component, holes filled.

    A crop inside the body may have no air at all; where under 5 % would be left, all is body.
    """
    low, high = np.percentile(array_zyx, _CLIP_PERCENTILES)
    # A 64-bit threshold: compared slice by slice, for the volume would be copied in 64 bits.
    bright = np.stack([values > low + _BODY_FRACTION * (high - low) for values in array_zyx])
    components = _components(bright)
    counts = _counts(components)
    counts[0] = 0
    mask = _filled(components == counts.argmax()) if counts.any() else np.zeros_like(bright)
    return mask if mask.mean() >= _LEAST_BODY else np.ones_like(mask)


def _components(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Number of each voxel's component over common faces; 0 outside the mask."""
    image = sitk.GetImageFromArray(mask.view(np.uint8))
    components: NDArray[np.uint32] = sitk.GetArrayFromImage(sitk.ConnectedComponent(image))
    return components


def _counts(components: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Voxels of each component; by slices, because `bincount` widens what it is given."""
    counts = np.zeros(int(components.max()) + 1, np.int64)
    for numbers in components:
        slice_counts = np.bincount(numbers.ravel())
        counts[: len(slice_counts)] += slice_counts
    return counts


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and all that no way over faces joins to the volume's edge.

    The same voxels as ITK's BinaryFillhole, in a third of its time.
    """
    outside = _components(~mask)
    at_edge = np.zeros(int(outside.max()) + 1, np.bool_)
    for axis in range(mask.ndim):
        for end in (0, -1):
            at_edge[outside.take(end, axis)] = True
    at_edge[0] = False
    filled: NDArray[np.bool_] = ~at_edge[outside]
    return filled


def _sum(
    values: NDArray[np.float32], of: Callable[[NDArray[np.float32]], NDArray[np.floating]]
) -> float:
    """Sum of a function of each value, in 64 bits a part at a time; to the bit as `np.sum`.

    Halved as NumPy's pairwise summation halves, whose errors are as small.
    """
    if len(values) <= _PART:
        return float(np.add.reduce(of(values)))
    half = len(values) // 2
    half -= half % 8
    return _sum(values[:half], of) + _sum(values[half:], of)


def probabilities_to_grid(
    probabilities_xyz: NDArray[np.float32], study_grid: sitk.Image, scan: sitk.Image
) -> NDArray[np.uint8]:
    """Arg-max of class probabilities on the scan's own grid, where they are scored.

    Args:
        probabilities_xyz: (C, X, Y, Z) on the study's grid.
        study_grid: Any image of that grid's geometry.
        scan: The scan as acquired.

    Returns:
        Class numbers, (Z, Y, X) of the scan; background outside the study's grid.

    Raises:
        GeometryError: The geometry of one of the two cannot be used.
    """
    study_grid, scan = usable_geometry(study_grid), usable_geometry(scan)
    best = map_to_grid(probabilities_xyz[0], study_grid, scan, outside=1.0)
    label = np.zeros(best.shape, np.uint8)
    for index, channel in enumerate(probabilities_xyz[1:], start=1):
        resampled = _resampled(channel, study_grid, scan, 0.0)
        # By slices, and of ITK's own voxels: two volumes are held, not four.
        for z, values in enumerate(sitk.GetArrayViewFromImage(resampled)):
            wins = values > best[z]
            label[z][wins] = index
            np.copyto(best[z], values, where=wins)
    return label


def _oriented(image: sitk.Image) -> sitk.Image:
    return sitk.DICOMOrient(usable_geometry(image), "LPS")


def map_to_grid(
    map_xyz: NDArray[np.float32], study_grid: sitk.Image, scan: sitk.Image, *, outside: float = 0.0
) -> NDArray[np.float32]:
    """A map on the study's grid, linearly on the scan's own, (Z, Y, X)."""
    on_scan: NDArray[np.float32] = sitk.GetArrayFromImage(
        _resampled(map_xyz, study_grid, scan, outside)
    )
    return on_scan


def _resampled(
    map_xyz: NDArray[np.float32], study_grid: sitk.Image, scan: sitk.Image, outside: float
) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(map_xyz.transpose(2, 1, 0)))
    image.CopyInformation(study_grid)
    return sitk.Resample(image, scan, sitk.Transform(), sitk.sitkLinear, outside)


def _smoothed(image: sitk.Image, spacing_mm: Triple) -> sitk.Image:
    """Gaussian against aliasing along the axes whose voxels grow; the identity elsewhere."""
    variances = [
        max(0.0, (new / 2.355) ** 2 - (old / 2.355) ** 2)
        for new, old in zip(spacing_mm, image.GetSpacing(), strict=True)
    ]
    return (
        sitk.DiscreteGaussian(image, variances) if any(v > _SAME_MM for v in variances) else image
    )


def study_size(image: sitk.Image, spacing_mm: Triple) -> list[int]:
    """Voxels of an oriented image on the study's grid; of any other, in the order of its axes."""
    return [
        max(1, math.ceil(n * a / b - 1e-6))
        for n, a, b in zip(image.GetSize(), image.GetSpacing(), spacing_mm, strict=True)
    ]


def _resample(image: sitk.Image, spacing_mm: Triple, interpolator: int) -> sitk.Image:
    """Onto the study's spacing; the outer faces of the first voxels coincide."""
    old = image.GetSpacing()
    if all(abs(a - b) <= _SAME_MM for a, b in zip(old, spacing_mm, strict=True)):
        return image
    size = study_size(image, spacing_mm)
    shift = [(b - a) / (2 * a) for a, b in zip(old, spacing_mm, strict=True)]
    grid = sitk.Image(size, image.GetPixelID())
    grid.SetSpacing(spacing_mm)
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(shift))
    # The last slice's centre may lie past the scan's last centre: repeat, do not darken, it.
    filter_ = sitk.ResampleImageFilter()
    filter_.SetReferenceImage(grid)
    filter_.SetInterpolator(interpolator)
    filter_.SetUseNearestNeighborExtrapolator(True)
    return filter_.Execute(image)
