"""Dice with cross-entropy (`dice+ce`): by hand, by sample, by head, where labels lack."""

import math

import pytest
import torch
from torch import Tensor

from asdnet_models.class_maps import (
    argmax_channels,
    merge_unannotated,
    merge_unannotated_logits,
    one_hot_maps,
)
from asdnet_models.config import MethodConfig
from asdnet_models.losses import cross_entropy_loss, dice_loss, sample_attention
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.methods.common import Prediction, supervised_loss
from asdnet_models.methods.record import StepRecord
from protocol.config.schedule import RoundPlan

PLAN = RoundPlan(round=1, lr_factor=1, adversarial_ramp=0, region_ramp=0)
BOTH = MethodConfig(supervised="dice+ce", class_weight="uniform", sample_attention="off")
CLASSES = 4
# Background, bladder, prostate, rectum; in the first sample the prostate alone is annotated.
PARTLY = torch.tensor([[False, True, False, True], [False, False, False, False]])


def drawn(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Logits (2, 4, 4, 4, 4) and a label of all four classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, CLASSES, 4, 4, 4, generator=generator)
    return logits, torch.randint(0, CLASSES, (2, 1, 4, 4, 4), generator=generator)


def batch(label: Tensor, unannotated: Tensor | None = None) -> LabelledBatch:
    return LabelledBatch(image=label.float(), label=label, unannotated=unannotated)


def loss_of(labelled: LabelledBatch, *heads: Tensor, method: MethodConfig = BOTH) -> Tensor:
    weights = tuple(1 / len(heads) for _ in heads)
    own = Prediction(logits=heads, weights=weights)
    return supervised_loss(method, PLAN, labelled, own, StepRecord())


def test_the_mean_of_minus_log_p_by_hand() -> None:
    # Voxels of class 0 and 1 at p = 3/4 and 1/2, in the second sample both at 1/4.
    p = torch.tensor([[[0.75, 0.5], [0.25, 0.5]], [[0.25, 0.75], [0.75, 0.25]]])
    label = torch.tensor([0, 1])[None, None, :, None, None].repeat(2, 1, 1, 1, 1)
    found = cross_entropy_loss(p.log()[..., None, None], label.to(torch.uint8))
    by_hand = [-(math.log(0.75) + math.log(0.5)) / 2, -math.log(0.25)]
    assert found.tolist() == pytest.approx(by_hand)


def test_scores_that_say_nothing_cost_ln_of_the_classes() -> None:
    _, label = drawn()
    assert cross_entropy_loss(torch.zeros(2, CLASSES, 4, 4, 4), label).tolist() == pytest.approx(
        [math.log(CLASSES)] * 2
    )


def test_a_label_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label is \(2, 1, 4, 4, 3\), must be \(2, 1, 4, 4, 4\)"):
        cross_entropy_loss(torch.zeros(2, 3, 4, 4, 4), torch.zeros(2, 1, 4, 4, 3))


def test_a_sure_mistake_has_a_finite_loss_and_a_gradient() -> None:
    """The logarithm of a softmax that has underflowed would be minus infinity."""
    logits = torch.zeros(1, 2, 2, 1, 1)
    logits[:, 0] = 1e4
    logits.requires_grad_()
    label = torch.ones(1, 1, 2, 1, 1, dtype=torch.long)
    loss = loss_of(batch(label), logits)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1 + 1e4) / 2, rel=1e-5)
    assert logits.grad is not None
    # (softmax - one-hot) / voxels / 2; Dice's own has faded.
    assert logits.grad[0, :, 0, 0, 0].tolist() == pytest.approx([0.25, -0.25], rel=1e-4)


def test_it_is_the_mean_of_both() -> None:
    logits, label = drawn()
    target = one_hot_maps(label, CLASSES)
    dice = dice_loss(torch.softmax(logits, 1), target, "uniform")
    entropy = cross_entropy_loss(logits, label)
    assert float(loss_of(batch(label), logits)) == pytest.approx(float((dice + entropy).mean() / 2))
    plain = BOTH.model_copy(update={"supervised": "dice"})
    assert float(loss_of(batch(label), logits, method=plain)) == float(dice.mean())


def test_attention_weighs_each_sample() -> None:
    logits, label = drawn()
    literal = BOTH.model_copy(update={"sample_attention": "literal"})
    target, maps = one_hot_maps(label, CLASSES), torch.softmax(logits, 1)
    each = (dice_loss(maps, target, "uniform") + cross_entropy_loss(logits, label)) / 2
    by_hand = (sample_attention(maps, target, literal.beta) * each).mean()
    assert float(loss_of(batch(label), logits, method=literal)) == pytest.approx(float(by_hand))


def test_every_head_weighs_as_in_dice() -> None:
    (one, label), (other, _) = drawn(1), drawn(2)
    alone = [float(loss_of(batch(label), head)) for head in (one, other)]
    assert float(loss_of(batch(label), one, other)) == pytest.approx(sum(alone) / 2)


# ---- partly annotated samples -------------------------------------------------------------------


def test_merged_logits_are_those_of_the_merged_maps() -> None:
    logits, _ = drawn()
    found = torch.softmax(merge_unannotated_logits(logits, PARTLY), 1)
    by_hand = merge_unannotated(torch.softmax(logits, 1), PARTLY)
    torch.testing.assert_close(found, by_hand)
    assert torch.equal(found[0, [1, 3]], torch.zeros(2, 4, 4, 4))


def test_the_union_keeps_what_a_probability_loses() -> None:
    """exp(-200) is 0 in float32: the logarithm of the merged softmax would be minus infinity."""
    logits = torch.tensor([-200.0, -201.0, 0.0, -202.0])[None, :, None, None, None]
    merged = merge_unannotated_logits(logits, PARTLY[:1])
    label = torch.zeros(1, 1, 1, 1, 1, dtype=torch.long)
    by_hand = 200 - math.log(1 + math.exp(-1) + math.exp(-2))
    assert cross_entropy_loss(merged, label).tolist() == pytest.approx([by_hand])


def test_cross_entropy_of_the_union() -> None:
    logits, label = drawn()
    labelled = batch(label, PARTLY)
    target = labelled.target(CLASSES)
    maps = merge_unannotated(torch.softmax(logits, 1), PARTLY)
    of_label = (maps * target).sum(1).log().neg().flatten(1).mean(1)
    by_hand = (dice_loss(maps, target, "uniform") + of_label).mean() / 2
    assert float(loss_of(labelled, logits)) == pytest.approx(float(by_hand))
    assert set(argmax_channels(target)[0].unique().tolist()) == {0, 2}


def test_what_nobody_annotated_is_not_pulled_apart() -> None:
    logits, label = drawn()
    logits.requires_grad_()
    loss_of(batch(label, PARTLY), logits).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    share = torch.softmax(logits, 1).detach()[0]
    pull = logits.grad[0, [0, 1, 3]] / share[[0, 1, 3]]
    torch.testing.assert_close(pull, pull[:1].expand_as(pull), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("unannotated", "said"),
    [
        (PARTLY[:1], r"unannotated is \(1, 4\), must be \(2, 4\)"),
        (torch.ones(2, CLASSES, dtype=torch.bool), "unannotated names class 0"),
    ],
)
def test_a_wrong_list_of_organs_is_refused(unannotated: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        merge_unannotated_logits(drawn()[0], unannotated)
