"""T2-weighted signal of every tissue (urine is 1), painted from the outside in.

Levels after method section 8.  Coverage of a voxel by a structure is read off its signed
distance, so edges have partial volume at any resolution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from simulation.phantom import anatomy
from simulation.phantom.anatomy import Field, Points, Subject, ellipsoid

T2_LEVELS: Mapping[str, float] = {
    "air": 0.02,
    "skin": 0.35,
    "fat": 0.80,
    "muscle": 0.18,
    "marrow": 0.60,
    "cortex": 0.06,
    "urine": 1.00,
    "bladder_wall": 0.22,
    "peripheral_zone": 0.70,
    "central_gland": 0.42,
    "seminal_vesicle": 0.70,
    "gas": 0.02,
}
_WALL_MM = 3.0


@dataclass(frozen=True, kw_only=True)
class Signal:
    """The painted signal and where gas is, both on the drawn grid."""

    signal: Field
    gas_distance_mm: Field | None


class Painter:
    """Lays structures over one another by their coverage of each voxel."""

    def __init__(self, shape: tuple[int, ...], voxel_mm: float, level: float) -> None:
        self.signal: Field = np.full(shape, level, np.float32)
        self._voxel_mm = np.float32(voxel_mm)

    def lay(self, distance: Field, level: float | Field) -> None:
        """Signal of a structure where it covers the voxel, partly at its edge."""
        coverage = np.clip(np.float32(0.5) - distance / self._voxel_mm, 0, 1)
        self.signal += coverage * (np.asarray(level, np.float32) - self.signal)


def paint(
    subject: Subject,
    points: Points,
    voxel_mm: float,
    levels: Mapping[str, float],
    rng: np.random.Generator,
) -> Signal:
    """The signal of one subject at these points.

    Args:
        subject: The geometry.
        points: (x, y, z) in mm, each of the grid's shape.
        voxel_mm: Edge over which coverage goes from nought to one.
        levels: T2 levels of this site, names as in `T2_LEVELS`.
        rng: Textures and the hard contrasts.
    """
    shape = np.broadcast_shapes(*(p.shape for p in points))
    painter = Painter(shape, voxel_mm, levels["air"])
    texture = _texture(shape, 3.0 / voxel_mm, rng)
    fine = _texture(shape, 1.6 / voxel_mm, rng)
    wall = rng.uniform(0.24, 0.30)
    _paint_body(painter, subject, points, levels, fine)
    # Hard on purpose: the levator is the rectal wall's twin, off by .03 to .1.
    levator_level = wall - rng.uniform(0.03, 0.10)
    painter.lay(anatomy.levator(subject, points), levator_level + 0.02 * fine)
    _paint_bowel(painter, subject, points, texture)
    gas = _paint_rectum(painter, subject, points, levels, wall, texture, rng)
    _paint_vesicles(painter, subject, points, levels, fine)
    bladder = anatomy.bladder(subject, points)
    # Hard on purpose: the bladder's neck looks like central gland, at most .05 apart.
    neck = anatomy.prostate(subject, points) < 5
    neck_level = levels["central_gland"] + rng.uniform(-0.05, 0.05)
    painter.lay(bladder, np.where(neck, np.float32(neck_level), np.float32(levels["bladder_wall"])))
    thickness = np.float32(_WALL_MM + (1.0 if subject.bladder_ml < 80 else 0.0))
    painter.lay(bladder + thickness, levels["urine"])
    _paint_prostate(painter, subject, points, levels, texture, fine, rng)
    return Signal(signal=np.clip(painter.signal, 0, None), gas_distance_mm=gas)


def _texture(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Field:
    """Smooth noise of unit standard deviation; `sigma` in voxels."""
    noise = gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    result: Field = (noise / (noise.std() + 1e-6)).astype(np.float32)
    return result


def _paint_body(
    painter: Painter, subject: Subject, points: Points, levels: Mapping[str, float], fine: Field
) -> None:
    """Skin, fat, muscles and bones around the organs."""
    x, y, z = points
    side = np.abs(x)
    mirrored = (side, y, z)
    a, b = subject.body_axes_mm
    trunk = (np.sqrt((x / np.float32(a)) ** 2 + ((y - 8) / np.float32(b)) ** 2) - 1) * np.float32(b)
    painter.lay(trunk, levels["skin"])
    painter.lay(trunk + 2.5, levels["fat"] + 0.03 * fine)
    muscle = levels["muscle"] + 0.025 * fine
    painter.lay(ellipsoid(mirrored, (70, 72, 5), (62, 26, 75)), muscle)  # gluteus maximus
    painter.lay(ellipsoid(mirrored, (74, -62, 0), (24, 22, 60)), muscle)  # iliopsoas and thigh
    painter.lay(ellipsoid(mirrored, (12, -82, 45), (22, 9, 60)), muscle)  # rectus abdominis
    painter.lay(ellipsoid(mirrored, (56, 4, 10), (9, 38, 42)), muscle)  # obturator internus
    marrow = levels["marrow"] + 0.04 * fine
    hip = (subject.femoral_x_mm, -6.0, 22.0)
    bones = (
        ellipsoid(mirrored, (hip[0] - 14, 0, 28), (16, 34, 36)),  # acetabulum
        ellipsoid(mirrored, hip, (24, 24, 24)),  # femoral head
        ellipsoid(mirrored, (16, -46, -4), (15, 12, 20)),  # pubis
        np.maximum(
            np.abs(y - 78 + np.float32(0.006) * (z - 20) ** 2) - 10,
            side - (38 - np.abs(z - 45) / 4),
        ),  # sacrum
    )
    for bone in bones:
        painter.lay(bone, levels["cortex"])
        painter.lay(bone + 2.2, marrow)
    painter.lay(np.abs(ellipsoid(mirrored, hip, (25, 25, 25))) - np.float32(1.0), 0.5)  # cartilage


def _paint_bowel(painter: Painter, subject: Subject, points: Points, texture: Field) -> None:
    """Small bowel above the bladder: walls and contents that no label knows."""
    for u, v, w, r, content, tilt in subject.bowel:
        centre = (48 * u, -8 + 26 * v, 62 + 16 * w)
        loop = ellipsoid(points, centre, (17 + 5 * r, 12 + 4 * tilt, 12 + 3 * r))
        painter.lay(loop, 0.26)
        painter.lay(loop + 2.5, 0.5 + 0.25 * content + 0.06 * texture)


def _paint_rectum(
    painter: Painter,
    subject: Subject,
    points: Points,
    levels: Mapping[str, float],
    wall: float,
    texture: Field,
    rng: np.random.Generator,
) -> Field | None:
    """Wall and content of rectum and sigmoid; returns the distance to gas, if there is any."""
    tube = anatomy.rectal_tube(subject, points)
    painter.lay(tube, wall + 0.02 * texture)
    lumen = tube + np.float32(_WALL_MM)
    if subject.rectum_content == "collapsed":
        painter.lay(lumen + 1.5, 0.45 + 0.05 * texture)  # mucosa
        return None
    if subject.rectum_content == "stool":
        level = rng.uniform(0.2, 0.6) if rng.random() < 0.8 else 0.9  # now and then fluid
        painter.lay(lumen, level + 0.09 * texture)
        return None
    # Gas rises to the front of the ampulla; a little stool lies behind it.
    painter.lay(lumen, 0.4 + 0.08 * texture)
    _, centre_y = anatomy.rectum_axis(subject, points[2])
    behind = points[1] - centre_y - np.float32(subject.rectum_radius_mm * 0.35)
    gas = anatomy.intersection(lumen, behind)
    painter.lay(gas, levels["gas"])
    return gas


def _paint_vesicles(
    painter: Painter, subject: Subject, points: Points, levels: Mapping[str, float], fine: Field
) -> None:
    x, y, z = points
    cx, cy, cz = subject.prostate_shift_mm
    _, b, c = subject.prostate_axes_mm
    vesicle = ellipsoid(
        (np.abs(x - np.float32(cx)), y, z - np.abs(x - np.float32(cx)) * np.float32(0.3)),
        (13, cy + 0.8 * b, cz + 0.95 * c),
        (14, 5, 5.5),
    )
    painter.lay(vesicle, levels["seminal_vesicle"] + 0.16 * fine)


def _paint_prostate(
    painter: Painter,
    subject: Subject,
    points: Points,
    levels: Mapping[str, float],
    texture: Field,
    fine: Field,
    rng: np.random.Generator,
) -> None:
    """Capsule, bright peripheral zone, nodular central gland, one dark peripheral lesion."""
    gland = anatomy.prostate(subject, points)
    painter.lay(gland, 0.30)
    painter.lay(gland + 1.0, levels["peripheral_zone"] + 0.06 * fine)
    central = np.maximum(anatomy.central_gland(subject, points), gland + 1.0)
    painter.lay(central, levels["central_gland"] + 0.10 * texture)
    cx, cy, cz = subject.prostate_shift_mm
    a, b, c = subject.prostate_axes_mm
    u, v, w, radius = subject.lesion_mm
    centre = (cx + u * a, cy + v * b * math.sqrt(1 - u * u), cz + w * c)
    lesion = np.maximum(ellipsoid(points, centre, (radius, radius, radius)), gland)
    painter.lay(lesion, rng.uniform(0.28, 0.36))
