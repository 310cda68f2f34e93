"""T2-weighted signal of every tissue (urine is 1), painted from the outside in.

Levels as in docs/method.md.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter

from simulation.phantom import anatomy
from simulation.phantom.anatomy import Organs, Subject
from simulation.phantom.painter import Painter
from simulation.phantom.shapes import Field, Points, ellipsoid, intersection, shape_of
from simulation.phantom.surroundings import paint_body, paint_bowel

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
# Muscle of the anal canal and of the prostate's front; not among a site's shifted levels.
_FIBROMUSCULAR = 0.22
_WALL_MM = 3.0


def paint(
    subject: Subject,
    points: Points,
    organs: Organs,
    voxel_mm: float,
    levels: Mapping[str, float],
    rng: np.random.Generator,
) -> Field:
    """The signal of one subject at these points.

    Args:
        subject: The geometry.
        points: (x, y, z) in mm, arrays that broadcast to the grid's shape.
        organs: Its organs at the same points.
        voxel_mm: Edge over which coverage goes from 0 to 1.
        levels: T2 levels of this site, names as in `T2_LEVELS`.
        rng: Textures and the hard contrasts.
    """
    shape = shape_of(points)
    painter = Painter(shape, voxel_mm, levels["air"])
    texture = _texture(shape, 3.0 / voxel_mm, rng)
    fine = _texture(shape, 1.6 / voxel_mm, rng)
    wall = rng.uniform(0.24, 0.30)
    paint_body(painter, subject, points, levels, fine)
    # Hard on purpose: the levator is the rectal wall's twin, off by .03 to .1.
    levator_level = wall - rng.uniform(0.03, 0.10)
    painter.lay(anatomy.levator(subject, points), levator_level + 0.02 * fine)
    paint_bowel(painter, subject, points, texture)
    _paint_rectum(painter, subject, points, organs, levels, wall, texture, rng)
    _paint_vesicles(painter, subject, points, levels, fine)
    _paint_bladder(painter, subject, organs, levels, rng)
    _paint_prostate(painter, subject, points, organs, levels, (texture, fine), rng)
    signal: Field = np.clip(painter.signal, 0, None)
    return signal


def gas_distance(subject: Subject, points: Points, organs: Organs) -> Field | None:
    """Signed distance to the rectum's gas; None if it holds none.

    The patient lies on his back: gas rises to the front of the lumen.
    """
    if subject.rectum_content != "gas":
        return None
    return _gas(subject, points, organs.bowel_tube)


def _gas(subject: Subject, points: Points, tube: Field) -> Field:
    _, y, z = points
    _, centre_y = anatomy.rectum_axis(subject, z)
    level = centre_y + np.float32(subject.rectum_radius_mm * subject.rectum_flatness * 0.35)
    ends = np.maximum(z - np.float32(subject.rectum_high_mm + 10), subject.rectum_low_mm + 4 - z)
    return intersection(intersection(tube + np.float32(_WALL_MM), y - level), ends)


def _texture(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Field:
    """Smooth noise of unit standard deviation; `sigma` in voxels."""
    noise = gaussian_filter(rng.standard_normal(shape, np.float32), sigma, truncate=3.0)
    result: Field = (noise / (noise.std() + 1e-6)).astype(np.float32)
    return result


def _paint_rectum(
    painter: Painter,
    subject: Subject,
    points: Points,
    organs: Organs,
    levels: Mapping[str, float],
    wall: float,
    texture: Field,
    rng: np.random.Generator,
) -> None:
    """Wall and content of anal canal, rectum and sigmoid."""
    painter.lay(organs.bowel_tube, wall + 0.02 * texture)
    above = subject.rectum_low_mm + 2 - points[2]
    lumen = intersection(organs.bowel_tube + np.float32(_WALL_MM), above)
    if subject.rectum_content == "collapsed":
        painter.lay(lumen + 1.5, 0.45 + 0.05 * texture)  # mucosa
    elif subject.rectum_content == "stool":
        level = rng.uniform(0.2, 0.6) if rng.random() < 0.8 else 0.9  # now and then fluid
        painter.lay(lumen, level + 0.09 * texture)
    else:
        painter.lay(lumen, 0.4 + 0.08 * texture)  # a little stool lies behind the gas
        painter.lay(_gas(subject, points, organs.bowel_tube), levels["gas"])
    canal = intersection(organs.bowel_tube, points[2] - np.float32(subject.rectum_low_mm))
    painter.lay(canal, _FIBROMUSCULAR + 0.02 * texture)
    painter.lay(canal + 5.5, 0.45)


def _paint_vesicles(
    painter: Painter, subject: Subject, points: Points, levels: Mapping[str, float], fine: Field
) -> None:
    cx, cy, cz = subject.prostate_centre_mm
    _, b, c = subject.prostate_axes_mm
    level = levels["seminal_vesicle"] + 0.16 * fine

    def vesicle(near: Points) -> Field:
        x, y, z = near
        side = np.abs(x - np.float32(cx))
        return ellipsoid(
            (side, y, z - side * np.float32(0.3)), (13, cy + 0.8 * b, cz + 0.95 * c), (14, 5, 5.5)
        )

    low = (cx - 32, cy + 0.8 * b - 9, cz + 0.95 * c - 10)
    painter.lay_in_box(points, low, (cx + 32, low[1] + 18, low[2] + 30), vesicle, level)


def _paint_bladder(
    painter: Painter,
    subject: Subject,
    organs: Organs,
    levels: Mapping[str, float],
    rng: np.random.Generator,
) -> None:
    # Hard on purpose: the bladder's neck looks like central gland, at most .05 apart.
    neck_level = levels["central_gland"] + rng.uniform(-0.05, 0.05)
    wall = np.where(organs.prostate < 5, np.float32(neck_level), np.float32(levels["bladder_wall"]))
    painter.lay(organs.bladder, wall)
    thickness = np.float32(_WALL_MM + (1.0 if subject.bladder_ml < 80 else 0.0))
    painter.lay(organs.bladder + thickness, levels["urine"])


def _paint_prostate(
    painter: Painter,
    subject: Subject,
    points: Points,
    organs: Organs,
    levels: Mapping[str, float],
    textures: tuple[Field, Field],
    rng: np.random.Generator,
) -> None:
    """Capsule, bright peripheral zone, nodular central gland, one dark peripheral lesion."""
    texture, fine = textures
    gland = organs.prostate
    painter.lay(gland, 0.30)
    painter.lay(gland + 1.0, levels["peripheral_zone"] + 0.06 * fine)
    central = np.maximum(anatomy.central_gland(subject, points), gland + 1.0)
    painter.lay(central, levels["central_gland"] + 0.10 * texture)
    cx, cy, cz = subject.prostate_centre_mm
    a, b, c = subject.prostate_axes_mm
    stroma = ellipsoid(points, (cx, cy - 0.9 * b, cz), (0.45 * a, 0.3 * b, 0.75 * c))
    painter.lay(np.maximum(stroma, gland), _FIBROMUSCULAR)
    u, v, w, radius = subject.lesion
    centre = (cx + u * a, cy + v * b * math.sqrt(1 - u * u), cz + w * c)
    lesion = np.maximum(ellipsoid(points, centre, (radius, radius, radius)), gland)
    painter.lay(lesion, rng.uniform(0.28, 0.36))
