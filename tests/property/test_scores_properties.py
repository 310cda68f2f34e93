"""What must hold for scores of any two masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from surface_distance import compute_surface_distances

from asdnet_models.metrics import average_surface_distance_mm, dice
from asdnet_models.sums import ScoreSum

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

edges = st.floats(0.3, 5.0)
spacings = st.tuples(edges, edges, edges)
shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
pairs = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))
quick = settings(max_examples=40)


@quick
@given(pairs, spacings)
def test_symmetric(pair: tuple[Mask, Mask], spacing_mm: Spacing) -> None:
    a, b = pair
    assert dice(a, b) == dice(b, a)
    assert average_surface_distance_mm(a, b, spacing_mm) == pytest.approx(
        average_surface_distance_mm(b, a, spacing_mm)
    )


@quick
@given(pairs, spacings)
def test_bounded(pair: tuple[Mask, Mask], spacing_mm: Spacing) -> None:
    a, b = pair
    assert 0 <= dice(a, b) <= 1
    asd_mm = average_surface_distance_mm(a, b, spacing_mm)
    if a.any() and b.any():
        assert asd_mm is not None
        assert 0 <= asd_mm <= np.linalg.norm(np.multiply(np.add(a.shape, 1), spacing_mm))
    else:
        assert asd_mm is None


@quick
@given(pairs, spacings)
def test_perfect_against_itself(pair: tuple[Mask, Mask], spacing_mm: Spacing) -> None:
    mask = pair[0]
    assert dice(mask, mask) == 1
    assert average_surface_distance_mm(mask, mask, spacing_mm) == (0 if mask.any() else None)


@quick
@given(pairs, spacings, st.integers(0, 2))
def test_flips_change_nothing(pair: tuple[Mask, Mask], spacing_mm: Spacing, axis: int) -> None:
    a, b = pair
    flipped = np.flip(a, axis), np.flip(b, axis)
    assert dice(*flipped) == dice(a, b)
    assert average_surface_distance_mm(*flipped, spacing_mm) == pytest.approx(
        average_surface_distance_mm(a, b, spacing_mm)
    )


@quick
@given(pairs, spacings, st.floats(0.5, 4.0))
def test_distance_scales_with_spacing(
    pair: tuple[Mask, Mask], spacing_mm: Spacing, factor: float
) -> None:
    larger = (spacing_mm[0] * factor, spacing_mm[1] * factor, spacing_mm[2] * factor)
    asd_mm = average_surface_distance_mm(*pair, spacing_mm)
    expected = None if asd_mm is None else pytest.approx(asd_mm * factor)
    assert average_surface_distance_mm(*pair, larger) == expected


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
    assert average_surface_distance_mm(a, b, spacing_mm) == pytest.approx(distances / areas)


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
