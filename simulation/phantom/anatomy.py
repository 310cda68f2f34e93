"""The geometry of one made male pelvis: organs as signed distances in patient coordinates, in mm.

Axes are LPS: x to the patient's left, y to the back, z to the head; the prostate's usual centre is
the origin.  Simplified shapes after common pelvic anatomy; nothing here is drawn from a patient.
"""

from dataclasses import dataclass
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
    surface = np.abs(
        ellipse(x - centre_x, (y - (front + back) / 2).astype(np.float32), half_x, half_y)
    ) - np.float32(2.0)
    walls = intersection(z - np.float32(pz + c), np.float32(subject.rectum_low_mm - 14) - z)
    return intersection(intersection(surface, walls), np.float32(py - 0.6 * b) - y)
