"""What lies around the labelled organs: skin, fat, muscles, bones, vessels, bowel."""

from collections.abc import Mapping

import numpy as np

from simulation.phantom.anatomy import Subject
from simulation.phantom.painter import Painter, mirrored
from simulation.phantom.shapes import Field, Points, Vector, ellipsoid

_CORTEX_MM = 2.0
# Centre and semi-axes of the left one; the right one mirrors it.
_MUSCLES: tuple[tuple[Vector, Vector], ...] = (
    ((62, -50, 24), (18, 17, 60)),  # iliopsoas
    ((18, -70, 45), (20, 7, 55)),  # rectus abdominis
    ((42, -46, -22), (24, 14, 16)),  # obturator externus, pectineus
    ((88, -52, -6), (22, 22, 60)),  # sartorius, rectus femoris
)


def paint_body(
    painter: Painter, subject: Subject, points: Points, levels: Mapping[str, float], fine: Field
) -> None:
    """Skin, fat with its veins, muscles, bones."""
    x, y, _ = points
    a, b = subject.body_axes_mm
    trunk = (np.sqrt((x / np.float32(a)) ** 2 + ((y - 8) / np.float32(b)) ** 2) - 1) * np.float32(b)
    painter.lay(trunk, levels["skin"])
    # Veins and septa: dark where the fine noise peaks.
    veins = 0.3 * np.clip(fine - 1.4, 0, 1)
    painter.lay(trunk + 2.5, np.clip(levels["fat"] + 0.03 * fine - veins, 0.2, None))
    _paint_muscles(painter, subject, points, levels["muscle"] + 0.025 * fine)
    _paint_bones(painter, subject, points, levels, fine)
    _paint_sacrum(painter, subject, points, levels, fine)


def _paint_muscles(painter: Painter, subject: Subject, points: Points, level: Field) -> None:
    for side in (1, -1):
        for centre, axes in _MUSCLES:
            painter.lay_ellipsoid(points, mirrored(centre, side), axes, level)

        def obturator(near: Points, side: int = side) -> Field:
            # Lines the side wall: its front and back bend inwards.
            x, y, z = near
            return ellipsoid((side * x + 0.008 * (y + 4) ** 2, y, z), (50, -4, 0), (8, 40, 36))

        def gluteus(near: Points, side: int = side) -> Field:
            # From the sacrum outwards and forwards.
            x, y, z = near
            return ellipsoid((x, y + 0.35 * (side * x - 30), z), (side * 62, 84, 4), (54, 17, 68))

        low, high = (20, -50, -40), (75, 42, 40)
        painter.lay_in_box(points, *_corners(low, high, side), obturator, level)
        painter.lay_in_box(points, *_corners((0, 35, -70), (125, 125, 80), side), gluteus, level)
        back = subject.rectum_front_mm + 2 * subject.rectum_radius_mm * subject.rectum_flatness
        piriformis = (side * 46.0, back + 12, 48.0)
        painter.lay_ellipsoid(points, piriformis, (26, 10, 15), level)
        for vessel, radius, signal in (((58, -66), 5.0, 0.08), ((48, -62), 5.5, 0.3)):
            start, end = (side * vessel[0], vessel[1], -90), (side * (vessel[0] - 8), -40, 110)
            painter.lay_capsule(points, start, end, radius, signal)


def _corners(low: Vector, high: Vector, side: int) -> tuple[Vector, Vector]:
    if side > 0:
        return low, high
    return (-high[0], low[1], low[2]), (-low[0], high[1], high[2])


def _paint_bones(
    painter: Painter, subject: Subject, points: Points, levels: Mapping[str, float], fine: Field
) -> None:
    cortex: float | Field = levels["cortex"]
    marrow: float | Field = (levels["marrow"] + 0.04 * fine).astype(np.float32)
    hip = (subject.femoral_x_mm, -6.0, 27.0)
    for side in (1, -1):
        head = mirrored(hip, side)
        cup = mirrored((hip[0] - 17, 2, 30), side)
        ischium = mirrored((58, 20, -20), side)
        for inset, level in ((0.0, cortex), (_CORTEX_MM, marrow)):
            painter.lay_ellipsoid(points, cup, (13 - inset, 31 - inset, 34 - inset), level)
            painter.lay_ellipsoid(points, ischium, (12 - inset, 15 - inset, 24 - inset), level)
            pubis = mirrored((12, -44, -8), side)
            for end, radius in (((56, -26, 16), 8.0), ((44, 2, -44), 7.0)):
                painter.lay_capsule(points, pubis, mirrored(end, side), radius - inset, level)
            body = (11 - inset, 9 - inset, 17 - inset)
            painter.lay_ellipsoid(points, mirrored((12.5, -44, -6), side), body, level)
        # Cartilage, cortex, marrow of the head; its neck and trochanter leave the field.
        for radius, level in (
            (25.0, 0.5), (23.5, cortex), (22.0, marrow),
        ):  # fmt: skip
            painter.lay_ellipsoid(points, head, (radius, radius, radius), level)
        trochanter = mirrored((hip[0] + 34, 8, -8), side)
        for inset, level in ((0.0, cortex), (_CORTEX_MM, marrow)):
            painter.lay_capsule(points, head, trochanter, 14 - inset, level)


def _paint_sacrum(
    painter: Painter, subject: Subject, points: Points, levels: Mapping[str, float], fine: Field
) -> None:
    """Three sacral bodies and the coccyx behind the rectum, on a curve that is hollow in front."""
    marrow = levels["marrow"] + 0.04 * fine
    front = (
        subject.rectum_front_mm
        + 2 * subject.rectum_radius_mm * subject.rectum_flatness
        + 0.6 * subject.rectum_hollow_mm
        + subject.sacrum_gap_mm
    )
    bodies = (
        ((0.0, front + 4, 82.0), (44.0, 13.0, 11.0)),
        ((0.0, front + 11, 61.0), (36.0, 12.0, 10.5)),
        ((0.0, front + 13, 41.0), (27.0, 11.0, 10.0)),
        ((0.0, front + 9, 22.0), (15.0, 8.0, 9.0)),
        ((0.0, front + 3, 7.0), (8.0, 5.0, 7.0)),
    )
    for centre, axes in bodies:
        x, y, z = axes
        painter.lay_ellipsoid(points, centre, axes, levels["cortex"])
        painter.lay_ellipsoid(points, centre, (x - 2, y - 2, z - 2), marrow)


def paint_bowel(painter: Painter, subject: Subject, points: Points, texture: Field) -> None:
    """Small bowel above and behind the bladder: walls and contents that no label knows."""
    for u, v, w, r, content, tilt in subject.bowel:
        centre = (46 * u, 10 + 32 * v, 60 + 24 * w)
        axes = (17 + 5 * r, 12 + 4 * tilt, 12 + 3 * r)
        inner = (axes[0] - 2.5, axes[1] - 2.5, axes[2] - 2.5)
        painter.lay_ellipsoid(points, centre, axes, 0.26)
        painter.lay_ellipsoid(points, centre, inner, 0.5 + 0.25 * content + 0.06 * texture)
