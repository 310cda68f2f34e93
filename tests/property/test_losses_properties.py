"""What must hold for Eq. 1, 2 and 6 of any prediction."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asdnet_models.class_maps import merge_unannotated, one_hot_maps
from asdnet_models.losses import ClassWeight, dice_loss, region_attention_loss, sample_attention

kinds: Any = st.sampled_from(["inverse-square", "inverse", "uniform"])
quick = settings(max_examples=40)


@st.composite
def cases(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, target and confidence of two samples; classes may be absent."""
    classes = draw(st.integers(2, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    label = torch.randint(0, draw(st.integers(1, classes)), (2, 1, 5, 4, 6), generator=generator)
    scale = draw(st.floats(0, 20))
    logits = scale * torch.randn(2, classes, 5, 4, 6, generator=generator)
    confidence = torch.rand(2, 1, 5, 4, 6, generator=generator)
    return torch.softmax(logits, 1), one_hot_maps(label, classes), confidence


@quick
@given(cases(), kinds, st.floats(0, 5), st.floats(0, 0.99))
def test_bounded(
    case: tuple[Tensor, Tensor, Tensor], kind: ClassWeight, beta: float, gamma: float
) -> None:
    probabilities, target, confidence = case
    found = (
        dice_loss(probabilities, target, kind),
        sample_attention(probabilities, target, beta),
        region_attention_loss(probabilities, confidence, gamma, kind)[None],
    )
    for values in found:
        assert (values >= -1e-5).all()
        assert (values <= 1 + 1e-5).all()


@quick
@given(cases(), kinds, st.integers(2, 4))
def test_flips_change_nothing(
    case: tuple[Tensor, Tensor, Tensor], kind: ClassWeight, axis: int
) -> None:
    probabilities, target, confidence = case
    p, t, m = (tensor.flip(axis) for tensor in case)
    torch.testing.assert_close(dice_loss(p, t, kind), dice_loss(probabilities, target, kind))
    torch.testing.assert_close(
        sample_attention(p, t, 2), sample_attention(probabilities, target, 2)
    )
    torch.testing.assert_close(
        region_attention_loss(p, m, 0.3, kind),
        region_attention_loss(probabilities, confidence, 0.3, kind),
    )


@quick
@given(cases(), kinds)
def test_the_names_of_organs_do_not_matter(
    case: tuple[Tensor, Tensor, Tensor], kind: ClassWeight
) -> None:
    probabilities, target, _ = case
    order = [0, *range(target.shape[1] - 1, 0, -1)]
    torch.testing.assert_close(
        dice_loss(probabilities[:, order], target[:, order], kind),
        dice_loss(probabilities, target, kind),
    )


@quick
@given(cases(), kinds)
def test_a_perfect_prediction_costs_nothing(
    case: tuple[Tensor, Tensor, Tensor], kind: ClassWeight
) -> None:
    target = case[1]
    assert dice_loss(target, target, kind).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert sample_attention(target, target, 2).tolist() == pytest.approx([0, 0], abs=1e-6)


@quick
@given(cases(), kinds)
def test_trusting_everything_is_eq1_against_ones_own_labels(
    case: tuple[Tensor, Tensor, Tensor], kind: ClassWeight
) -> None:
    probabilities = case[0]
    own = one_hot_maps(probabilities.argmax(1, keepdim=True), probabilities.shape[1])
    has_organ = own[:, 1:].flatten(1).any(1)
    found = region_attention_loss(probabilities, torch.ones_like(case[2]), 0.2, kind)
    expected = (dice_loss(probabilities, own, kind) * has_organ).mean()
    torch.testing.assert_close(found, expected)


@quick
@given(cases(), st.lists(st.booleans(), min_size=6, max_size=6))
def test_merging_moves_probability_and_makes_none(
    case: tuple[Tensor, Tensor, Tensor], drawn: list[bool]
) -> None:
    probabilities, target, _ = case
    organs = target.shape[1] - 1
    unannotated = torch.zeros(target.shape[:2], dtype=torch.bool)
    unannotated[:, 1:] = torch.tensor(drawn[: 2 * organs]).reshape(2, organs)
    for maps in (probabilities, target):
        found = merge_unannotated(maps, unannotated)
        torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))
        assert not found[unannotated].any()
        kept = ~unannotated
        kept[:, 0] = False
        assert torch.equal(found[kept], maps[kept])
        torch.testing.assert_close(merge_unannotated(found, unannotated), found)
    merged = merge_unannotated(probabilities, unannotated), merge_unannotated(target, unannotated)
    losses = dice_loss(*merged, "uniform")
    assert (losses >= -1e-5).all()
    assert (losses <= 1 + 1e-5).all()
