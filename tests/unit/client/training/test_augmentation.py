"""Random views: only what a scanner or a pose could change, and image and label alike."""

from typing import Any

import numpy as np
import pytest
import torch

from client.training import augmentation
from client.training.augmentation import RandomViews, augment
from protocol.config.study import StudyProtocol
from protocol.config.training import Flip, TrainingConfig

SPACING = (1.0, 1.0, 1.0)


class Fixed:
    """A generator that draws what the test says: no angle, no scale, no gamma, no noise."""

    def __init__(self, *, flip: bool = False, angle: float = 0.0, scale: float = 1.0) -> None:
        self._flip = flip
        self._affine = [angle, scale]

    def random(self) -> float:
        return 0.1 if self._flip else 0.9

    def uniform(self, low: float, high: float, size: Any = None) -> Any:
        if size is not None:
            return np.zeros(size)
        self._affine.append(self._affine.pop(0))
        return self._affine[-1]

    def standard_normal(self, shape: Any, dtype: Any) -> Any:
        return np.zeros(shape, dtype)


def ball(edges: tuple[int, int, int], centre: tuple[float, float, float], r: float) -> torch.Tensor:
    grid = torch.meshgrid(*(torch.arange(n).float() for n in edges), indexing="ij")
    distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
    return (torch.as_tensor(distance) < r * r)[None, None]


def centre_of(mask: torch.Tensor) -> torch.Tensor:
    return torch.nonzero(mask[0, 0]).float().mean(0)


def textured(seed: int, count: int = 1) -> torch.Tensor:
    noise = torch.randn(count, 1, 6, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(24, 24, 24), mode="trilinear")


def test_the_same_seed_gives_the_same_view() -> None:
    image, label = textured(0), (textured(1) > 0).to(torch.uint8)
    views = [augment(image, label, SPACING, np.random.default_rng(s)) for s in (3, 3, 4)]
    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1], views[1][1])
    assert not torch.equal(views[0][0], views[2][0])


def test_label_values_and_types_stay() -> None:
    label = torch.zeros(4, 1, 24, 24, 24, dtype=torch.uint8)
    label[:, :, 6:14, 6:14, 6:14], label[:, :, 14:20, 6:14, 6:14] = 3, 7
    image, moved = augment(textured(0, 4), label, SPACING, np.random.default_rng(0))
    assert moved is not None
    assert moved.dtype == torch.uint8
    assert set(torch.unique(moved).tolist()) == {0, 3, 7}
    assert image.shape == moved.shape
    for value in (3, 7):
        volumes = (moved == value).flatten(1).sum(1) / (label == value).flatten(1).sum(1)
        # Scaled by .9 to 1.1 along three axes, and never lost.
        assert ((volumes > 0.9**3 - 0.08) & (volumes < 1.1**3 + 0.08)).all()


def test_without_a_label() -> None:
    image, label = augment(textured(0), None, SPACING, np.random.default_rng(0))
    assert label is None
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("seed", range(6))
def test_image_and_label_move_alike(seed: int) -> None:
    label = ball((24, 24, 24), (8, 14, 11), 4).to(torch.uint8)
    image, moved = augment(10 * label.float(), label, (1, 1, 3), np.random.default_rng(seed))
    assert moved is not None
    seen = image > (image.min() + image.max()) / 2
    assert torch.dist(centre_of(seen), centre_of(moved > 0)) < 0.7


@pytest.mark.parametrize(
    "flips", [("left-right",), (), ("front-back", "up-down"), ("up-down", "left-right")]
)
def test_sides_change_only_along_the_axes_of_its_flips(flips: tuple[Flip, ...]) -> None:
    # A ball far to one side on each axis.
    label = ball((24, 24, 24), (5, 6, 4), 3.5).to(torch.uint8)
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(60):
        _, moved = augment(label.float(), label, SPACING, rng, flips)
        assert moved is not None
        sides.append(centre_of(moved > 0) > 11.5)
    found = torch.stack(sides).float().mean(0).tolist()
    for axis, share in zip(("left-right", "front-back", "up-down"), found, strict=True):
        assert 0.25 < share < 0.75 if axis in flips else share == 0


def test_left_right_is_the_default() -> None:
    image = textured(0)
    one, other = (np.random.default_rng(5) for _ in range(2))
    assert torch.equal(
        augment(image, None, SPACING, one)[0],
        augment(image, None, SPACING, other, ("left-right",))[0],
    )


def test_without_views_a_patch_stays_as_it_is() -> None:
    image, label = textured(0), (textured(1) > 0).to(torch.uint8)
    protocol = StudyProtocol(training=TrainingConfig(views="none"))
    found = RandomViews(protocol, 1, np.random.default_rng(0)).of(image, label)
    assert found[0] is image
    assert found[1] is label


def test_a_fixed_flip_is_the_mirror_image_in_x() -> None:
    image = textured(2)
    same, _ = augment(image, None, SPACING, Fixed())  # type: ignore[arg-type]
    flipped, _ = augment(image, None, SPACING, Fixed(flip=True))  # type: ignore[arg-type]
    torch.testing.assert_close(same, image, atol=1e-4, rtol=0)
    torch.testing.assert_close(flipped, image.flip(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_a_rotation_is_one_in_millimetres(flip: bool) -> None:
    # Voxels of 1 x 2 mm: a ball 10 mm along x must come to rest 10 mm from the centre.
    edges, spacing = (33, 17, 9), (1.0, 2.0, 1.0)
    label = ball(edges, (26, 8, 4), 2.5).to(torch.uint8)
    source: Any = Fixed(flip=flip, angle=10.0)
    _, moved = augment(label.float(), label, spacing, source)
    assert moved is not None
    offset = (centre_of(moved > 0) - torch.tensor([16.0, 8.0, 4.0])) * torch.tensor(spacing)
    assert offset[:2].norm().item() == pytest.approx(10.0, abs=0.6)
    assert abs(offset[1].item()) == pytest.approx(10 * np.sin(np.radians(10)), abs=0.7)
    assert (offset[0] < 0) == flip


def test_views_are_close_to_the_original() -> None:
    image = textured(5)
    rng = np.random.default_rng(1)
    best = []
    for _ in range(10):
        view, _ = augment(image, None, SPACING, rng)
        candidates = torch.stack((image, image.flip(2))).flatten(1)
        pairs = [torch.corrcoef(torch.stack((view.flatten(), c)))[0, 1] for c in candidates]
        best.append(max(pairs).item())
        assert abs(view.std().item() / image.std().item() - 1) < 0.35
    assert min(best) > 0.5
    assert max(best) < 0.9999


def test_the_view_is_that_of_grid_sample_on_all_axes() -> None:
    """In the plane and then between slices: the same as at once, to rounding."""
    spacing = (1.0, 1.5, 3.0)
    image, label = textured(5, 4), (textured(6, 4) > 0).to(torch.uint8)
    image, label = image[..., :18, :10], label[..., :18, :10]
    rng = np.random.default_rng(8)
    extent = [n * s for n, s in zip(image.shape[2:], spacing, strict=True)]
    theta = torch.stack([augmentation._random_affine(extent, rng) for _ in range(4)])
    grid = torch.nn.functional.affine_grid(theta, list(image.shape), align_corners=False)
    whole = torch.nn.functional.grid_sample(
        image, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    nearest = torch.nn.functional.grid_sample(
        label.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    assert torch.allclose(augmentation._linear(image, theta), whole, atol=1e-4)
    assert (augmentation._nearest(label.float(), theta) != nearest).float().mean() < 1e-4
