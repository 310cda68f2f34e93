"""Draws subjects at random: sizes and positions of organs, and their contacts."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulation.phantom.anatomy import Content, Subject, organs, prostate
from simulation.phantom.shapes import Field, Vector

BLADDER_ML = (40.0, 400.0)
PROSTATE_ML = (25.0, 110.0)
# A voxel grid measures a drawn volume to some per cent, so that the draw keeps off the bounds.
_OFF_BOUNDS = 0.05


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
