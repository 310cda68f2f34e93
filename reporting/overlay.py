"""A scan in three planes with the contours of its organs, as one small picture.

Pillow and NumPy, because a data check draws every case of a site: about 20 ms a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reporting.figure_layout import VEIL, lettered, organ_colours, rgb, side_by_side

Style = Literal["solid", "dashed"]
Labels = Sequence[tuple[NDArray[np.uint8], Style]]
Place = tuple[int, int, int]

_WINDOW_PERCENTILES = (1.0, 99.5)
_SAMPLE = 200_000  # voxels are enough for a percentile
_VEIL_OPACITY = 0.65
_DASH_PX = 4
# At the left, right, upper and lower edge of each plane.
_LETTERS = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Where a prediction is to be mistrusted, as a magenta veil over the scan.

    Attributes:
        confidence_zyx: In [0, 1], on the image's grid.
        near_zyx: Where it matters, such as in and around the organs; nothing is veiled elsewhere.
        below: Confidence at which the veil begins; it is thickest at 0.
    """

    confidence_zyx: NDArray[np.floating]
    near_zyx: NDArray[np.bool_]
    below: float


def three_planes(
    image_zyx: NDArray[Any],
    spacing_mm_xyz: Sequence[float],
    labels: Labels,
    organs: Mapping[str, int],
    *,
    height_px: int = 320,
    title: str = "",
    doubt: Doubt | None = None,
    centre_zyx: Place | None = None,
    margin_mm: float | None = None,
) -> Image.Image:
    """Axial, coronal and sagittal plane side by side, at one scale, with a legend below.

    Radiological convention: the patient's left is on the right, anterior and superior are up.

    Args:
        image_zyx: (Z, Y, X), patient axes LPS: x to the left, y to posterior, z to superior.
        spacing_mm_xyz: Of its voxels.
        labels: Label maps on the image's grid, each with the style of its contours.
        organs: Value of each organ in the label maps.
        height_px: Of the tallest plane; the picture is higher by its title and its legend.
        title: The only text of the case in the picture; it is drawn as it is given.
        doubt: A veil where the prediction is to be mistrusted.
        centre_zyx: The voxel that all planes go through; by default `organ_centre`'s.
        margin_mm: Show the organs' box and so much around it; None: the whole image.

    Raises:
        ValueError: A label map or veil is not on the image's grid.
    """
    parts: list[NDArray[Any]] = [label for label, _ in labels]
    parts += [doubt.confidence_zyx, doubt.near_zyx] if doubt else []
    if any(part.shape != image_zyx.shape for part in parts):
        shapes = sorted({part.shape for part in parts} - {image_zyx.shape})
        raise ValueError(f"picture: shape {shapes[0]} is not the image's, {image_zyx.shape}")
    centre = centre_zyx or organ_centre(labels, image_zyx.shape)
    box = _box(labels, image_zyx.shape, spacing_mm_xyz, margin_mm, centre)
    sizes = _plane_sizes([part.stop - part.start for part in box], spacing_mm_xyz, height_px)
    low, high = _window(image_zyx)
    planes = []
    for axis, size in enumerate(sizes):
        plane = Image.fromarray(_grey(_cut(image_zyx, axis, centre, box), low, high))
        pixels = np.array(plane.resize(size, Image.Resampling.BICUBIC).convert("RGB"))
        if doubt is not None:
            confidence = _cut(doubt.confidence_zyx, axis, centre, box)
            _veil(pixels, confidence, _cut(doubt.near_zyx, axis, centre, box), doubt.below)
        for label, style in labels:
            _draw_contours(pixels, _cut(label, axis, centre, box), organs, style)
        planes.append(lettered(Image.fromarray(pixels), _LETTERS[axis]))
    entries = organ_colours(organs) | ({"low confidence": VEIL} if doubt else {})
    return side_by_side(planes, height_px, title, entries)


def organ_centre(labels: Labels, shape_zyx: tuple[int, ...]) -> Place:
    """The voxel in the middle of all organs' mass; of the image where there are none.

    It is found on every second voxel where that shows an organ, which is near enough.
    """
    for step in (2, 1):
        found = np.zeros(tuple(-(-n // step) for n in shape_zyx), bool)
        for label, _ in labels:
            found |= label[::step, ::step, ::step] > 0
        if found.any():
            centre = [
                step * float(np.average(np.arange(n), weights=found.sum(_others(axis))))
                for axis, n in enumerate(found.shape)
            ]
            z, y, x = (
                min(int(c + step / 2), n - 1) for c, n in zip(centre, shape_zyx, strict=True)
            )
            return z, y, x
    z, y, x = (n // 2 for n in shape_zyx)
    return z, y, x


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _box(
    labels: Labels,
    shape_zyx: tuple[int, ...],
    spacing_mm_xyz: Sequence[float],
    margin_mm: float | None,
    centre: Place,
) -> tuple[slice, ...]:
    """The part that is shown: all, or what holds the organs, the centre and a margin."""
    if margin_mm is None:
        return tuple(slice(0, n) for n in shape_zyx)
    box = []
    for axis, (n, mm) in enumerate(zip(shape_zyx, reversed(spacing_mm_xyz), strict=True)):
        holding = np.zeros(n, bool)
        holding[centre[axis]] = True
        for label, _ in labels:
            holding |= label.any(axis=_others(axis))
        held, margin = np.flatnonzero(holding), round(margin_mm / mm)
        box.append(slice(max(0, int(held[0]) - margin), min(n, int(held[-1]) + 1 + margin)))
    return tuple(box)


def _cut(
    volume_zyx: NDArray[Any], axis: int, centre: Place, box: tuple[slice, ...]
) -> NDArray[Any]:
    """A plane as it is looked at, (rows, columns): axial front up, the others head up."""
    index: list[int | slice] = list(box)
    index[axis] = centre[axis]
    plane: NDArray[Any] = volume_zyx[tuple(index)]
    return np.ascontiguousarray(plane if axis == 0 else plane[::-1])


def _plane_sizes(
    shape_zyx: Sequence[int], spacing_mm_xyz: Sequence[float], height_px: int
) -> list[tuple[int, int]]:
    """(width, height) of each plane in pixels, all at one scale."""
    z, y, x = (n * mm for n, mm in zip(shape_zyx, reversed(spacing_mm_xyz), strict=True))
    scale = height_px / max(y, z)
    return [
        (max(1, round(width * scale)), max(1, round(height * scale)))
        for width, height in ((x, y), (x, z), (y, z))
    ]


def _window(image_zyx: NDArray[Any]) -> tuple[float, float]:
    voxels = image_zyx.reshape(-1)
    # An odd stride does not run along one column of a grid of even size.
    sample = voxels[:: max(1, voxels.size // _SAMPLE) | 1]
    low, high = np.percentile(sample, _WINDOW_PERCENTILES)
    if low == high:
        low, high = voxels.min(), voxels.max()
    return float(low), float(high)


def _grey(plane: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (plane.astype(np.float32) - low) * (255 / ((high - low) or 1.0))
    grey: NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return grey


def _veil(
    pixels: NDArray[np.uint8],
    confidence: NDArray[np.floating],
    near: NDArray[np.bool_],
    below: float,
) -> None:
    """Mix the veil into the pixels, the more the lower the confidence."""
    strength = np.clip((below - confidence.astype(np.float32)) / below, 0, 1)
    strength[~near] = 0
    size = (pixels.shape[1], pixels.shape[0])
    opacity = np.array(Image.fromarray(strength).resize(size, Image.Resampling.BILINEAR))
    # The square root shows a slight doubt too.
    share = _VEIL_OPACITY * np.sqrt(np.clip(opacity, 0, 1))[..., None]
    pixels[:] = (pixels * (1 - share) + np.array(rgb(VEIL)) * share).astype(np.uint8)


def _draw_contours(
    pixels: NDArray[np.uint8], plane: NDArray[np.uint8], organs: Mapping[str, int], style: Style
) -> None:
    """The outermost pixels of each organ, at the resolution of the picture."""
    height, width = pixels.shape[:2]
    for organ, colour in organ_colours(organs).items():
        mask = plane == organs[organ]
        if not mask.any():
            continue
        share = Image.fromarray(mask.astype(np.uint8) * 255)
        large = share.resize((width, height), Image.Resampling.BILINEAR)
        edge = _outline(np.array(large) > 127)
        if style == "dashed":
            rows, columns = np.arange(height)[:, None], np.arange(width)
            edge &= (rows + columns) // _DASH_PX % 2 == 0
        pixels[edge] = rgb(colour)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with one of their four neighbours outside it; the rim counts as inside."""
    framed = np.pad(mask, 1, mode="edge")
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inside
    return outline
