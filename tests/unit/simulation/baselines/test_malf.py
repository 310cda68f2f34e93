"""Multi-atlas label fusion: registration, selection, and the three ways to count votes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.metrics import dice
from simulation.baselines.fusion import locally_weighted_vote, majority_vote, staple
from simulation.baselines.malf import MalfOptions, class_probabilities, most_similar
from simulation.baselines.registration import align, deform, warp_votes
from simulation.baselines.volumes import Atlas, to_xyz

MakeAtlas = Callable[..., Atlas]
FEW = MalfOptions(atlases=3)
MOVED = {"shift": (3.0, -2.0, 2.0), "scale": 1.15}


def dsc(found: NDArray[np.uint8], truth: Atlas) -> list[float]:
    reference = to_xyz(truth.label)
    return [dice(found == value, reference == value) for value in (1, 2)]


def one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """(A, ...) to (A, C, ...)."""
    return np.moveaxis(np.eye(classes, dtype=np.float32)[labels], -1, 1)


@pytest.mark.parametrize("fusion", ["local", "staple", "majority"])
def test_a_moved_and_scaled_patient_is_found(make_atlas: MakeAtlas, fusion: str) -> None:
    target = make_atlas("target", **MOVED)
    atlases = [make_atlas("a"), make_atlas("bb", scale=1.05), make_atlas("ccc", (1, 0, 0))]
    unmoved = majority_vote(
        np.stack([warp_votes(a, target.image, sitk.Transform(), 3) for a in atlases])
    ).argmax(0)
    found = class_probabilities(target, atlases, 3, replace(FEW, fusion=fusion)).argmax(0)
    assert found.shape == target.image.GetSize()
    assert min(dsc(found, target)) > 0.8
    assert max(dsc(unmoved.astype(np.uint8), target)) < 0.6


def test_one_atlas_is_enough_and_none_is_refused(make_atlas: MakeAtlas) -> None:
    target = make_atlas("target", **MOVED)
    for fusion in ("local", "staple", "majority"):
        options = replace(FEW, fusion=fusion)
        found = class_probabilities(target, [make_atlas()], 3, options).argmax(0)
        assert min(dsc(found, target)) > 0.8, fusion
    with pytest.raises(ValueError, match="there is none"):
        class_probabilities(target, [], 3, FEW)


def test_same_bits_twice_and_probabilities_sum_to_one(make_atlas: MakeAtlas) -> None:
    target = make_atlas("target", **MOVED)
    atlases = [make_atlas("a"), make_atlas("bb", scale=0.95)]
    first = class_probabilities(target, atlases, 3, FEW)
    assert np.array_equal(first, class_probabilities(target, atlases, 3, FEW))
    assert np.allclose(first.sum(0), 1, atol=1e-5)


def test_the_most_similar_come_first(make_atlas: MakeAtlas) -> None:
    target = make_atlas("target")
    odd = make_atlas("odd")
    odd = replace(odd, image=sitk.Cast(sitk.Abs(odd.image), sitk.sitkFloat32))
    noisy = make_atlas("noisy")
    noisy = replace(noisy, image=sitk.AdditiveGaussianNoise(noisy.image, 0.3, 0.0, 1))
    chosen, _ = most_similar(target, [odd, noisy, make_atlas("twin")], 2, 8.0)
    assert [one.atlas.name for one in chosen] == ["twin", "noisy"]
    assert chosen[0].similarity > chosen[1].similarity


def test_the_b_spline_bends_what_the_affine_cannot(make_atlas: MakeAtlas) -> None:
    atlas = make_atlas("atlas")
    target = make_atlas("target")
    wave = [4.0 * np.sin(np.arange(24) / 4)[:, None, None] * np.ones((24, 24, 24))]
    field = sitk.GetImageFromArray(np.stack([*wave, 0 * wave[0], 0 * wave[0]], -1), isVector=True)
    field.CopyInformation(target.image)
    bend = sitk.DisplacementFieldTransform(field)
    target = Atlas(
        name="target",
        image=sitk.Resample(target.image, bend, sitk.sitkLinear, -1.0),
        label=sitk.Resample(target.label, bend, sitk.sitkNearestNeighbor),
    )
    affine = align(target, atlas)
    whole = (slice(0, 24),) * 3
    scores = {
        kind: np.mean(
            dsc(
                warp_votes(
                    atlas, target.image, deform(target, atlas, affine, whole, kind, 24.0), 3
                ).argmax(0),
                target,
            )
        )
        for kind in ("none", "bspline", "demons")
    }
    assert scores["bspline"] > scores["none"] + 0.02
    assert scores["demons"] > scores["none"] + 0.02
    with pytest.raises(ValueError, match="'elastic'"):
        deform(target, atlas, affine, whole, "elastic", 8.0)


def test_local_weights_prefer_the_atlas_that_matches_there() -> None:
    target = np.zeros((12, 6, 6), np.float32)
    left, right = target.copy(), target.copy()
    left[6:] = 1.0  # like the target in the first half
    right[:6] = 1.0  # in the second
    labels = np.stack([np.full(target.shape, 1), np.full(target.shape, 2)])
    votes = one_hot(labels, 3)
    images = np.stack([left, right])
    found = locally_weighted_vote(target, images, votes, radius=1, power=2.0)
    assert (found[:, :5].argmax(0) == 1).all() and (found[:, 7:].argmax(0) == 2).all()
    even = locally_weighted_vote(target, images, votes, radius=1, power=0.0)
    assert np.allclose(even[1:], 0.5) and np.allclose(even[0], 0)


def test_local_weights_by_hand() -> None:
    target = np.zeros((5, 5, 5), np.float32)
    images = np.stack([np.full_like(target, 0.5), np.full_like(target, 1.0)])  # MSD 1/4 and 1
    votes = one_hot(np.stack([np.ones((5, 5, 5), int), np.zeros((5, 5, 5), int)]), 2)
    found = locally_weighted_vote(target, images, votes, radius=1, power=1.0)
    assert np.allclose(found[1], 4 / 5) and np.allclose(found[0], 1 / 5)


def test_majority_by_hand() -> None:
    labels = np.array([[[[0, 1, 2]]], [[[0, 1, 1]]], [[[1, 1, 2]]]])
    found = majority_vote(one_hot(labels, 3))
    assert np.allclose(found[:, 0, 0, :].T, [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 1 / 3, 2 / 3]])


def test_staple_distrusts_the_atlas_that_is_mostly_wrong() -> None:
    truth = np.zeros((8, 8, 8), int)
    truth[2:6, 2:6, 2:6] = 1
    wrong = np.zeros_like(truth)
    wrong[0, 0, 0] = 1
    found = staple(one_hot(np.stack([truth, truth, wrong, wrong]), 3))
    # Two against two: a plain majority is undecided inside the cube.
    assert np.array_equal(found.argmax(0) == 1, truth == 1)
    assert (found[2] == 0).all() and np.allclose(found.sum(0), 1, atol=1e-5)
