"""The rules by which several updates become one, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from server.rounds.rules import (
    BY_COORDINATE,
    geometric_median,
    krum,
    least_sites,
    median,
    multi_krum,
    trimmed_mean,
)

FIVE = [1.0, 2.0, 4.0, 7.0, 1e6]


def shares(*amounts: float) -> torch.Tensor:
    return torch.tensor(amounts, dtype=torch.float64) / sum(amounts)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def squares(points: Sequence[Sequence[float]]) -> np.ndarray:
    values = np.array(points, dtype=float)
    result: np.ndarray = ((values[:, None] - values[None]) ** 2).sum(-1)
    return result


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        (FIVE, (1, 1, 1, 1, 1), 4.0),
        ([3.0, 1.0, 2.0], (1, 1, 1), 2.0),
        # Half lies below 2 and half above 1: their mean.
        ([1.0, 2.0, 0.0, 9.0], (1, 1, 1, 1), 1.5),
        # The first has .4, the first two .6.
        ([1.0, 2.0, 3.0], (4, 2, 4), 2.0),
        ([1.0, 2.0, 3.0], (5, 3, 2), 1.5),
        ([1.0, 2.0, 3.0], (6, 2, 2), 1.0),
        ([1e9, -1e9, 5.0], (4, 3, 3), 5.0),
    ],
)
def test_median_by_hand(values: list[float], weights: tuple[float, ...], expected: float) -> None:
    assert median(column(*values), shares(*weights), 1).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("hostile", "expected"), [(1, (2 + 4 + 7) / 3), (2, 4.0), (9, 4.0), (0, sum(FIVE) / 5)]
)
def test_trimmed_mean_by_hand(hostile: int, expected: float) -> None:
    even = shares(1, 1, 1, 1, 1)
    assert trimmed_mean(column(*FIVE), even, hostile).item() == pytest.approx(expected)


def test_what_is_left_by_trimming_is_weighed_by_shares() -> None:
    found = trimmed_mean(column(9.0, 1.0, 3.0, -5.0), shares(4, 1, 3, 2), 1)
    assert found.item() == pytest.approx((1 * 1 + 3 * 3) / 4)


def test_each_coordinate_is_by_itself() -> None:
    rows = torch.tensor([[1.0, 8.0], [2.0, 9.0], [3.0, 7.0]], dtype=torch.float64)
    assert median(rows, shares(1, 1, 1), 1).tolist() == [2.0, 8.0]


def test_the_geometric_median_of_a_symmetric_cross_is_its_centre() -> None:
    cross = squares([[1, 0], [-1, 0], [0, 1], [0, -1]])
    assert geometric_median(cross, np.full(4, 0.25), 1) == pytest.approx([0.25] * 4)


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    # (0, 0), (2, 0), (1, h): on the axis, 1 / sqrt(3) over the base, wherever the apex is.
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1000.0]])
    found = geometric_median(squares(corners.tolist()), np.full(3, 1 / 3), 1) @ corners
    assert found == pytest.approx([1.0, 3**-0.5], rel=1e-4)


def test_the_geometric_median_of_points_on_a_line_is_their_median() -> None:
    found = geometric_median(squares([[v] for v in FIVE]), np.full(5, 0.2), 1)
    assert found @ np.array(FIVE) == pytest.approx(4.0, abs=1e-3)


def test_the_geometric_median_of_equal_updates() -> None:
    assert geometric_median(np.zeros((3, 3)), np.array([0.5, 0.3, 0.2]), 1).tolist() == [
        0.5,
        0.3,
        0.2,
    ]


def test_krum_chooses_the_update_in_the_densest_place() -> None:
    # Two nearest others each: 0, 1, 2 are together, and 1 is in their middle.
    points = squares([[0.0], [1.0], [2.1], [9.0], [1e6]])
    assert krum(points, np.full(5, 0.2), 1).tolist() == [0, 1, 0, 0, 0]


def test_of_equal_scores_the_first_is_chosen() -> None:
    assert krum(np.zeros((5, 5)), np.full(5, 0.2), 1).tolist() == [1, 0, 0, 0, 0]


def test_multi_krum_leaves_the_farthest_out_and_keeps_shares() -> None:
    points = squares([[0.0], [1.0], [2.1], [3.0], [1e6]])
    found = multi_krum(points, np.array([0.4, 0.2, 0.1, 0.1, 0.2]), 1)
    assert found == pytest.approx([0.5, 0.25, 0.125, 0.125, 0])


@pytest.mark.parametrize(("count", "kept"), [(3, 3), (4, 4), (5, 4), (6, 5), (7, 5), (8, 6)])
def test_with_few_sites_krum_takes_fewer_for_hostile(count: int, kept: int) -> None:
    found = multi_krum(squares([[v] for v in range(count)]), np.full(count, 1 / count), 2)
    assert int((found > 0).sum()) == kept


@pytest.mark.parametrize(
    ("rule", "one", "two"),
    [
        ("median", 3, 5),
        ("trimmed-mean", 3, 5),
        ("geometric-median", 3, 5),
        ("krum", 5, 7),
        ("multi-krum", 5, 7),
    ],
)
def test_the_least_number_of_sites(rule: str, one: int, two: int) -> None:
    assert (least_sites(rule, 1), least_sites(rule, 2)) == (one, two)  # type: ignore[arg-type]


def test_the_mean_withstands_nobody() -> None:
    with pytest.raises(ValueError, match="withstands no hostile site"):
        least_sites("mean", 1)
    assert BY_COORDINATE["mean"](column(*FIVE), shares(1, 1, 1, 1, 1), 1).item() > 1e5
