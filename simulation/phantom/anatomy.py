"""The geometry of one made male pelvis: organs as signed distances in patient coordinates, in mm.

Axes are LPS: x to the patient's left, y to the back, z to the head; the prostate's usual centre is
the origin.  Simplified shapes after common pelvic anatomy; nothing here is drawn from a patient.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulation.phantom.shapes import (
    Field,
    Points,
    Vector,
    difference,
    ellipse,
    ellipsoid,
    in_box,
    intersection,
    union,
)

Content = Literal["collapsed", "gas", "stool"]

BLADDER_ML = (40.0, 400.0)
PROSTATE_ML = (25.0, 110.0)
# A voxel grid measures a drawn volume to some per cent, so that the draw keeps off the bounds.
_OFF_BOUNDS = 0.05
_MARGIN_MM = 16.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The drawn numbers of one subject; lengths in mm, volumes in ml."""

    bladder_ml: float
    prostate_ml: float
    bladder_axes_mm: Vector
    bladder_offset_mm: Vector
    bladder_waves: NDArray[np.float64]
    prostate_axes_mm: Vector
    prostate_centre_mm: Vector
    prostate_waves: NDArray[np.float64]
    protrusion_mm: float
    rectum_content: Content
    rectum_radius_mm: float
    rectum_flatness: float
    rectum_gap_mm: float
    rectum_sway_mm: float
    rectum_phase: float
    rectum_hollow_mm: float
    rectum_fold_phase: float
    rectum_length_mm: float
    levator_gap_mm: float
    levator_side_mm: float
    sacrum_gap_mm: float
    body_axes_mm: tuple[float, float]
    femoral_x_mm: float
    lesion: tuple[float, float, float, float]
    bowel: NDArray[np.float64]

    @property
    def rectum_low_mm(self) -> float:
        """Height of the anorectal junction, below the prostate's apex."""
        return self.prostate_centre_mm[2] - self.prostate_axes_mm[2] - 7.0

    @property
    def rectum_high_mm(self) -> float:
        """Height of the rectosigmoid junction."""
        return self.rectum_low_mm + self.rectum_length_mm

    @property
    def rectum_front_mm(self) -> float:
        """Where the ampulla's front wall lies, just behind the prostate."""
        return self.prostate_centre_mm[1] + self.prostate_axes_mm[1] + self.rectum_gap_mm

    @property
    def bladder_centre_mm(self) -> Vector:
        """On top of the prostate; the fuller, the further forward."""
        x, y, z = self.bladder_offset_mm
        px, py, pz = self.prostate_centre_mm
        _, depth, height = self.bladder_axes_mm
        return (
            px + x,
            py + y - 0.6 * (depth - 30),
            pz + 0.92 * self.prostate_axes_mm[2] + 0.8 * height + z,
        )


def draw_subject(rng: np.random.Generator, bladder_factor: float) -> Subject:
    """One subject.

    Volumes are log-normal (bladder median 120 ml times the site's factor, prostate 45 ml) and cut
    to their ranges.  A full bladder presses the prostate down and back; gas in the rectum pushes
    it forward.
    """
    bladder_ml = _volume(rng, 120 * bladder_factor, 0.5, BLADDER_ML)
    prostate_ml = _volume(rng, 45.0, 0.35, PROSTATE_ML)
    content: Content = ("collapsed", "gas", "stool")[int(rng.choice(3, p=(0.25, 0.30, 0.45)))]
    radius = rng.uniform(8, 12) if content == "collapsed" else rng.uniform(12, 22)
    pressed = math.log(bladder_ml / 120)
    pushed = {"gas": 0.6, "stool": 0.3, "collapsed": 0.0}[content] * (radius - 12)
    subject = Subject(
        bladder_ml=bladder_ml,
        prostate_ml=prostate_ml,
        bladder_axes_mm=_axes(bladder_ml, (1.15, 0.95, 0.9), rng, 0.1),
        bladder_offset_mm=(rng.normal(0, 3), -6 + rng.normal(0, 3), 0.0),
        bladder_waves=_waves(rng, 0.05),
        prostate_axes_mm=_axes(prostate_ml, (1.22, 0.86, 0.98), rng, 0.06),
        prostate_centre_mm=(rng.normal(0, 1.5), 2.0 * pressed - pushed, -3.0 * pressed),
        prostate_waves=_waves(rng, 0.04),
        protrusion_mm=rng.uniform(6, 11) if rng.random() < 0.2 else 0.0,
        rectum_content=content,
        rectum_radius_mm=radius,
        rectum_flatness=rng.uniform(0.5, 0.7) if content == "collapsed" else rng.uniform(0.8, 1.1),
        rectum_gap_mm=rng.uniform(0.5, 5.0),
        rectum_sway_mm=rng.uniform(5, 17) * (1 if rng.random() < 0.5 else -1),
        rectum_phase=rng.uniform(-0.8, 0.8),
        rectum_hollow_mm=rng.uniform(2, 24),
        rectum_fold_phase=rng.uniform(0, 2 * math.pi),
        rectum_length_mm=rng.uniform(72, 96),
        levator_gap_mm=rng.uniform(0.0, 3.0),
        levator_side_mm=rng.uniform(2.0, 6.0),
        sacrum_gap_mm=rng.uniform(3, 14),
        body_axes_mm=(rng.uniform(165, 200), rng.uniform(88, 112)),
        femoral_x_mm=rng.uniform(78, 90),
        lesion=(
            rng.choice((-1, 1)) * rng.uniform(0.35, 0.7),
            rng.uniform(0.5, 0.75),
            rng.uniform(-0.4, 0.3),
            rng.uniform(3.0, 6.5),
        ),
        bowel=rng.uniform(-1, 1, (9, 6)),
    )
    return _with_drawn_volumes(subject)


def _volume(
    rng: np.random.Generator, median_ml: float, spread: float, bounds_ml: tuple[float, float]
) -> float:
    """Log-normal, cut."""
    low, high = bounds_ml[0] * (1 + _OFF_BOUNDS), bounds_ml[1] * (1 - _OFF_BOUNDS)
    return float(np.clip(median_ml * np.exp(rng.normal(0, spread)), low, high))


def _axes(volume_ml: float, ratio: Vector, rng: np.random.Generator, spread: float) -> Vector:
    """Semi-axes in mm of an ellipsoid of that volume, its shape varied."""
    shape = np.array(ratio) * np.exp(rng.normal(0, spread, 3))
    return _scaled((shape[0], shape[1], shape[2]), volume_ml * 3000 / (4 * math.pi) / shape.prod())


def _scaled(axes: Vector, factor: float) -> Vector:
    """Semi-axes of a shape of `factor` times the volume."""
    scale = factor ** (1 / 3)
    x, y, z = (float(axis * scale) for axis in axes)
    return x, y, z


def _waves(rng: np.random.Generator, amplitude: float) -> NDArray[np.float64]:
    """Rows (amplitude, direction x 3, phase) of a smooth bump pattern on a closed surface."""
    direction = rng.normal(0, 2.2, (6, 3))
    return np.column_stack((rng.normal(0, amplitude, 6), direction, rng.uniform(0, 2 * math.pi, 6)))


def _with_drawn_volumes(subject: Subject, step_mm: float = 2.5) -> Subject:
    """Axes scaled until the shapes, with taper, lobe and dents, have the volumes drawn for them."""
    ends = ((-80, 80), (-120, 70), (-65, 140))
    x, y, z = (np.arange(low, high, step_mm, dtype=np.float32) for low, high in ends)
    points = (x[None, None], y[None, :, None], z[:, None, None])
    voxel_ml = step_mm**3 / 1000

    def measured_ml(distance: Field) -> float:
        return max(float(np.clip(0.5 - distance / step_mm, 0, 1).sum()) * voxel_ml, 1.0)

    for _ in range(2):
        factor = subject.prostate_ml / measured_ml(prostate(subject, points))
        subject = replace(subject, prostate_axes_mm=_scaled(subject.prostate_axes_mm, factor))
    for _ in range(3):
        factor = subject.bladder_ml / measured_ml(organs(subject, points).bladder)
        subject = replace(subject, bladder_axes_mm=_scaled(subject.bladder_axes_mm, factor))
    return subject


# ---- organs -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Organs:
    """Signed distances of one subject on one grid, each of the grid's shape.

    Attributes:
        bladder: Outer wall.
        prostate: Capsule.
        rectum: Outer wall between the anorectal and the rectosigmoid junction.
        bowel_tube: Anal canal, rectum and sigmoid in one; it does not show where one ends.
    """

    bladder: Field
    prostate: Field
    rectum: Field
    bowel_tube: Field


def organs(subject: Subject, points: Points) -> Organs:
    """Every labelled organ; they touch and do not overlap."""
    gland = prostate(subject, points)
    tube = difference(rectal_tube(subject, points), gland - 1.0)
    z = points[2]
    ends = intersection(z - np.float32(subject.rectum_high_mm), subject.rectum_low_mm - z)
    sac = _bladder_sac(subject, points)
    # The bowel dents the bladder from behind, the prostate from below; none of it lies behind
    # the bowel.
    bladder = difference(difference(sac, gland), tube - 2.0)
    bladder = intersection(bladder, points[1] - rectum_axis(subject, z)[1])
    return Organs(bladder=bladder, prostate=gland, rectum=intersection(tube, ends), bowel_tube=tube)


def _around(centre: Vector, axes: Vector) -> tuple[Vector, Vector]:
    """Corners of a box with a margin for bumps and for what is asked of the distance outside."""
    low, high = (
        tuple(c + sign * (a + _MARGIN_MM) for c, a in zip(centre, axes, strict=True))
        for sign in (-1, 1)
    )
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def prostate(subject: Subject, points: Points) -> Field:
    """Tapered to the apex; a middle lobe protrudes into the bladder in a fifth of the subjects."""
    centre, axes = subject.prostate_centre_mm, subject.prostate_axes_mm

    def gland(near: Points) -> Field:
        x, y, z = near
        cx, cy, cz = centre
        # Narrower below: stretch the in-plane coordinates towards the apex.
        taper = 1 + np.float32(0.28) * np.clip((cz - z) / np.float32(axes[2]), 0, 1.5) ** 2
        bent = ((x - np.float32(cx)) * taper, (y - np.float32(cy)) * taper, z)
        body = ellipsoid(bent, (0, 0, cz), axes, subject.prostate_waves)
        if not subject.protrusion_mm:
            return body
        lobe = ellipsoid(near, (cx, cy - 4, cz + axes[2]), (8.0, 8.0, subject.protrusion_mm))
        return union(body, lobe)

    return in_box(points, *_around(centre, axes), gland)


def central_gland(subject: Subject, points: Points) -> Field:
    """Inside the prostate, forward and up; what is left behind it is the peripheral crescent."""
    cx, cy, cz = subject.prostate_centre_mm
    a, b, c = subject.prostate_axes_mm
    return ellipsoid(points, (cx, cy - 0.22 * b, cz + 0.18 * c), (0.74 * a, 0.72 * b, 0.85 * c))


def _bladder_sac(subject: Subject, points: Points) -> Field:
    """A bumpy ellipsoid with a flattened base."""
    centre, axes = subject.bladder_centre_mm, subject.bladder_axes_mm
    floor = np.float32(centre[2] - 0.82 * axes[2])
    return in_box(
        points,
        *_around(centre, axes),
        lambda near: np.maximum(
            ellipsoid(near, centre, axes, subject.bladder_waves), floor - near[2]
        ),
    )


def rectum_axis(subject: Subject, z: Field) -> tuple[Field, Field]:
    """Centre (x, y) of the bowel at height z.

    S-shaped in both planes: up along the sacrum's hollow, forward again into the sigmoid; the anal
    canal runs down and back.
    """
    rise = (z - np.float32(subject.rectum_low_mm)) / np.float32(subject.rectum_length_mm)
    depth = subject.rectum_radius_mm * subject.rectum_flatness
    hollow = subject.rectum_hollow_mm * np.sin(np.pi * np.clip(rise, 0, 1.35)) ** 2 * (rise < 1)
    forward = 42 * np.clip(rise - 0.72, 0, 0.7) ** 1.5
    canal = 16 * np.clip(-rise, 0, 0.6)
    y = subject.rectum_front_mm + depth + hollow - forward + canal
    sway = np.sin(2.4 * np.pi * rise + subject.rectum_phase) * np.clip(rise * 2.5, 0, 1)
    x = subject.rectum_sway_mm * sway + 26 * np.clip(rise - 0.85, 0, 0.6)
    return x.astype(np.float32), y.astype(np.float32)


def rectum_radius(subject: Subject, z: Field) -> Field:
    """Half-width of the outer wall at height z: narrow canal, folded ampulla, narrower sigmoid."""
    rise = (z - np.float32(subject.rectum_low_mm)) / np.float32(subject.rectum_length_mm)
    ampulla = np.clip(np.sin(np.pi * np.clip(rise * 0.95 + 0.05, 0, 1)), 0, 1) ** 0.7
    folds = 1 + 0.10 * np.sin(z / np.float32(7) + np.float32(subject.rectum_fold_phase))
    end = min(subject.rectum_radius_mm, 9.5)
    radius: Field = (end + (subject.rectum_radius_mm - end) * ampulla * folds).astype(np.float32)
    return radius


def rectal_tube(subject: Subject, points: Points) -> Field:
    """The outer wall of anal canal, rectum and sigmoid."""
    x, y, z = points
    cx, cy = rectum_axis(subject, z)
    radius = rectum_radius(subject, z)
    across = ellipse(x - cx, y - cy, radius, radius * np.float32(subject.rectum_flatness))
    # The axis leans; the distance across it is shorter than the one in the plane.
    distance: Field = np.minimum(across, np.float32(60)) * np.float32(0.9)
    return distance


def levator(subject: Subject, points: Points) -> Field:
    """A sling, 4 mm thick, that hugs the rectum from behind and the prostate from the sides.

    Open in front; from the canal it widens to the pelvic side wall.
    """
    x, y, z = points
    px, py, pz = subject.prostate_centre_mm
    a, b, c = subject.prostate_axes_mm
    cx, cy = rectum_axis(subject, z)
    radius = rectum_radius(subject, z)
    rise = np.clip((z - np.float32(subject.rectum_low_mm)) / np.float32(2 * c + 7), 0, 1)
    widest = max(a, subject.rectum_radius_mm) + subject.levator_side_mm
    half_x = (radius + 2 + (widest - radius - 2) * np.sqrt(rise) + 8 * rise**3).astype(np.float32)
    back = cy + radius * subject.rectum_flatness + np.float32(subject.levator_gap_mm + 2)
    front = np.float32(py - b)
    half_y = np.maximum((back - front) / 2, 6).astype(np.float32)
    centre_x = (cx + (px - cx) * rise).astype(np.float32)
    sheet = np.abs(
        ellipse(x - centre_x, (y - (front + back) / 2).astype(np.float32), half_x, half_y)
    ) - np.float32(2.0)
    walls = intersection(z - np.float32(pz + c), np.float32(subject.rectum_low_mm - 14) - z)
    return intersection(intersection(sheet, walls), np.float32(py - 0.6 * b) - y)
