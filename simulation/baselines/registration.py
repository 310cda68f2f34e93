"""Atlas to target: affine by mutual information, then Demons or a B-spline.

Every transform maps points of the target's space to the atlas's, as SimpleITK resamples. All
voxels are samples and one thread adds them up, so nothing here is random.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from simulation.baselines.volumes import Atlas, Volume, to_xyz

Deformation = Literal["demons", "bspline", "none"]
Box = tuple[slice, slice, slice]

_AFFINE_MM = (16.0, 8.0)
_LEAST_VOXELS = 8
_BINS = 32
_AFFINE_STEPS = 60
# The coarsest level first: shrink factor and iterations.
_DEMONS_LEVELS = ((4, 40), (2, 60), (1, 60))
_DEMONS_SMOOTHING_VOXELS = 1.0
_BSPLINE_STEPS = 15
_BSPLINE_SAMPLES = 0.3


def align(target: Volume, atlas: Volume) -> sitk.Transform:
    """Affine: Mattes mutual information at about 16 mm, then 8 mm voxels, centres first.

    Finer voxels cost four times as much and did not change a phantom's labels.  Where the scans
    cannot be registered, the transform that lays their centres on each other.
    """
    transform = sitk.AffineTransform(
        sitk.CenteredTransformInitializer(
            target.image,
            atlas.image,
            sitk.AffineTransform(3),
            sitk.CenteredTransformInitializerFilter.GEOMETRY,
        )
    )
    for edge_mm in _AFFINE_MM:
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricSamplingStrategy(method.NONE)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.02, _AFFINE_STEPS)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=False)
        try:
            joined = method.Execute(_coarse(target.image, edge_mm), _coarse(atlas.image, edge_mm))
        except RuntimeError:  # ITK: no sample of the target falls into the atlas
            break
        transform = sitk.AffineTransform(sitk.CompositeTransform(joined).GetBackTransform())
    return transform


def deform(
    target: Volume,
    atlas: Volume,
    affine: sitk.Transform,
    box: Box,
    kind: Deformation,
    grid_mm: float,
) -> sitk.Transform:
    """The affine transform refined within a box of the target; the affine alone outside it.

    Args:
        target: The scan to be segmented.
        atlas: The scan that is moved.
        affine: Of `align`.
        box: Voxels of the target, (x, y, z).
        kind: How to deform.
        grid_mm: Edge of the B-spline's control grid.

    Raises:
        ValueError: If the kind is unknown.
    """
    fixed = crop(target.image, box)
    if kind == "none":
        return affine
    if kind == "demons":
        moving = warp_image(atlas, fixed, affine)
        return sitk.CompositeTransform([affine, _demons(fixed, moving)])
    if kind == "bspline":
        return _bspline(fixed, atlas.image, affine, grid_mm)
    raise ValueError(f"deformation: must be demons, bspline or none, not {kind!r}")


def organ_region(
    target: Volume, atlases: Sequence[Atlas], affines: Sequence[sitk.Transform], margin_mm: float
) -> Box:
    """Box around all organs of the aligned atlases, with a margin, in voxels of the target.

    The whole scan where no atlas shows an organ in it.
    """
    covered = np.zeros(target.image.GetSize(), bool)
    for atlas, affine in zip(atlases, affines, strict=True):
        covered |= (
            to_xyz(sitk.Resample(atlas.label, target.image, affine, sitk.sitkNearestNeighbor)) > 0
        )
    voxels = np.argwhere(covered)
    if not len(voxels):
        covered[:] = True
        voxels = np.argwhere(covered)
    margin = np.ceil(margin_mm / np.array(target.image.GetSpacing())).astype(int)
    low = np.maximum(voxels.min(0) - margin, 0)
    high = np.minimum(voxels.max(0) + 1 + margin, covered.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def crop(image: sitk.Image, box: Box) -> sitk.Image:
    """The box of an image, with its position in space."""
    return sitk.RegionOfInterest(
        image, [axis.stop - axis.start for axis in box], [axis.start for axis in box]
    )


def warp_image(atlas: Volume, grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """The atlas's scan on another grid, linear; air around it continues."""
    return sitk.Resample(atlas.image, grid, transform, sitk.sitkLinear, atlas.lowest)


def warp_votes(
    atlas: Atlas, grid: sitk.Image, transform: sitk.Transform, classes: int
) -> NDArray[np.float32]:
    """The atlas's classes on another grid, (C, X, Y, Z) linear shares that sum to 1."""
    organs = [
        to_xyz(
            sitk.Resample(
                sitk.Cast(atlas.label == value, sitk.sitkFloat32), grid, transform, sitk.sitkLinear
            )
        )
        for value in range(1, classes)
    ]
    votes: NDArray[np.float32] = np.stack([1 - np.sum(organs, axis=0), *organs])
    return votes


def _demons(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Symmetric-force Demons, three resolutions (Vercauteren et al. 2009; Thirion 1998)."""
    field: sitk.Image | None = None
    for shrink, iterations in _DEMONS_LEVELS:
        coarse = _shrunk(fixed, [shrink] * 3)
        method = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        method.SetNumberOfThreads(1)
        method.SetNumberOfIterations(iterations)
        method.SetSmoothDisplacementField(True)
        method.SetStandardDeviations(_DEMONS_SMOOTHING_VOXELS)
        start = [] if field is None else [_on_grid(field, coarse)]
        field = method.Execute(coarse, _shrunk(moving, [shrink] * 3), *start)
    return sitk.DisplacementFieldTransform(
        sitk.Cast(_on_grid(field, fixed), sitk.sitkVectorFloat64)
    )


def _on_grid(field: sitk.Image, grid: sitk.Image) -> sitk.Image:
    filter_ = sitk.ResampleImageFilter()
    filter_.SetReferenceImage(grid)
    filter_.SetUseNearestNeighborExtrapolator(True)
    return filter_.Execute(field)


def _bspline(
    fixed: sitk.Image, moving: sitk.Image, affine: sitk.Transform, grid_mm: float
) -> sitk.Transform:
    """Cubic B-spline by mutual information, its grid halved once (Rueckert et al. 1999)."""
    extent = [n * mm for n, mm in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    mesh = [max(1, round(mm / (2 * grid_mm))) for mm in extent]
    spline = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_BSPLINE_SAMPLES, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(numberOfIterations=_BSPLINE_STEPS)
    method.SetMovingInitialTransform(affine)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 2])
    method.Execute(fixed, moving)
    return sitk.CompositeTransform([affine, spline])


def _coarse(image: sitk.Image, edge_mm: float) -> sitk.Image:
    factors = [
        max(1, min(round(edge_mm / mm), n // _LEAST_VOXELS))
        for n, mm in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    return _shrunk(image, factors)


def _shrunk(image: sitk.Image, factors: Sequence[int]) -> sitk.Image:
    """Every axis by its factor, smoothed against aliasing first; a short axis stays."""
    factors = [f if n >= 2 * f else 1 for n, f in zip(image.GetSize(), factors, strict=True)]
    if max(factors) == 1:
        return image
    variances = [
        ((f / 2.355) ** 2 - (1 / 2.355) ** 2) * mm**2
        for f, mm in zip(factors, image.GetSpacing(), strict=True)
    ]
    return sitk.Shrink(sitk.DiscreteGaussian(image, variances), factors)
