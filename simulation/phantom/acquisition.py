"""A hospital's scanner: field of view, slices, contrast, bias, noise and artefacts."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from simulation.phantom import anatomy, contrast
from simulation.phantom.anatomy import Subject
from simulation.phantom.shapes import Field, Points

# The reader's contour against the truth: smooth over some 6 mm, standard deviation 0.7 mm.
LABEL_NOISE_MM = 0.7
_LABEL_NOISE_SMOOTH_MM = 6.0
_GAS_SHIFT_MM = 2.0
# How far the operator's field lies off the pelvis, at most, (left-right, front-back, foot-head).
_FIELD_OFF_MM = (9.0, 13.0, 7.0)

ORGANS = {"bladder": 1, "prostate": 2, "rectum": 3}


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How one site acquires.

    Attributes:
        pixel_mm: In-plane edge of a voxel.
        slice_mm: Thickness, a boxcar over the drawn sub-slices.
        field_mm: Extent of the scan, (left-right, front-back, foot-head).
        gamma: Exponent on the signal, the site's window of contrast.
        level_shift: Log-normal spread of the site's tissue levels.
        bias: Peak-to-peak fraction of the receive field, 0.1 to 0.4.
        bias_kind: "linear" across the field, or "surface": brighter near the coil in front.
        snr: Fat over the noise's standard deviation, 12 to 40.
        scale: Stored units of signal 1.
        tilt_deg: Rotation of the slices about the left-right axis.
        flipped: Rows and columns stored from left and back, as some scanners do.
        bladder_factor: How full this site's protocol has bladders.
    """

    pixel_mm: float
    slice_mm: float
    field_mm: tuple[float, float, float]
    gamma: float
    level_shift: float
    bias: float
    bias_kind: Literal["linear", "surface"]
    snr: float
    scale: float
    tilt_deg: float = 0.0
    flipped: bool = False
    bladder_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Acquired:
    """One scan with the truth and the reader's label, all on one grid."""

    image: sitk.Image
    reference: sitk.Image
    reader: sitk.Image


def acquire(
    subject: Subject,
    scanner: Scanner,
    levels: dict[str, float],
    voxel_mm: float,
    rng: np.random.Generator,
) -> Acquired:
    """One scan of the subject.

    Args:
        subject: The geometry.
        scanner: The site.
        levels: The site's tissue levels.
        voxel_mm: Scale of the drawing; in-plane pixels are this times the site's.
        rng: Noise, textures, the annotator's inaccuracy.
    """
    grid, sub_slices = _grid(scanner, voxel_mm, rng)
    points = _points(grid, sub_slices)
    drawn_mm = max(grid.GetSpacing()[0], grid.GetSpacing()[2] / sub_slices)
    organs = anatomy.organs(subject, points)
    gas = contrast.gas_distance(subject, points, organs)
    if gas is None:
        signal = contrast.paint(subject, points, organs, drawn_mm, levels, rng)
    else:
        seen = _distorted(points, gas)
        there = anatomy.organs(subject, seen)
        signal = contrast.paint(subject, seen, there, drawn_mm, levels, rng)
        signal = signal * _dropout(gas)
    signal = _mean_slices(signal, sub_slices)
    image = _scanned(signal, scanner, grid, rng)
    # Mean signed distance over each slice, in the order of the label values.
    labelled = (organs.bladder, organs.prostate, organs.rectum)
    distances = [_mean_slices(distance, sub_slices) for distance in labelled]
    reference = _label(distances, None, grid, rng)
    reader = _label(distances, grid.GetSpacing(), grid, rng)
    stored = [_as_image(array, grid) for array in (image, reference, reader)]
    if scanner.flipped:
        stored = [sitk.Flip(item, (True, True, False)) for item in stored]
    return Acquired(image=stored[0], reference=stored[1], reader=stored[2])


def _grid(scanner: Scanner, voxel_mm: float, rng: np.random.Generator) -> tuple[sitk.Image, int]:
    """An empty scan around the prostate, and into how many sub-slices a slice is drawn."""
    pixel = round(scanner.pixel_mm * voxel_mm, 3)
    thickness = max(scanner.slice_mm, voxel_mm)
    spacing = (pixel, pixel, thickness)
    size = [round(mm / step) for mm, step in zip(scanner.field_mm, spacing, strict=True)]
    angle = math.radians(scanner.tilt_deg)
    direction = np.array(
        [
            [1, 0, 0],
            [0, math.cos(angle), -math.sin(angle)],
            [0, math.sin(angle), math.cos(angle)],
        ]
    )
    centre = np.array([0.0, 8.0, 19.0]) + rng.uniform(-1, 1, 3) * np.array(_FIELD_OFF_MM)
    half = direction @ (np.array(spacing) * (np.array(size) - 1) / 2)
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(spacing)
    grid.SetDirection(direction.ravel().tolist())
    grid.SetOrigin((centre - half).tolist())
    return grid, max(1, round(thickness / voxel_mm))


def _points(grid: sitk.Image, sub_slices: int) -> Points:
    """Patient coordinates of every sub-slice's voxel centres, arrays (Z * sub_slices, Y, X)."""
    nx, ny, nz = grid.GetSize()
    sx, sy, sz = grid.GetSpacing()
    direction = np.array(grid.GetDirection()).reshape(3, 3)
    k = ((np.arange(nz * sub_slices) + 0.5) / sub_slices - 0.5) * sz
    axes = (np.arange(nx)[None, None] * sx, np.arange(ny)[None, :, None] * sy, k[:, None, None])
    coordinates = []
    for row, start in zip(direction, grid.GetOrigin(), strict=True):
        # Unrotated axes stay thin arrays and broadcast: most sites draw three times faster.
        terms = [c * axis for c, axis in zip(row, axes, strict=True) if abs(c) > 1e-12]
        coordinates.append(np.asarray(sum(terms) + start, np.float32))
    return coordinates[0], coordinates[1], coordinates[2]


def _mean_slices(field: Field, sub_slices: int) -> Field:
    """The slice profile: the mean over each slice's sub-slices."""
    z, y, x = field.shape
    mean: Field = field.reshape(z // sub_slices, sub_slices, y, x).mean(1, dtype=np.float32)
    return mean


def _distorted(points: Points, gas_mm: Field) -> Points:
    """Where the scanner takes its signal from: near gas, displaced along the front-back readout."""
    x, y, z = points
    bent = y + np.float32(_GAS_SHIFT_MM) * np.exp(-((np.clip(gas_mm, 0, None) / 6.0) ** 2))
    return x, bent.astype(np.float32), z


def _dropout(gas_mm: Field) -> Field:
    """Signal lost around gas, whose susceptibility bends the field, and piled up behind that."""
    outside = np.clip(gas_mm, 0, None)
    lost = 0.65 * np.exp(-((outside / 3.0) ** 2))
    piled = 0.25 * np.exp(-(((outside - 6.0) / 2.0) ** 2))
    factor: Field = (1 - lost + piled).astype(np.float32)
    return factor


def _scanned(
    signal: Field, scanner: Scanner, grid: sitk.Image, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Contrast, receive field, ghosts, Rician noise, integer storage."""
    signal = np.power(signal, np.float32(scanner.gamma))
    signal = signal * _bias(signal.shape, scanner, rng)
    rows = signal.shape[1]
    signal = signal + np.float32(rng.uniform(0.01, 0.05)) * np.roll(signal, rows // 2, axis=1)
    sigma = np.float32(contrast.T2_LEVELS["fat"] / (scanner.snr * rng.uniform(0.85, 1.15)))
    real = signal + sigma * rng.standard_normal(signal.shape, np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, np.float32)
    scale = scanner.scale * rng.uniform(0.8, 1.25)
    stored: NDArray[np.int16] = np.clip(
        np.rint(scale * np.sqrt(real**2 + imaginary**2)), 0, 32767
    ).astype(np.int16)
    return stored


def _bias(shape: tuple[int, ...], scanner: Scanner, rng: np.random.Generator) -> Field:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    if scanner.bias_kind == "linear":
        direction = rng.normal(size=3)
        slope = (direction[0] * x + direction[1] * y + direction[2] * z) / np.abs(direction).sum()
    else:
        depth = np.exp(-1.5 * (y + 1 + 0.4 * (x - rng.uniform(-0.3, 0.3)) ** 2 + 0.2 * z**2))
        slope = 2 * depth / depth.max() - 1
    field: Field = (1 + np.float32(scanner.bias / 2) * slope).astype(np.float32)
    return field


def _label(
    organs: list[Field],
    noise_spacing_mm: tuple[float, ...] | None,
    grid: sitk.Image,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """The organ that a voxel's centre lies deepest in; with a spacing, as a reader drew it."""
    label = np.zeros(organs[0].shape, np.uint8)
    deepest = np.zeros(organs[0].shape, np.float32)
    for value, distance in enumerate(organs, start=1):
        moved = distance
        if noise_spacing_mm is not None:
            sigma = [_LABEL_NOISE_SMOOTH_MM / step for step in noise_spacing_mm[::-1]]
            noise = gaussian_filter(rng.standard_normal(distance.shape, np.float32), sigma)
            moved = distance + np.float32(LABEL_NOISE_MM / (noise.std() + 1e-9)) * noise
        inside = moved < deepest
        label[inside] = value
        deepest[inside] = moved[inside]
    return label


def _as_image(array: NDArray[np.int16] | NDArray[np.uint8], grid: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid)
    return image
