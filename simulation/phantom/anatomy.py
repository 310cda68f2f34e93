"""The geometry of one made male pelvis: signed distances in patient coordinates, in mm.

Axes are LPS: x to the patient's left, y to the back, z to the head; the prostate's centre is the
origin.  Every structure is a function of points, so a scan on any grid, oblique ones included,
is sampled from the anatomy itself and never interpolated.  Distances are negative inside.
Simplified shapes after common pelvic anatomy; nothing here is drawn from a patient.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Points = tuple[Field, Field, Field]
Content = Literal["collapsed", "gas", "stool"]

_BLADDER_ML = (45.0, 380.0)
_PROSTATE_ML = (27.0, 105.0)
# What the flattened base and the prostate's dent leave of the bladder's ellipsoid.
_BLADDER_FILL = 0.86


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The drawn numbers of one subject; lengths in mm, volumes in ml."""

    bladder_ml: float
    prostate_ml: float
    bladder_axes_mm: tuple[float, float, float]
    bladder_centre_mm: tuple[float, float, float]
    bladder_waves: NDArray[np.float64]
    prostate_axes_mm: tuple[float, float, float]
    prostate_shift_mm: tuple[float, float, float]
    prostate_waves: NDArray[np.float64]
    protrusion_mm: float
    rectum_content: Content
    rectum_radius_mm: float
    rectum_flatness: float
    rectum_sway_mm: float
    rectum_phase: float
    rectum_fold_phase: float
    rectum_low_mm: float
    rectum_high_mm: float
    levator_gap_mm: float
    body_axes_mm: tuple[float, float]
    femoral_x_mm: float
    lesion_mm: tuple[float, float, float, float]
    bowel: NDArray[np.float64]


def draw_subject(rng: np.random.Generator, bladder_factor: float) -> Subject:
    """One subject.

    Volumes are log-normal (bladder median 120 ml times the site's factor, prostate 45 ml) and cut
    to 40-400 and 25-110 ml.  A full bladder presses the prostate down and back; gas in the rectum
    pushes it forward.
    """
    bladder_ml = float(np.clip(120 * bladder_factor * np.exp(rng.normal(0, 0.5)), *_BLADDER_ML))
    prostate_ml = float(np.clip(45 * np.exp(rng.normal(0, 0.35)), *_PROSTATE_ML))
    content: Content = ("collapsed", "gas", "stool")[int(rng.choice(3, p=(0.25, 0.30, 0.45)))]
    radius = rng.uniform(8, 12) if content == "collapsed" else rng.uniform(13, 22)
    pressed = math.log(bladder_ml / 120)
    shift = (
        rng.normal(0, 1.5),
        2.0 * pressed - (0.35 * (radius - 12) if content == "gas" else 0.0),
        -3.0 * pressed,
    )
    prostate_axes = _axes(prostate_ml, (1.22, 0.86, 0.98), rng, 0.06)
    bladder_axes = _axes(bladder_ml / _BLADDER_FILL, (1.15, 0.95, 0.9), rng, 0.1)
    bladder_centre = (
        rng.normal(0, 3),
        -10 + rng.normal(0, 3),
        shift[2] + 0.92 * prostate_axes[2] + 0.80 * bladder_axes[2],
    )
    low = shift[2] - prostate_axes[2] - rng.uniform(10, 16)
    return Subject(
        bladder_ml=bladder_ml,
        prostate_ml=prostate_ml,
        bladder_axes_mm=bladder_axes,
        bladder_centre_mm=bladder_centre,
        bladder_waves=_waves(rng, 0.05),
        prostate_axes_mm=prostate_axes,
        prostate_shift_mm=shift,
        prostate_waves=_waves(rng, 0.04),
        protrusion_mm=rng.uniform(6, 11) if rng.random() < 0.2 else 0.0,
        rectum_content=content,
        rectum_radius_mm=radius,
        rectum_flatness=rng.uniform(0.6, 0.8) if content == "collapsed" else rng.uniform(0.85, 1.1),
        rectum_sway_mm=rng.uniform(3, 10) * (1 if rng.random() < 0.5 else -1),
        rectum_phase=rng.uniform(-0.6, 0.6),
        rectum_fold_phase=rng.uniform(0, 2 * math.pi),
        rectum_low_mm=low,
        rectum_high_mm=rng.uniform(30, 56),
        levator_gap_mm=rng.uniform(0.0, 4.0),
        body_axes_mm=(rng.uniform(165, 200), rng.uniform(84, 112)),
        femoral_x_mm=rng.uniform(82, 94),
        lesion_mm=(
            rng.choice((-1, 1)) * rng.uniform(0.35, 0.7),
            rng.uniform(0.5, 0.75),
            rng.uniform(-0.4, 0.3),
            rng.uniform(3.0, 6.5),
        ),
        bowel=rng.uniform(-1, 1, (4, 6)),
    )


def _axes(
    volume_ml: float, ratio: tuple[float, float, float], rng: np.random.Generator, spread: float
) -> tuple[float, float, float]:
    """Semi-axes in mm of an ellipsoid of that volume, its shape varied."""
    shape = np.array(ratio) * np.exp(rng.normal(0, spread, 3))
    scale = (volume_ml * 1000 * 3 / (4 * math.pi) / shape.prod()) ** (1 / 3)
    x, y, z = (float(value) for value in shape * scale)
    return x, y, z


def _waves(rng: np.random.Generator, amplitude: float) -> NDArray[np.float64]:
    """Rows (amplitude, direction x 3, phase) of a smooth bump pattern on a closed surface."""
    direction = rng.normal(0, 2.2, (6, 3))
    return np.column_stack((rng.normal(0, amplitude, 6), direction, rng.uniform(0, 2 * math.pi, 6)))


# ---- shapes -----------------------------------------------------------------------------------


def ellipsoid(
    points: Points,
    centre: tuple[float, float, float],
    axes: tuple[float, float, float],
    waves: NDArray[np.float64] | None = None,
) -> Field:
    """Approximate signed distance to an ellipsoid, exact at its surface, bumps by `waves`.

    Source of the approximation: k0 (k0 - 1) / k1 (I. Quilez, "ellipsoid distance").
    """
    u, v, w = (
        (p - np.float32(c)) / np.float32(a) for p, c, a in zip(points, centre, axes, strict=True)
    )
    k0 = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
    k1 = np.sqrt(sum((q / np.float32(a)) ** 2 for q, a in zip((u, v, w), axes, strict=True)))
    distance = k0 * (k0 - 1) / (k1 + np.float32(1e-6))
    if waves is not None:
        size = np.float32(min(axes))
        for amplitude, dx, dy, dz, phase in waves.astype(np.float32):
            distance = distance - size * amplitude * np.cos((dx * u + dy * v + dz * w) / k0 + phase)
    result: Field = distance.astype(np.float32)
    return result


def union(a: Field, b: Field) -> Field:
    """Inside either."""
    return np.minimum(a, b)


def intersection(a: Field, b: Field) -> Field:
    """Inside both."""
    return np.maximum(a, b)


def difference(a: Field, b: Field) -> Field:
    """Inside a, not b."""
    return np.maximum(a, -b)


# ---- organs -----------------------------------------------------------------------------------


def prostate(subject: Subject, points: Points) -> Field:
    """Tapered to the apex; a middle lobe protrudes into the bladder in a fifth of the subjects."""
    x, y, z = points
    cx, cy, cz = subject.prostate_shift_mm
    height = subject.prostate_axes_mm[2]
    # Narrower below: stretch the in-plane coordinates towards the apex.
    taper = 1 + np.float32(0.28) * np.clip((cz - z) / np.float32(height), 0, 1.5) ** 2
    bent = ((x - np.float32(cx)) * taper, (y - np.float32(cy)) * taper, z)
    gland = ellipsoid(bent, (0, 0, cz), subject.prostate_axes_mm, subject.prostate_waves)
    if subject.protrusion_mm:
        top = (cx, cy - 4, cz + height)
        lobe = ellipsoid(points, top, (8.0, 8.0, subject.protrusion_mm))
        gland = union(gland, lobe)
    return gland


def central_gland(subject: Subject, points: Points) -> Field:
    """Inside the prostate, forward and up; what is left behind it is the peripheral crescent."""
    cx, cy, cz = subject.prostate_shift_mm
    a, b, c = subject.prostate_axes_mm
    return ellipsoid(points, (cx, cy - 0.22 * b, cz + 0.18 * c), (0.74 * a, 0.72 * b, 0.85 * c))


def bladder(subject: Subject, points: Points) -> Field:
    """Outer wall: a bumpy ellipsoid with a flattened base, dented by the prostate."""
    body = ellipsoid(
        points, subject.bladder_centre_mm, subject.bladder_axes_mm, subject.bladder_waves
    )
    floor = subject.bladder_centre_mm[2] - 0.82 * subject.bladder_axes_mm[2]
    flat = np.maximum(body, np.float32(floor) - points[2])
    return difference(flat, prostate(subject, points))


def rectum_axis(subject: Subject, z: Field) -> tuple[Field, Field]:
    """Centre (x, y) of the rectum at height z: S-shaped, before the sacral curve."""
    behind = (
        subject.prostate_shift_mm[1]
        + subject.prostate_axes_mm[1]
        + subject.rectum_radius_mm * subject.rectum_flatness
        + 3.5
    )
    # The canal comes forward at the anus; the ampulla lies in the sacrum's hollow.
    y = np.float32(behind) + np.float32(0.0055) * np.clip(z + 5, 0, None) ** 2
    y = y - np.float32(0.004) * np.clip(-z - 20, 0, None) ** 2
    x = np.float32(subject.rectum_sway_mm) * np.sin(
        z / np.float32(20) + np.float32(subject.rectum_phase)
    )
    return x, y


def rectal_tube(subject: Subject, points: Points) -> Field:
    """The outer wall of rectum and, above it, sigmoid; the tube does not show where one ends."""
    x, y, z = points
    cx, cy = rectum_axis(subject, z)
    height = (z - np.float32(subject.rectum_low_mm)) / np.float32(22)
    narrow = np.float32(0.55) + np.float32(0.45) * np.clip(height, 0, 1)
    folds = 1 + np.float32(0.10) * np.sin(z / np.float32(7) + np.float32(subject.rectum_fold_phase))
    radius = np.float32(subject.rectum_radius_mm) * narrow * folds
    across = np.sqrt((x - cx) ** 2 + ((y - cy) / np.float32(subject.rectum_flatness)) ** 2)
    # The axis leans back as it rises; the distance across it is shorter than in the plane.
    distance = (across - radius) * np.float32(0.93)
    return intersection(distance, np.float32(subject.rectum_low_mm) - z)


def rectum(subject: Subject, points: Points) -> Field:
    """Outer wall, up to the rectosigmoid junction; gives way to prostate and bladder."""
    below = points[2] - np.float32(subject.rectum_high_mm)
    tube = intersection(rectal_tube(subject, points), below)
    return difference(tube, prostate(subject, points))


def levator(subject: Subject, points: Points) -> Field:
    """A muscular funnel, 4 mm thick, that hugs the rectum below and opens above."""
    x, y, z = points
    cx, cy = rectum_axis(subject, z)
    opening = np.clip((z - np.float32(subject.rectum_low_mm)) / np.float32(45), 0, 1.2)
    half = np.float32(subject.rectum_radius_mm * 0.75 + subject.levator_gap_mm) + 34 * opening
    across = np.sqrt((x - cx) ** 2 + ((y - cy + 18 * opening) / np.float32(1.1)) ** 2)
    sheet = np.abs(across - half) - np.float32(2.0)
    top = np.float32(subject.prostate_shift_mm[2] + 6)
    return intersection(intersection(sheet, z - top), np.float32(subject.rectum_low_mm - 4) - z)
