"""Strong views: they show the scan and nothing made up, and keep what no scanner changes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client.training.augmentation import RandomViews
from client.training.intensities import (
    blurred,
    coarsened,
    contrasted,
    gamma_changed,
    shaded,
)
from client.training.strong_views import Move, draw_moves, edges_of, strong_views
from protocol.config.study import StudyProtocol

CUBE, FLAT, SAGITTAL = (24, 16, 16), (32, 32, 8), (8, 32, 32)
PATCHES = [CUBE, FLAT, SAGITTAL]
SPACING = (1.0, 1.5, 2.0)


def study(patch: tuple[int, int, int] = CUBE, **training: Any) -> StudyProtocol:
    return StudyProtocol.model_validate(
        {
            "patch_voxels": patch,
            "spacing_mm": SPACING,
            "network": {"kernel": 3, "width": 2},
            "training": {"views": "strong", **training},
        }
    )


def ramps(edges: np.ndarray[Any, Any]) -> Tensor:
    """(3, 1, X, Y, Z): the place of each voxel along x, y and z, from the middle."""
    lines = [torch.arange(int(n)).float() - (int(n) - 1) / 2 for n in edges]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))[:, None]


def moved(move: Move, protocol: StudyProtocol, cut: Tensor, label: Tensor | None = None) -> Any:
    """The view without a change of intensity."""
    return strong_views(cut, label, protocol, [move] * len(cut), Still())  # type: ignore[arg-type]


class Still:
    """A generator by whose draws no intensity changes."""

    def random(self) -> float:
        return 0.999


def some_moves(protocol: StudyProtocol, count: int = 40) -> list[Move]:
    return draw_moves(protocol, count, np.random.default_rng(3))


def is_moved(move: Move) -> bool:
    return not np.array_equal(np.abs(move.matrix), np.eye(3))


# ---- geometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", PATCHES)
def test_every_voxel_of_a_view_is_where_its_move_says(patch: tuple[int, int, int]) -> None:
    """A linear function stays linear up to the corners: nothing there is continued or padded."""
    protocol = study(patch, flips=("left-right", "front-back", "up-down"))
    moves = some_moves(protocol)
    cut = ramps(edges_of(moves, patch))
    out = ramps(np.array(patch))[:, 0]
    for move in moves:
        expected = torch.einsum("ij,jxyz->ixyz", torch.from_numpy(move.matrix).float(), out)
        found, _ = moved(move, protocol, cut)
        torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("patch", PATCHES)
def test_a_label_is_the_nearest_voxels(patch: tuple[int, int, int]) -> None:
    protocol = study(patch, flips=("up-down",))
    moves = some_moves(protocol)
    cut = ramps(edges_of(moves, patch))
    # Places as class numbers, which only nearest neighbours leave whole.
    label = (cut - cut.amin((1, 2, 3, 4), True)).to(torch.uint8)
    out = ramps(np.array(patch))[:, 0]
    for move in moves:
        _, found = moved(move, protocol, cut, label)
        assert found.dtype == torch.uint8
        shown = found.float() + cut.amin((1, 2, 3, 4), True)
        expected = torch.einsum("ij,jxyz->ixyz", torch.from_numpy(move.matrix).float(), out)
        assert (shown[:, 0] - expected).abs().max() < 0.5 + 1e-3


def test_the_share_that_is_moved_is_nnu_nets() -> None:
    moves = some_moves(study(), 4000)
    assert np.mean([is_moved(move) for move in moves]) == pytest.approx(1 - 0.8**2, abs=0.03)


def test_turns_and_scales_stay_in_their_ranges() -> None:
    """The singular values of a move in mm are 1 / scale; its rotation is of at most three turns."""
    protocol = study()
    scales, angles = [], []
    spacing = np.array(SPACING)
    for move in some_moves(protocol, 2000):
        in_mm = move.matrix * spacing[:, None] / spacing
        scale = 1 / abs(np.linalg.det(in_mm)) ** (1 / 3)
        scales.append(scale)
        turn = in_mm * scale
        turn[:, 0] *= np.sign(np.linalg.det(turn))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        angles.append(math.degrees(math.acos(min(1.0, (np.trace(turn) - 1) / 2))))
    assert 0.7 <= min(scales) < 0.75
    assert 1.35 < max(scales) <= 1.4
    assert 30 < max(angles) <= 90


@pytest.mark.parametrize("turn_deg", [0.0, 10.0, 180.0])
def test_a_flat_patch_is_turned_as_far_as_the_study_says(turn_deg: float) -> None:
    moves = some_moves(study(FLAT, flips=(), turn_deg=turn_deg), 2000)
    along = SPACING[1] / SPACING[0]
    turns = [abs(math.degrees(math.atan2(m.matrix[1, 0] * along, m.matrix[0, 0]))) for m in moves]
    assert max(turns) == pytest.approx(turn_deg, rel=0.05)


@pytest.mark.parametrize(("patch", "axis"), [(FLAT, 2), (SAGITTAL, 0)])
def test_slices_far_apart_are_never_mixed_by_a_turn(patch: tuple[int, int, int], axis: int) -> None:
    for move in some_moves(study(patch), 400):
        assert move.kept == axis
        assert np.count_nonzero(move.matrix[axis]) == np.count_nonzero(move.matrix[:, axis]) == 1


@pytest.mark.parametrize("flips", [(), ("left-right",), ("front-back", "up-down")])
def test_mirror_images_are_along_the_axes_of_its_flips(flips: tuple[str, ...]) -> None:
    signs = np.array([np.sign(np.diag(m.matrix)) for m in some_moves(study(flips=flips), 200)])
    for axis, name in enumerate(("left-right", "front-back", "up-down")):
        share = float((signs[:, axis] < 0).mean())
        assert 0.3 < share < 0.7 if name in flips else share == 0


def test_what_is_not_moved_is_the_middle_of_the_cut() -> None:
    protocol = study()
    still = Move(matrix=np.eye(3), kept=2, mirrored=[], patch=np.array(CUBE))
    cut = torch.randn(1, 1, 30, 20, 16)
    found, _ = moved(still, protocol, cut)
    assert torch.equal(found, cut[:, :, 3:27, 2:18])


# ---- intensities --------------------------------------------------------------------------------


def textured() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 1, 6, 5, 4, generator=generator).repeat_interleave(3, 2)[0, 0] * 2 + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda i: blurred(i, 0.8, [0, 1, 2]),
        lambda i: coarsened(i, 0.6, [0, 1, 2]),
        lambda i: contrasted(i, 1.2),
        lambda i: gamma_changed(i, 0.7),
        lambda i: shaded(i, np.full((4, 4, 4), 0.4)),
    ],
)
def test_a_flat_image_stays_as_it_is(change: Any) -> None:
    flat = torch.full((6, 5, 4), 3.5)
    torch.testing.assert_close(change(flat), flat)


def test_a_blurred_point_is_a_gaussian() -> None:
    point = torch.zeros(9, 9, 9)
    point[4, 4, 4] = 1
    found = blurred(point, 0.9, [0, 1])
    assert float(found.sum()) == pytest.approx(1)
    assert not found[:, :, [3, 5]].any()
    assert float(found[5, 4, 4] / found[4, 4, 4]) == pytest.approx(math.exp(-1 / 0.9**2 / 2))
    variance = float((found.sum((1, 2)) * (torch.arange(9) - 4) ** 2).sum())
    assert variance == pytest.approx(0.9**2, rel=0.05)


def test_far_slices_are_neither_blurred_nor_coarsened() -> None:
    """Along z, of which voxels are more than twice as long: no slice hears of another."""
    image = textured()
    other = image.clone()
    other[:, :, 1] += 5
    for change in (blurred, coarsened):
        one, two = change(image, 0.7, [0, 1]), change(other, 0.7, [0, 1])
        assert torch.equal(one[:, :, [0, 2, 3]], two[:, :, [0, 2, 3]])
        assert not torch.equal(one, image)


def test_contrast_by_hand() -> None:
    image = torch.tensor([[[0.0, 1.0, 5.0]]])  # mean 2
    assert contrasted(image, 0.5).flatten().tolist() == pytest.approx([1, 1.5, 3.5])
    # Within the range: 2 + 1.25 (0 - 2) is -.5, and stays 0.
    assert contrasted(image, 1.25).flatten().tolist() == pytest.approx([0, 0.75, 5])


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_keeps_mean_spread_and_order(gamma: float) -> None:
    image = textured()
    found = gamma_changed(image, gamma)
    assert float(found.mean()) == pytest.approx(float(image.mean()), abs=1e-4)
    assert float(found.std()) == pytest.approx(float(image.std()), rel=1e-3)
    assert (found.flatten()[image.flatten().argsort()].diff() > -1e-4).all()
    assert not torch.allclose(found, image, atol=0.05)


def test_a_shading_is_a_polynomial_gain_at_the_mean_and_spread_of_before() -> None:
    image = textured()
    coefficients = np.random.default_rng(2).uniform(-0.5, 0.5, (4, 4, 4))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, edge) for edge in image.shape), indexing="ij")
    polynomial = sum(
        coefficients[i, j, k] * x**i * y**j * z**k
        for i in range(4)
        for j in range(4 - i)
        for k in range(4 - i - j)
    )
    plain = (image - image.min()).numpy() * np.exp(polynomial)
    scaled = (plain - plain.mean()) / plain.std() * image.numpy().std() + image.numpy().mean()
    np.testing.assert_allclose(shaded(image, coefficients).numpy(), scaled, atol=1e-4)
    # A constant gain is none.
    alike = shaded(image, np.eye(1, 64).reshape(4, 4, 4))
    torch.testing.assert_close(alike, image, atol=1e-4, rtol=1e-4)


# ---- a batch ------------------------------------------------------------------------------------


def views_of(
    seed: int, patch: tuple[int, int, int] = CUBE, count: int = 6
) -> tuple[Tensor, Tensor]:
    views = RandomViews(study(patch), count, np.random.default_rng(seed))
    assert views.edges is not None
    image = torch.randn(count, 1, *views.edges, generator=torch.Generator().manual_seed(1))
    found, label = views.of(image, (image > 0).to(torch.uint8))
    assert label is not None
    return found, label


@pytest.mark.parametrize("patch", PATCHES)
def test_the_same_seed_gives_the_same_views_of_the_patchs_size(patch: tuple[int, int, int]) -> None:
    (image, label), again, other = (views_of(seed, patch) for seed in (1, 1, 2))
    assert image.shape == label.shape == (6, 1, *patch)
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
    assert torch.isfinite(image).all()
    assert set(label.unique().tolist()) == {0, 1}
    assert torch.equal(image, again[0])
    assert torch.equal(label, again[1])
    assert not torch.equal(image, other[0])


def test_every_change_of_intensity_happens() -> None:
    """One patch that is not moved, 300 times: some views are as it was, most are not."""
    protocol = study(flips=())
    still = [Move(matrix=np.eye(3), kept=2, mirrored=[], patch=np.array(CUBE))]
    noise = torch.randn(1, 1, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    image = torch.nn.functional.interpolate(noise, size=CUBE, mode="trilinear")
    rng = np.random.default_rng(0)
    views = [strong_views(image, None, protocol, still, rng)[0] for _ in range(300)]
    same = np.mean([torch.equal(view, image) for view in views])
    chances = (0.5, 0.1, 0.2, 0.15, 0.15, 0.25, 0.1, 0.3)
    assert same == pytest.approx(math.prod(1 - chance for chance in chances), abs=0.07)
    kept = [torch.corrcoef(torch.stack((view.flatten(), image.flatten())))[0, 1] for view in views]
    # Half are shaded, which leaves of a pattern of noise what the coil sees.
    assert np.mean([one > 0.9 for one in kept]) > 0.5
