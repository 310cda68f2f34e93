"""What must hold for scores of any two masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from surface_distance import (
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

from asdnet_models.metrics import SurfaceScores, dice, surface_scores
from asdnet_models.sums import ScoreSum

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
TOLERANCE_MM = 2.0

edges = st.floats(0.3, 5.0)
spacings = st.tuples(edges, edges, edges)
shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
pairs = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))
quick = settings(max_examples=40)


def measured(a: Mask, b: Mask, spacing_mm: Spacing) -> SurfaceScores | None:
    return surface_scores(a, b, spacing_mm, tolerance_mm=TOLERANCE_MM)


def close(scores: SurfaceScores | None) -> object:
    return (
        None
        if scores is None
        else SurfaceScores(**{k: pytest.approx(v) for k, v in vars(scores).items()})
    )


@quick
@given(pairs, spacings)
def test_symmetric(pair: tuple[Mask, Mask], spacing_mm: Spacing) -> None:
    a, b = pair
    assert dice(a, b) == dice(b, a)
    assert measured(a, b, spacing_mm) == close(measured(b, a, spacing_mm))


@quick
@given(pairs, spacings)
def test_bounded(pair: tuple[Mask, Mask], spacing_mm: Spacing) -> None:
    a, b = pair
    assert 0 <= dice(a, b) <= 1
    scores = measured(a, b, spacing_mm)
    if a.any() and b.any():
        assert scores is not None
        diagonal_mm = np.linalg.norm(np.multiply(np.add(a.shape, 1), spacing_mm))
        assert 0 <= scores.asd_mm <= diagonal_mm
        assert 0 <= scores.hd95_mm <= diagonal_mm
        assert 0 <= scores.nsd <= 1
    else:
        assert scores is None


@quick
@given(pairs, spacings)
def test_perfect_against_itself(pair: tuple[Mask, Mask], spacing_mm: Spacing) -> None:
    mask = pair[0]
    assert dice(mask, mask) == 1
    perfect = SurfaceScores(asd_mm=0.0, hd95_mm=0.0, nsd=1.0)
    assert measured(mask, mask, spacing_mm) == (perfect if mask.any() else None)


@quick
@given(pairs, spacings, st.integers(0, 2))
def test_flips_change_nothing(pair: tuple[Mask, Mask], spacing_mm: Spacing, axis: int) -> None:
    a, b = pair
    flipped = np.flip(a, axis), np.flip(b, axis)
    assert dice(*flipped) == dice(a, b)
    assert measured(*flipped, spacing_mm) == close(measured(a, b, spacing_mm))


@quick
@given(pairs, spacings, st.floats(0.5, 4.0))
def test_distance_scales_with_spacing(
    pair: tuple[Mask, Mask], spacing_mm: Spacing, factor: float
) -> None:
    larger = (spacing_mm[0] * factor, spacing_mm[1] * factor, spacing_mm[2] * factor)
    scores, scaled = measured(*pair, spacing_mm), measured(*pair, larger)
    if scores is None:
        assert scaled is None
        return
    assert scaled is not None
    assert scaled.asd_mm == pytest.approx(scores.asd_mm * factor)


@quick
@given(pairs, spacings, st.lists(st.integers(0, 6), min_size=6, max_size=6))
def test_equals_the_reference_package_on_the_whole_volume(
    pair: tuple[Mask, Mask], spacing_mm: Spacing, margins: list[int]
) -> None:
    padding = list(zip(margins[:3], margins[3:], strict=True))
    a, b = np.pad(pair[0], padding), np.pad(pair[1], padding)
    if not (a.any() and b.any()):
        return
    found = compute_surface_distances(a, b, spacing_mm)
    areas = found["surfel_areas_gt"].sum() + found["surfel_areas_pred"].sum()
    distances = (found["distances_gt_to_pred"] * found["surfel_areas_gt"]).sum() + (
        found["distances_pred_to_gt"] * found["surfel_areas_pred"]
    ).sum()
    assert measured(a, b, spacing_mm) == SurfaceScores(
        asd_mm=pytest.approx(distances / areas),
        hd95_mm=pytest.approx(compute_robust_hausdorff(found, 95)),
        nsd=pytest.approx(compute_surface_dice_at_tolerance(found, TOLERANCE_MM)),
    )


@quick
@given(st.lists(st.one_of(st.none(), st.floats(0, 50)), max_size=12), st.integers(0, 12))
def test_sums_do_not_depend_on_how_cases_are_shared_out(
    values: list[float | None], cut: int
) -> None:
    whole = ScoreSum.of(values)
    parts = ScoreSum.of(values[:cut]) + ScoreSum.of(values[cut:])
    assert parts.count == whole.count
    assert parts.mean == pytest.approx(whole.mean)
    defined = [value for value in values if value is not None]
    if len(defined) >= 2:
        assert parts.sd == pytest.approx(np.std(defined, ddof=1), abs=1e-5)
    else:
        assert parts.sd is None
