"""Strides and kernels as nnU-Net plans them, worked out by hand."""

import pytest

from protocol.planning.topology import Topology, divisible, fitted, shrunk, topology


def test_cubes_are_halved_while_four_voxels_are_left() -> None:
    # 40 -> 20 -> 10 -> 5; 56 -> 28 -> 14 -> 7.
    found = topology((40, 56, 40), (1.0, 1.0, 1.0))
    assert found.strides == ((2, 2, 2),) * 3
    assert found.kernels == ((3, 3, 3),) * 4
    assert found.multiple == (8, 8, 8)


def test_a_coarse_axis_waits_until_its_voxels_are_like_the_others() -> None:
    # 1.5 -> 3 -> 6 mm: then 8 mm is less than twice as long, and z is as fine as any.
    found = topology((128, 128, 12), (1.5, 1.5, 8.0))
    # As nnU-Net 2.8 plans the cardiac set.
    assert found.strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 1), (2, 2, 1))
    assert found.kernels == ((3, 3, 1), (3, 3, 1), *((3, 3, 3),) * 4)
    assert found.multiple == (32, 32, 2)


def test_one_axis_alone_is_halved_where_it_is_longer() -> None:
    # 64 x 48 x 32 -> 8 x 6 x 4: as nnU-Net 2.8 plans the atrium set.
    assert topology((64, 48, 32), (1.875,) * 3).strides == ((2, 2, 2),) * 3
    assert topology((96, 48, 32), (1.875,) * 3).strides == (*((2, 2, 2),) * 3, (2, 1, 1))


def test_nothing_small_is_halved() -> None:
    assert topology((7, 7, 7), (1.0, 1.0, 1.0)) == Topology(strides=(), kernels=((3, 3, 3),))


@pytest.mark.parametrize("patch", [(35, 50, 35), (150, 130, 9), (33, 17, 90), (9, 8, 200)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 1.5, 8.0), (0.6, 3.0, 0.6)])
def test_a_fitted_patch_is_divisible_and_no_smaller(
    patch: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    edges, found = fitted(patch, spacing)
    assert all(e >= n and not e % m for e, n, m in zip(edges, patch, found.multiple, strict=True))
    assert edges == divisible(patch, found.multiple)


def test_the_longest_axis_of_the_scan_is_shortened_first() -> None:
    assert shrunk((64, 64, 16), (64, 128, 16), (8, 8, 8), (8, 8, 4)) == (56, 64, 16)
    assert shrunk((56, 64, 16), (64, 128, 16), (8, 8, 8), (8, 8, 4)) == (56, 64, 12)
    # What an organ needs stays.
    assert shrunk((56, 64, 16), (64, 128, 16), (50, 60, 13), (8, 8, 4)) is None
