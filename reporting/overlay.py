"""A scan in three planes with the contours of its organs, as one small picture.

Pillow and NumPy, because a data check draws every case of a site: about 20 ms a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reporting.figure_layout import DASH_PX, LegendEntry, Style, lettered, side_by_side
from reporting.palette import UNCERTAIN, organ_colours, rgb

Voxel = tuple[int, int, int]

_WINDOW_PERCENTILES = (1.0, 99.5)
_SAMPLE = 200_000  # voxels are enough for a percentile
_OPACITY = 0.65
# At the left, right, upper and lower edge of each plane.
_LETTERS = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))


@dataclass(frozen=True, kw_only=True)
class Contours:
    """The outlines of all organs of one label map.

    Attributes:
        label_zyx: On the image's grid.
        style: Of its lines.
        name: In the legend, next to the style; empty: not there.
    """

    label_zyx: NDArray[np.uint8]
    style: Style = "solid"
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class UncertaintyOverlay:
    """Where a prediction is not to be trusted, in magenta over the scan.

    Attributes:
        confidence_zyx: In [0, 1], on the image's grid.
        near_zyx: Where it matters, such as in and around the organs; nothing is drawn elsewhere.
        below: Confidence at which the overlay begins; it is thickest at 0.
    """

    confidence_zyx: NDArray[np.floating]
    near_zyx: NDArray[np.bool_]
    below: float


def three_planes(
    image_zyx: NDArray[Any],
    spacing_mm_xyz: Sequence[float],
    contours: Sequence[Contours],
    organs: Mapping[str, int],
    *,
    height_px: int = 320,
    title: str = "",
    uncertainty: UncertaintyOverlay | None = None,
    centre_zyx: Voxel | None = None,
    margin_mm: float | None = None,
    legend: bool = True,
) -> Image.Image:
    """Axial, coronal and sagittal plane side by side, at one scale, with a legend below.

    Radiological convention: the patient's left is on the right, anterior and superior are up.

    Args:
        image_zyx: (Z, Y, X), patient axes LPS: x to the left, y to posterior, z to superior.
        spacing_mm_xyz: Of its voxels.
        contours: Label maps on the image's grid; the first one's organs decide what is shown.
        organs: Value of each organ in the label maps.
        height_px: Of the tallest plane; the picture is higher by its title and its legend.
        title: The only text of the case in the picture; it is drawn as it is given.
        uncertainty: Where the prediction is not to be trusted.
        centre_zyx: The voxel that all planes go through; by default `organ_centre`'s.
        margin_mm: Show the organs' box and so much around it; None: the whole image.
        legend: Draw it; False where pictures with the same one stand below each other.

    Raises:
        ValueError: A label map or overlay is not on the image's grid.
    """
    labels = [one.label_zyx for one in contours]
    parts: list[NDArray[Any]] = [*labels]
    parts += [uncertainty.confidence_zyx, uncertainty.near_zyx] if uncertainty else []
    if any(part.shape != image_zyx.shape for part in parts):
        shapes = sorted({part.shape for part in parts} - {image_zyx.shape})
        raise ValueError(f"picture: shape {shapes[0]} is not the image's, {image_zyx.shape}")
    shown = labels[0] if labels else np.zeros(image_zyx.shape, np.uint8)
    centre = centre_zyx or organ_centre(shown)
    box = _box(shown, spacing_mm_xyz, margin_mm, centre)
    sizes = _plane_sizes([part.stop - part.start for part in box], spacing_mm_xyz, height_px)
    low, high = _window(image_zyx)
    planes = []
    for axis, size in enumerate(sizes):
        plane = Image.fromarray(_grey(_cut(image_zyx, axis, centre, box), low, high))
        pixels = np.array(plane.resize(size, Image.Resampling.BICUBIC).convert("RGB"))
        if uncertainty is not None:
            confidence, near = (
                _cut(part, axis, centre, box)
                for part in (uncertainty.confidence_zyx, uncertainty.near_zyx)
            )
            _draw_uncertainty(pixels, confidence, near, uncertainty.below)
        for one in contours:
            _draw_contours(pixels, _cut(one.label_zyx, axis, centre, box), organs, one.style)
        planes.append(lettered(Image.fromarray(pixels), _LETTERS[axis]))
    entries = _legend(organs, contours, uncertainty) if legend else []
    return side_by_side(planes, height_px, title, entries)


def _legend(
    organs: Mapping[str, int],
    contours: Sequence[Contours],
    uncertainty: UncertaintyOverlay | None,
) -> list[LegendEntry]:
    colours = organ_colours(organs) | ({"low confidence": UNCERTAIN} if uncertainty else {})
    return [
        *(LegendEntry(name=name, colour=colour) for name, colour in colours.items()),
        *(LegendEntry(name=one.name, style=one.style) for one in contours if one.name),
    ]


def organ_centre(label_zyx: NDArray[np.uint8]) -> Voxel:
    """The voxel in the middle of all organs' mass; of the image where there are none.

    It is found on every second voxel where that shows an organ, which is near enough.
    """
    for step in (2, 1):
        organs = label_zyx[::step, ::step, ::step] > 0
        if organs.any():
            centre = [
                step * float(np.average(np.arange(n), weights=organs.sum(_others(axis))))
                for axis, n in enumerate(organs.shape)
            ]
            z, y, x = (
                min(int(c + step / 2), n - 1) for c, n in zip(centre, label_zyx.shape, strict=True)
            )
            return z, y, x
    z, y, x = (n // 2 for n in label_zyx.shape)
    return z, y, x


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _box(
    label_zyx: NDArray[np.uint8],
    spacing_mm_xyz: Sequence[float],
    margin_mm: float | None,
    centre: Voxel,
) -> tuple[slice, ...]:
    """The part that is shown: all, or what holds the organs, the centre and a margin."""
    if margin_mm is None:
        return tuple(slice(0, n) for n in label_zyx.shape)
    box = []
    for axis, (n, mm) in enumerate(zip(label_zyx.shape, reversed(spacing_mm_xyz), strict=True)):
        holding: NDArray[np.bool_] = np.asarray(label_zyx.any(axis=_others(axis)))
        holding[centre[axis]] = True
        indices, margin = np.flatnonzero(holding), round(margin_mm / mm)
        box.append(slice(max(0, int(indices[0]) - margin), min(n, int(indices[-1]) + 1 + margin)))
    return tuple(box)


def _cut(
    volume_zyx: NDArray[Any], axis: int, centre: Voxel, box: tuple[slice, ...]
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
    # An odd stride does not run along one column of a grid of even size. By `flat`, because a
    # turned view of a scan would be copied whole.
    sample = image_zyx.flat[:: max(1, image_zyx.size // _SAMPLE) | 1]
    low, high = np.percentile(sample, _WINDOW_PERCENTILES)
    if low == high:
        low, high = image_zyx.min(), image_zyx.max()
    return float(low), float(high)


def _grey(plane: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (plane.astype(np.float32) - low) * (255 / ((high - low) or 1.0))
    grey: NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return grey


def _draw_uncertainty(
    pixels: NDArray[np.uint8],
    confidence: NDArray[np.floating],
    near: NDArray[np.bool_],
    below: float,
) -> None:
    """Mix the colour into the pixels, the more the lower the confidence."""
    strength = np.clip((below - confidence.astype(np.float32)) / below, 0, 1)
    strength[~near] = 0
    size = (pixels.shape[1], pixels.shape[0])
    opacity = np.array(Image.fromarray(strength).resize(size, Image.Resampling.BILINEAR))
    # The square root shows a slight uncertainty too.
    share = _OPACITY * np.sqrt(np.clip(opacity, 0, 1))[..., None]
    pixels[:] = (pixels * (1 - share) + np.array(rgb(UNCERTAIN)) * share).astype(np.uint8)


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
            edge &= (rows + columns) // DASH_PX % 2 == 0
        pixels[edge] = rgb(colour)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with one of their four neighbours outside it; the rim counts as inside."""
    framed = np.pad(mask, 1, mode="edge")
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inside
    return outline
