"""Slices without a contour: volumes of shapes whose volume a formula gives."""

import math
from pathlib import Path

import numpy as np
import pytest
from dicom_cases import real, real_gland
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from client.data.dicom.derived.drawing import Drawing
from client.data.dicom.derived.structures import write_structures
from client.data.dicom.labels.contours import read_structures
from client.data.dicom.labels.gaps import filled, find_gaps

SHAPE = (25, 100, 90)
VOXEL_MM = (1.0, 0.8, 0.8)  # z, y, x
Mask = NDArray[np.bool_]


def stack(radius_mm_at: dict[int, float], way_mm: float = 0.0) -> Mask:
    """Discs on slices; the middle moves by `way_mm` a slice."""
    mask = np.zeros(SHAPE, bool)
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    for z, radius_mm in radius_mm_at.items():
        y, x = rows * VOXEL_MM[1] - 40, columns * VOXEL_MM[2] - 36 - way_mm * (z - 12)
        mask[z] = np.hypot(y, x) < radius_mm
    return mask


def ml(mask: Mask) -> float:
    return float(np.count_nonzero(mask)) * math.prod(VOXEL_MM) / 1000


def fill(mask: Mask) -> Mask:
    mask = mask.copy()
    filled(mask, find_gaps(mask), VOXEL_MM[1:])
    return mask


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_cylinder_on_every_few_slices(step: int) -> None:
    mask = stack(dict.fromkeys(range(0, 25, step), 15.0))
    last = 24 - 24 % step
    assert ml(fill(mask)) == pytest.approx(math.pi * 15**2 * (last + 1) / 1000, rel=0.01)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_leaning_cylinder(step: int) -> None:
    mask = stack(dict.fromkeys(range(0, 25, step), 6.0), way_mm=1.2)
    expected = stack(dict.fromkeys(range(25), 6.0), way_mm=1.2)
    found = fill(mask)
    assert ml(found) == pytest.approx(ml(expected), rel=0.02)
    assert np.count_nonzero(found ^ expected) < 0.08 * np.count_nonzero(expected)


@pytest.mark.parametrize("step", [2, 3])
def test_a_sphere(step: int) -> None:
    """As planning systems, nothing is added beyond the outermost contours."""
    radii = {z: math.sqrt(12.5**2 - (z - 12) ** 2) for z in range(0, 25, step)}
    assert ml(fill(stack(radii))) == pytest.approx(4 / 3 * math.pi * 12.5**3 / 1000, rel=0.03)


def test_a_cone() -> None:
    found = fill(stack({z: 20 - 0.75 * z for z in range(0, 25, 4)}))
    expected_ml = sum(math.pi * (20 - 0.75 * z) ** 2 for z in range(25)) / 1000
    assert ml(found) == pytest.approx(expected_ml, rel=0.01)


def test_a_hole_stays_one() -> None:
    drawn = range(0, 25, 2)
    mask = stack(dict.fromkeys(drawn, 15.0)) & ~stack(dict.fromkeys(drawn, 7.0))
    assert ml(fill(mask)) == pytest.approx(math.pi * (15**2 - 7**2) * 25 / 1000, rel=0.01)


def test_two_branches_stay_two() -> None:
    half = stack(dict.fromkeys(range(0, 25, 2), 6.0))
    mask = np.roll(half, -20, axis=2) | np.roll(half, 20, axis=2)
    assert ml(fill(mask)) == pytest.approx(2 * math.pi * 6**2 * 25 / 1000, rel=0.01)


def test_a_slice_forgotten_is_filled() -> None:
    mask = stack(dict.fromkeys([*range(5, 10), *range(11, 20)], 10.0))
    assert find_gaps(mask).between == ((9, 11),)
    np.testing.assert_array_equal(fill(mask), stack(dict.fromkeys(range(5, 20), 10.0)))
    every_second = [*range(0, 8, 2), *range(10, 25, 2)]  # 8 was forgotten
    gaps = find_gaps(stack(dict.fromkeys(every_second, 10.0)))
    assert (gaps.sparse, gaps.unclear, gaps.apart) == (13, 0, 0)


def test_dense_at_its_ends() -> None:
    mask = stack(dict.fromkeys([4, 5, 6, 8, 10, 12, 13, 14], 10.0))
    assert find_gaps(mask).sparse == 3


def test_pieces_are_not_bridged() -> None:
    low, high = stack(dict.fromkeys(range(2, 6), 6.0)), stack(dict.fromkeys(range(15, 20), 6.0))
    gaps = find_gaps(low | np.roll(high, 30, axis=2))
    assert (gaps.between, gaps.unclear, gaps.apart) == ((), 0, 9)
    # Over each other they may as well be one organ, half of it not drawn.
    gaps = find_gaps(low | high)
    assert (gaps.between, gaps.unclear, gaps.apart) == ((), 9, 0)


def test_three_pieces_on_a_slice_each() -> None:
    mask = np.roll(stack({2: 6.0}), 30, axis=2) | stack({8: 6.0})
    mask |= np.roll(stack({14: 6.0}), -30, axis=2)
    gaps = find_gaps(mask)
    assert (gaps.between, gaps.unclear, gaps.apart) == ((), 0, 10)


def test_two_contours_far_from_each_other_are_no_habit() -> None:
    gaps = find_gaps(stack({3: 10.0, 12: 10.0}))
    assert (gaps.between, gaps.unclear) == ((), 8)


@pytest.mark.parametrize("drawn", [[], [4], [4, 5, 6]])
def test_no_gap(drawn: list[int]) -> None:
    gaps = find_gaps(stack(dict.fromkeys(drawn, 10.0)))
    assert (gaps.sparse, gaps.unclear, gaps.apart) == (0, 0, 0)


@real
@pytest.mark.parametrize(("step", "share", "dice"), [(2, 0.97, 0.97), (3, 0.88, 0.92)])
def test_a_real_gland(tmp_path: Path, step: int, share: float, dice: float) -> None:
    """Of which every second or third contour is left; its last slices are lost with them."""
    image, series, label = real_gland()
    gland, path = label == 1, tmp_path / "rt.dcm"
    write_structures(path, Drawing(label, image, series, {"prostate": 1}, model="none"))
    found = dcmread(path)
    first = int(np.flatnonzero(gland.any(axis=(1, 2)))[0])

    def kept(contour: Dataset) -> bool:
        point = [float(mm) for mm in contour.ContourData[:3]]
        z = round(image.TransformPhysicalPointToContinuousIndex(point)[2])
        return (z - first) % step == 0

    contours = found.ROIContourSequence[0].ContourSequence
    found.ROIContourSequence[0].ContourSequence = list(filter(kept, contours))
    found.save_as(path)
    read = read_structures(path, image, location="it", series=series)["prostate"]
    both = np.count_nonzero(read & gland)
    assert share < np.count_nonzero(read) / np.count_nonzero(gland) < 1.01
    assert 2 * both / (np.count_nonzero(read) + np.count_nonzero(gland)) > dice
