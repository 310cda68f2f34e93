"""Positions that a header rounds: an even stack is one, and a missing slice is missed."""

from pathlib import Path

import dicom_phantoms as ph
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from client.data.dicom.series import find_series, read_series, series_grid
from client.data.dicom.slices import Grid, Slice, stack
from client.data.errors import ScanError

OBLIQUE = ph.rotation(7)


def slices(
    depths_mm: list[float], decimals: int, direction: np.ndarray, start_mm: np.ndarray
) -> list[Slice]:
    """Slices at these depths along the normal, each coordinate rounded."""
    positions = start_mm + np.outer(depths_mm, direction[:, 2])
    return [
        Slice(
            position_mm=tuple(np.round(position, decimals).tolist()),
            cosines=tuple(direction[:, :2].T.ravel().tolist()),
            spacing_mm=(0.5, 0.5),
            size=(4, 4),
            thickness_mm=3.0,
            rounding_mm=(0.5 * 10.0**-decimals,) * 3,
            acquired={},
        )
        for position in positions
    ]


starts = st.tuples(*[st.floats(-300, 300)] * 3).map(np.array)
directions = st.sampled_from([np.eye(3), np.diag([1.0, -1.0, -1.0]), OBLIQUE, ph.rotation(11)])


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    step_mm=st.floats(0.3, 8),
    count=st.integers(2, 40),
    decimals=st.integers(0, 6),
    direction=directions,
    start_mm=starts,
)
def test_an_even_stack_passes(
    step_mm: float, count: int, decimals: int, direction: np.ndarray, start_mm: np.ndarray
) -> None:
    unit_mm = 10.0**-decimals
    assume(unit_mm * np.abs(direction[:, 2]).sum() < step_mm / 8 and unit_mm < 0.17)
    depths = [step_mm * z for z in range(count)]
    grid = stack(slices(depths, decimals, direction, start_mm), location="")
    assert grid.order == tuple(range(count))
    assert abs(grid.spacing_mm[2] - step_mm) <= 2 * unit_mm / (count - 1)
    np.testing.assert_allclose(grid.origin_mm, start_mm, atol=unit_mm)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    step_mm=st.floats(0.3, 8),
    count=st.integers(3, 40),
    gap=st.floats(1.5, 3),
    at=st.integers(0, 38),
    decimals=st.integers(0, 6),
    direction=directions,
    start_mm=starts,
)
def test_a_missing_slice_is_refused(
    step_mm: float,
    count: int,
    gap: float,
    at: int,
    decimals: int,
    direction: np.ndarray,
    start_mm: np.ndarray,
) -> None:
    """Whatever the digits: where they are too coarse to tell, that is what is said."""
    if 10.0**-decimals * 8 > step_mm:  # then a gap of half a step may be no gap
        gap = 2.0
    depths = np.cumsum([0.0] + [gap if z == at % (count - 1) else 1 for z in range(count - 1)])
    steps = np.round((depths * step_mm)[:, None] * direction[:, 2] + start_mm, decimals)
    assume(np.ptp(np.diff(steps @ direction[:, 2])) > 0.01 * step_mm)  # to be seen at all
    with pytest.raises(ScanError, match=r"unevenly spaced|too coarse|on one position|sideways"):
        stack(slices((depths * step_mm).tolist(), decimals, direction, start_mm), location="")


def placed(*heights: str, of: tuple[str, str] = ("-10", "20")) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        header.ImagePositionPatient = [*of, heights[z]]

    return edit


def grid_of(folder: Path, edit: ph.Edit) -> Grid:
    series = find_series(ph.write_classic(folder, ph.phantom(), edit=edit), location="")
    image = read_series(series, location="")
    grid = series_grid(series, location="")
    assert image.GetSpacing() == pytest.approx(grid.spacing_mm)
    return grid


@pytest.mark.parametrize(
    ("heights", "step_mm"),
    [
        (("5", "8", "10.9", "13.9", "16.9"), 2.975),
        (("0", "0.62", "1.25", "1.87", "2.5"), 0.625),
        (("-1.25", "-0.62", "0.00", "0.63", "1.25"), 0.625),
        (("3", "7", "12", "16", "20"), 4.25),
        (("0e0", "3.0e0", "5.9e0", "8.9e0", "1.19e1"), 2.975),
    ],
)
def test_steps_that_the_digits_explain(
    tmp_path: Path, heights: tuple[str, ...], step_mm: float
) -> None:
    assert grid_of(tmp_path, placed(*heights)).spacing_mm[2] == pytest.approx(step_mm)


@pytest.mark.parametrize(
    ("heights", "said"),
    [
        (("0", "3.0", "6.1", "12.1", "15.1"), "unevenly spaced, 3 to 6 mm"),
        (("0.0", "3.0", "6.0", "10.5", "13.5"), "unevenly spaced, 3 to 4.5 mm"),
        (("0.000", "2.915", "5.941", "8.900", "11.900"), "unevenly spaced, 2.915 to 3.026 mm"),
        (("0.00", "3.00", "6.00", "9.30", "12.30"), "unevenly spaced, 3 to 3.3 mm"),
        (("0", "0", "1", "2", "2"), "rounded to 1 mm, too coarse for steps of 0.5 mm"),
        (("0", "1", "1", "2", "2"), "rounded to 1 mm, too coarse for steps of 0.5 mm"),
        (("0", "3", "3", "6", "9"), "two slices lie on one position"),
        (("7", "7", "7", "7", "7"), "two slices lie on one position"),
    ],
)
def test_steps_that_they_do_not(tmp_path: Path, heights: tuple[str, ...], said: str) -> None:
    with pytest.raises(ScanError, match=said) as caught:
        grid_of(tmp_path, placed(*heights))
    assert caught.value.problem.rule == "slices"


def test_rounding_of_an_oblique_stack_is_no_tilt(tmp_path: Path) -> None:
    made = ph.phantom((12, 14, 18), direction=OBLIQUE, spacing_mm=(0.3, 0.3, 3.0))

    def edit(header: Dataset, z: int) -> None:
        header.ImagePositionPatient = [f"{mm:.1f}" for mm in made.position_mm(z)]

    folder = ph.write_classic(tmp_path, made, edit=edit)
    headers = [dcmread(file) for file in folder.iterdir()]
    depths = np.sort([made.direction[:, 2] @ header.ImagePositionPatient for header in headers])
    assert np.ptp(np.diff(depths)) > 0.08  # steps of 2.95 to 3.05 mm
    series = find_series(folder, location="")
    assert series_grid(series, location="").spacing_mm[2] == pytest.approx(3.0, abs=0.02)


def test_rounding_that_is_too_coarse_to_see_a_tilt(tmp_path: Path) -> None:
    made = ph.phantom((12, 14, 18), direction=OBLIQUE, spacing_mm=(0.5, 0.5, 30.0))

    def edit(header: Dataset, z: int) -> None:
        header.ImagePositionPatient = [f"{mm:.0f}" for mm in made.position_mm(z)]

    series = find_series(ph.write_classic(tmp_path, made, edit=edit), location="")
    with pytest.raises(ScanError, match=r"rounded to 1 mm, too coarse for voxels of 0.5 mm"):
        series_grid(series, location="")
