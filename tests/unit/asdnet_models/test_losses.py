"""Eq. 1 to 7 against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from asdnet_models.class_maps import one_hot_maps
from asdnet_models.losses import (
    ClassWeight,
    adversarial_loss,
    class_weights,
    confidence_loss,
    dice_loss,
    embedding_loss,
    region_attention_loss,
    sample_attention,
    total_loss,
    trusted_voxels,
)

KINDS: tuple[ClassWeight, ...] = ("inverse-square", "inverse", "uniform")


def organ_in_the_first_quarter() -> Tensor:
    """8 x 8 x 4 = 256 voxels, the organ in the 64 with x < 2."""
    label = torch.zeros(1, 1, 8, 8, 4, dtype=torch.long)
    label[:, :, :2] = 1
    return label


def maps(*class_values: Tensor) -> Tensor:
    """Class maps (1, C, X, Y, Z) from one (X, Y, Z) map a class."""
    return torch.stack(class_values)[None]


def own_labels() -> Tensor:
    """Organ .8 in the first quarter, background .9 elsewhere, 256 voxels."""
    organ = torch.full((8, 8, 4), 0.1)
    organ[:2] = 0.8
    return maps(1 - organ, organ)


def confidence_up_to(x: int) -> Tensor:
    confidence = torch.full((1, 1, 8, 8, 4), 0.1)
    confidence[:, :, :x] = 0.9
    return confidence


def test_one_hot_maps_keep_the_axes() -> None:
    label = torch.zeros(2, 1, 3, 4, 5, dtype=torch.uint8)
    label[1, 0, 2, 3, 4] = 2
    found = one_hot_maps(label, 3)
    assert found.shape == (2, 3, 3, 4, 5)
    assert found[1, :, 2, 3, 4].tolist() == [0, 0, 1]
    assert found[0, :, 2, 3, 4].tolist() == [1, 0, 0]
    assert found.sum() == 2 * 3 * 4 * 5


# ---- Eq. 1 --------------------------------------------------------------------------------------


# As fractions of the patch: V = (3/4, 1/4), overlap (3/8, 1/8), P + P_hat (5/4, 3/4).
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("inverse-square", 5 / 8),  # pi = (16/9, 16): 1 - (16/3) / (128/9)
        ("inverse", 4 / 7),  # pi = (4/3, 4): 1 - 2 / (14/3)
        ("uniform", 8 / 15),  # mean of the soft Dice .6 and 1/3
    ],
)
def test_eq1_of_an_undecided_prediction(kind: ClassWeight, expected: float) -> None:
    target = one_hot_maps(organ_in_the_first_quarter(), 2)
    loss = dice_loss(torch.full_like(target, 0.5), target, kind)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_eq1_is_inverse_square_by_default() -> None:
    target = one_hot_maps(organ_in_the_first_quarter(), 2)
    assert dice_loss(torch.full_like(target, 0.5), target).item() == pytest.approx(0.625, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_eq1_is_0_for_perfect_and_1_for_wrong_everywhere(kind: ClassWeight) -> None:
    target = one_hot_maps(organ_in_the_first_quarter(), 2)
    assert dice_loss(target, target, kind).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(1 - target, target, kind).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_eq1_of_a_perfect_background_patch_is_0(kind: ClassWeight) -> None:
    target = one_hot_maps(torch.zeros(1, 1, 8, 8, 8, dtype=torch.long), 4)
    assert dice_loss(target, target, kind).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_eq1_is_per_sample_not_pooled(kind: ClassWeight) -> None:
    good = one_hot_maps(organ_in_the_first_quarter(), 2)
    target = torch.cat((good, good))
    losses = dice_loss(torch.cat((good, torch.full_like(good, 0.5))), target, kind)
    alone = dice_loss(torch.full_like(good, 0.5), good, kind)
    assert losses.tolist() == pytest.approx([0.0, alone.item()], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_eq1_does_not_depend_on_the_size_of_the_patch(kind: ClassWeight) -> None:
    label = organ_in_the_first_quarter()
    larger = label.repeat_interleave(2, 2).repeat_interleave(2, 3)
    losses = [
        dice_loss(torch.full_like(target, 0.5), target, kind).item()
        for target in (one_hot_maps(label, 2), one_hot_maps(larger, 2))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_absent_from_the_target_weighs_nothing(kind: ClassWeight) -> None:
    target = one_hot_maps(organ_in_the_first_quarter(), 4)
    weights = class_weights(torch.full_like(target, 0.25), target, kind)
    assert weights[0, 2:].tolist() == [0, 0]
    assert (weights[0, :2] > 0).all()


# An organ of 8 voxels in 512 counts as 64, an eighth of the patch; without the floor 1/64.
@pytest.mark.parametrize(("kind", "expected"), [("inverse-square", 64), ("inverse", 8)])
def test_volumes_are_floored_at_64_voxels(kind: ClassWeight, expected: float) -> None:
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[:, :, :2, :2, :2] = 1
    target = one_hot_maps(label, 2)
    assert class_weights(target, target, kind)[0, 1].item() == pytest.approx(expected)


def test_the_floor_of_a_tiny_patch_is_the_patch() -> None:
    target = one_hot_maps(torch.tensor([0, 1]).repeat(4).reshape(1, 1, 2, 2, 2), 2)
    assert class_weights(target, target, "inverse-square").tolist() == [[1, 1]]


@pytest.mark.parametrize("function", [dice_loss, lambda p, t: sample_attention(p, t, 2.0)])
def test_maps_of_two_shapes_are_refused(function: object) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4, 4\) against \(1, 3, 4, 4, 4\)"):
        function(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4))


# ---- Eq. 2 --------------------------------------------------------------------------------------


def _line(*values: int) -> Tensor:
    return torch.tensor(values).reshape(1, 1, 2, 2, 2)


@pytest.mark.parametrize(("beta", "expected"), [(0, 1), (1, 1 / 3), (2, 1 / 9), (5, 1 / 243)])
def test_eq2_of_an_organ_found_by_half(beta: float, expected: float) -> None:
    # 2 of 4 voxels found: dsc 2 * 2 / (2 + 4).
    target = one_hot_maps(_line(1, 1, 1, 1, 0, 0, 0, 0), 3)
    found = one_hot_maps(_line(1, 1, 0, 0, 0, 0, 0, 0), 3)
    assert sample_attention(found, target, beta).item() == pytest.approx(expected)


def test_eq2_averages_over_the_organs_present_alone() -> None:
    # Organ 1 dsc 2/3, organ 2 missed: dsc 0; organ 3 made up in a background voxel: no share.
    target = one_hot_maps(_line(1, 1, 1, 1, 2, 2, 0, 0), 4)
    found = one_hot_maps(_line(1, 1, 0, 0, 0, 0, 0, 3), 4)
    assert sample_attention(found, target, 2).item() == pytest.approx((1 - 1 / 3) ** 2)


def test_eq2_looks_at_the_arg_max() -> None:
    # Every voxel right by a hair: dsc 1.
    target = one_hot_maps(_line(1, 1, 1, 1, 0, 0, 0, 0), 2)
    assert sample_attention(0.02 * target + 0.49, target, 2).item() == 0


def test_eq2_of_a_patch_without_organs_is_the_soft_background() -> None:
    target = one_hot_maps(_line(*[0] * 8), 2)
    probabilities = torch.where(target > 0, 0.6, 0.4)
    # 2 * 4.8 / (4.8 + 8) = .75
    assert sample_attention(probabilities, target, 2).item() == pytest.approx(1 / 16)


def test_eq2_is_per_sample() -> None:
    target = one_hot_maps(_line(1, 1, 1, 1, 0, 0, 0, 0), 2).repeat(2, 1, 1, 1, 1)
    found = target.clone()
    found[1] = one_hot_maps(_line(*[0] * 8), 2)[0]
    assert sample_attention(found, target, 2).tolist() == [0, 1]


def test_eq2_carries_no_gradient() -> None:
    target = one_hot_maps(_line(1, 1, 1, 1, 0, 0, 0, 0), 2)
    probabilities = torch.full_like(target, 0.5, requires_grad=True)
    assert not sample_attention(probabilities, target, 2).requires_grad


# ---- Eq. 3 to 5 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", [2, 9])
def test_eq3_of_a_network_that_knows_nothing_is_2_ln_2(edge: int) -> None:
    # A sum in place of the mean would grow with the edge.
    logits = torch.zeros(2, 1, edge, edge, edge)
    assert confidence_loss(logits, logits).item() == pytest.approx(2 * math.log(2))
    assert adversarial_loss(logits).item() == pytest.approx(math.log(2))


def test_eq3_and_5_by_hand() -> None:
    # sigmoid(ln 3) = 3/4 where D says real, sigmoid(-ln 4) = 1/5 where it says fake.
    real, fake = torch.full((1, 1, 2, 2, 2), math.log(3)), torch.full((3, 1, 2, 2, 2), -math.log(4))
    assert confidence_loss(real, fake).item() == pytest.approx(math.log(4 / 3) + math.log(5 / 4))
    assert adversarial_loss(fake).item() == pytest.approx(math.log(5))


# ---- Eq. 6 --------------------------------------------------------------------------------------


def test_a_voxel_is_trusted_over_the_threshold_not_at_it() -> None:
    confidence = torch.tensor([0.125, 0.25, 0.5])
    assert trusted_voxels(confidence, 0.25).tolist() == [False, False, True]


# Trusted x < 4: organ and background a quarter each, so pi_c is equal.  Overlap .2 and .225,
# P + P_hat .475 and .525: 1 - .85 / 1.
@pytest.mark.parametrize("kind", ["inverse-square", "inverse"])
def test_eq6_of_equal_trusted_volumes(kind: ClassWeight) -> None:
    loss = region_attention_loss(own_labels(), confidence_up_to(4), 0.2, kind)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0.15, abs=1e-5)


# Trusted x < 5: background three eighths.  Overlap (.3375, .2), P + P_hat (.7625, .4875).
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("inverse-square", 1 - 100.8 / 119),  # pi = (64/9, 16)
        ("inverse", 1 - 2 * (0.9 + 0.8) / (0.7625 * 8 / 3 + 0.4875 * 4)),
        ("uniform", 1 - (0.3375 / 0.7625 + 0.2 / 0.4875)),
    ],
)
def test_eq6_takes_pi_from_the_trusted_voxels(kind: ClassWeight, expected: float) -> None:
    loss = region_attention_loss(own_labels(), confidence_up_to(5), 0.2, kind)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_eq6_ignores_what_is_not_trusted() -> None:
    changed = own_labels()
    changed[..., 4:, :, :] = torch.tensor([0.3, 0.7]).reshape(1, 2, 1, 1, 1)
    losses = [region_attention_loss(p, confidence_up_to(4), 0.2) for p in (own_labels(), changed)]
    assert losses[0].item() == losses[1].item() > 0


def _one_trusted_organ_voxel() -> tuple[Tensor, Tensor]:
    confidence = torch.zeros(1, 1, 8, 8, 4)
    confidence[0, 0, 0, 0, 0] = 1  # 1 of 256 is under 1 %
    return own_labels(), confidence


def _no_organ_left() -> tuple[Tensor, Tensor]:
    confidence = torch.ones(1, 1, 8, 8, 4)
    confidence[:, :, :2] = 0
    return own_labels(), confidence


def _no_organ_predicted() -> tuple[Tensor, Tensor]:
    organ = torch.full((8, 8, 4), 0.4)
    return maps(1 - organ, organ), torch.ones(1, 1, 8, 8, 4)


@pytest.mark.parametrize(
    "case",
    [
        lambda: (own_labels(), torch.zeros(1, 1, 8, 8, 4)),
        _one_trusted_organ_voxel,
        _no_organ_left,
        _no_organ_predicted,
    ],
    ids=["nothing trusted", "under 1 %", "no organ trusted", "no organ predicted"],
)
def test_eq6_with_nothing_to_learn_from_is_a_connected_0(case: object) -> None:
    assert callable(case)
    probabilities, confidence = case()
    logits = probabilities.log().requires_grad_()
    loss = region_attention_loss(torch.softmax(logits, 1), confidence, 0.2)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_eq6_uses_three_voxels_of_256() -> None:
    confidence = torch.zeros(1, 1, 8, 8, 4)
    confidence[0, 0, 0, 0, :3] = 1  # 1.2 %, all organ at .8: 1 - 2 * .8 / 1.8
    loss = region_attention_loss(own_labels(), confidence, 0.2, "uniform")
    assert loss.item() == pytest.approx(1 / 9, abs=1e-4)


def test_eq6_counts_an_unusable_sample_as_0() -> None:
    probabilities = own_labels().repeat(2, 1, 1, 1, 1)
    confidence = torch.cat((confidence_up_to(4), torch.zeros(1, 1, 8, 8, 4)))
    loss = region_attention_loss(probabilities, confidence, 0.2)
    assert loss.item() == pytest.approx(0.15 / 2, abs=1e-5)


def test_eq6_gives_the_confidence_no_gradient() -> None:
    logits = own_labels().log().requires_grad_()
    confidence = confidence_up_to(5).requires_grad_()
    region_attention_loss(torch.softmax(logits, 1), confidence, 0.2).backward()
    assert confidence.grad is None
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) > 0


@pytest.mark.parametrize("shape", [(2, 1, 8, 8, 4), (1, 2, 8, 8, 4), (1, 1, 8, 8, 8), (1, 8, 8, 4)])
def test_eq6_refuses_a_confidence_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(1, 1, 8, 8, 4\)"):
        region_attention_loss(own_labels(), torch.ones(shape), 0.2)


# ---- Eq. 7, and numbers at the edge of float32 --------------------------------------------------


def test_eq7_by_hand() -> None:
    terms = torch.tensor(0.5), torch.tensor(0.7), torch.tensor(0.2)
    assert total_loss(*terms, 0.03, 0.3).item() == pytest.approx(0.5 + 0.021 + 0.06)


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_extreme_logits_have_finite_gradients(scale: float, kind: ClassWeight) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(2, 3, 8, 8, 8, generator=generator) * scale).requires_grad_()
    label = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator)
    label[1] = 0
    probabilities = torch.softmax(logits, 1)
    target = one_hot_maps(label, 3)
    supervised = sample_attention(probabilities, target, 2) * dice_loss(probabilities, target, kind)
    region = region_attention_loss(probabilities, torch.ones(2, 1, 8, 8, 8), 0.2, kind)
    loss = supervised.mean() + region
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 <= loss.item() <= 2
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_cross_entropy_of_extreme_logits_has_finite_gradients(value: float) -> None:
    logits = torch.full((1, 1, 2, 2, 2), value, requires_grad=True)
    loss = confidence_loss(logits, logits) + adversarial_loss(logits)
    loss.backward()
    # One of log(sigmoid) and log(1 - sigmoid) is |value|, the other zero.
    assert loss.item() == pytest.approx(1e4 if value > 0 else 2e4)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_losses_are_computed_in_float32() -> None:
    # In bfloat16 the 65,536 voxels of a patch would sum to a multiple of 256 at best.
    target = one_hot_maps(torch.zeros(1, 1, 64, 64, 16, dtype=torch.long), 2)
    probabilities = torch.full_like(target, 0.5).bfloat16()
    loss = dice_loss(probabilities, target.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 / 3, abs=1e-4)


# ---- semiEmbedFCN -------------------------------------------------------------------------------


def test_embedding_of_four_points_by_hand() -> None:
    # Lengths do not count: the directions are (1, 0), (0, 1), (.6, .8) and (.8, -.6).
    points = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0], [0.8, -0.6]])
    classes = torch.tensor([0, 0, 1, 1])
    # 1 - cos: same class 1 and 1; across .4, .2, .2 and 1.6, of which .5 - d is .1, .3, .3, 0.
    expected = (1 + 1 + 0.1**2 + 0.3**2 + 0.3**2 + 0) / 6
    assert float(embedding_loss(points, classes, 0.5)) == pytest.approx(expected)


def test_embedding_pulls_one_class_together_and_pushes_two_apart() -> None:
    for classes, sign in ((torch.tensor([1, 1]), -1), (torch.tensor([1, 2]), 1)):
        points = torch.tensor([[1.0, 0.0], [0.9, 0.3]], requires_grad=True)
        embedding_loss(points, classes, 0.5).backward()
        moved = points.detach() - 0.1 * points.grad
        angle = torch.cosine_similarity(*points.detach(), dim=0)
        assert (torch.cosine_similarity(*moved, dim=0) - angle) * sign < 0


def test_embedding_is_finite_where_features_are_equal_or_zero() -> None:
    points = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]], requires_grad=True)
    loss = embedding_loss(points, torch.tensor([0, 1, 1]), 0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.25 + 0 + 1) / 3)
    assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize("count", [0, 1])
def test_embedding_of_no_pair_is_a_connected_zero(count: int) -> None:
    points = torch.ones(count, 3, requires_grad=True)
    loss = embedding_loss(points, torch.zeros(count, dtype=torch.long), 0.5)
    loss.backward()
    assert float(loss.detach()) == 0


def test_embedding_needs_one_class_for_each_point() -> None:
    with pytest.raises(ValueError, match="3 points need as many classes"):
        embedding_loss(torch.ones(3, 2), torch.zeros(2), 0.5)
