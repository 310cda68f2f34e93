"""Heads at lower resolutions: who weighs what, and who never hears of them."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from asdnet_models.class_maps import one_hot_maps
from asdnet_models.config import MethodConfig
from asdnet_models.losses import dice_loss, sample_attention
from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.methods.common import Networks, predict, softmax_of, supervised_loss
from asdnet_models.methods.record import StepRecord
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.networks.dsresunet import DSResUNet
from asdnet_models.networks.parts import DeeplySupervised
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol

PLAN = RoundPlan(round=1, lr_factor=1, adversarial_ramp=1, region_ramp=1)
PLAIN = MethodConfig(
    class_weight="uniform", sample_attention="off", lambda_adversarial=0, lambda_region=0
)
EDGE = 8


class Stub(DeeplySupervised):
    """Each head says one thing of a patch whose first half is background, its second the organ."""

    # Of the logit of the organ in its half, and minus that in the background's.
    SAYS: ClassVar[dict[str, float]] = {"right": 50.0, "unsure": 0.0, "wrong": -50.0}

    def __init__(self, *heads: str) -> None:
        super().__init__((1 / 2, 1 / 3, 1 / 6))
        self.heads = heads

    def deep_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        sign = 2 * halves(image.shape[0]) - 1
        return tuple(torch.cat((-sign, sign), 1) * self.SAYS[head] for head in self.heads)

    def forward(self, image: Tensor) -> Tensor:
        return self.deep_logits(image)[0]


def halves(batch: int) -> Tensor:
    label = torch.zeros(batch, 1, EDGE, EDGE, EDGE)
    label[:, :, EDGE // 2 :] = 1
    return label


def loss_of(network: nn.Module, method: MethodConfig = PLAIN) -> tuple[float, StepRecord]:
    labelled = LabelledBatch(image=halves(2), label=halves(2).long())
    record = StepRecord()
    # Three more patches, as unlabelled ones are: they must not count.
    prediction = predict(network, torch.cat((labelled.image, torch.zeros(3, 1, EDGE, EDGE, EDGE))))
    return float(supervised_loss(method, PLAN, labelled, prediction, record)), record


def protocol(architecture: str = "dsresunet") -> StudyProtocol:
    return StudyProtocol(
        organs={"bladder": 1, "prostate": 2},
        patch_voxels=(16, 16, 16),
        network=NetworkConfig(architecture=architecture, width=4, kernel=3),
        confidence=ConfidenceConfig(width=2),
    )


def batch(seed: int = 1) -> LabelledBatch:
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.long)
    label[:, :, 2:7] = 1
    label[:, :, 9:13, 4:12] = 2
    noise = torch.randn(label.shape, generator=torch.Generator().manual_seed(seed))
    return LabelledBatch(image=label + 0.3 * noise, label=label)


def networks(segmenter: nn.Module, confidence: nn.Module | None = None) -> Networks:
    return Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.SGD(segmenter.parameters(), 0.1),
        confidence=confidence,
    )


def test_the_weights_sum_to_one_and_grow_with_resolution() -> None:
    weights = DSResUNet(classes=2, width=1, kernel=3).head_weights
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    assert weights == (1 / 2, 1 / 3, 1 / 6)


@pytest.mark.parametrize(
    ("heads", "by_hand"),
    [
        # Right: 0.  Wrong: 1.  Unsure: each class overlaps by a quarter of the patch of (a half
        # and a half), so its soft Dice is 2 (1/4) / 1 and the loss 1/2.
        (("right", "right", "right"), 0),
        (("wrong", "right", "right"), 1 / 2),
        (("right", "wrong", "right"), 1 / 3),
        (("right", "right", "wrong"), 1 / 6),
        (("unsure", "right", "wrong"), 1 / 4 + 1 / 6),
    ],
)
def test_the_loss_is_the_weighted_sum_of_the_heads(heads: tuple[str, ...], by_hand: float) -> None:
    assert loss_of(Stub(*heads))[0] == pytest.approx(by_hand, abs=1e-4)


def test_attention_and_the_recorded_dice_are_of_the_segmentation_alone() -> None:
    literal = PLAIN.model_copy(update={"sample_attention": "literal"})
    # Whole patches are right: (1 - 1)^2 silences the inner heads' mistakes.
    loss, record = loss_of(Stub("right", "wrong", "wrong"), literal)
    assert (loss, record.attention) == (0, [0, 0])
    assert record.losses["dice"] == pytest.approx(0, abs=1e-4)
    loss, record = loss_of(Stub("wrong", "right", "right"), literal)
    assert loss == pytest.approx(1 / 2, abs=1e-4)
    assert record.attention == [1, 1]
    assert record.losses["dice"] == pytest.approx(1, abs=1e-4)


def test_a_plain_network_has_one_head_that_weighs_all() -> None:
    network = build_segmenter(protocol("svnet"))
    image = batch().image
    prediction = predict(network, image)
    assert prediction.weights == (1,)
    assert len(prediction.heads) == 1
    assert torch.equal(prediction.probabilities, softmax_of(network, image))


def test_heads_of_the_network_are_at_full_resolution_and_the_first_is_forward() -> None:
    network = build_segmenter(protocol())
    assert isinstance(network, DSResUNet)
    image = torch.randn(2, 1, 16, 8, 24, generator=torch.Generator().manual_seed(3))
    logits = network.deep_logits(image)
    assert [head.shape for head in logits] == [(2, 3, 16, 8, 24)] * 3
    assert torch.equal(logits[0], network(image))
    # Half and quarter: upsampled values of neighbours differ by less than full resolution's.
    rough = [(head.diff(dim=2).abs().mean() / head.std()).item() for head in logits]
    assert rough[0] > rough[1] > rough[2]


@pytest.mark.parametrize("attention", ["literal", "off"])
def test_a_step_is_one_forward_pass_on_the_weighted_sum(attention: str) -> None:
    method = PLAIN.model_copy(update={"sample_attention": attention})
    labelled = batch()
    trained, by_hand = build_segmenter(protocol()), build_segmenter(protocol())
    assert isinstance(trained, DSResUNet) and isinstance(by_hand, DSResUNet)
    passes: list[int] = []
    trained.down[0].register_forward_hook(lambda *_: passes.append(1))
    record = train_step(networks(trained), method, PLAN, labelled, None)
    assert passes == [1]
    target = one_hot_maps(labelled.label, 3)
    full, half, quarter = (torch.softmax(head, 1) for head in by_hand.deep_logits(labelled.image))
    losses = (
        dice_loss(full, target, "uniform") / 2
        + dice_loss(half, target, "uniform") / 3
        + dice_loss(quarter, target, "uniform") / 6
    )
    if attention == "literal":
        losses = losses * sample_attention(full, target, 2.0)
    losses.mean().backward()
    assert record.losses["total"] == pytest.approx(losses.mean().item(), rel=1e-5)
    for ours, theirs in zip(trained.parameters(), by_hand.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert torch.count_nonzero(ours.grad) > 0


def test_eq5_and_eq6_do_not_hear_the_inner_heads() -> None:
    study = protocol()
    segmenter, confidence = build_segmenter(study), build_confidence(study)
    assert isinstance(segmenter, DSResUNet)
    nets = networks(segmenter, confidence)
    record = train_step(nets, MethodConfig(gamma=0.0), PLAN, None, batch().image)
    assert record.losses["region"] > 0
    quarter, half, full = segmenter.heads
    assert quarter.weight.grad is None and half.weight.grad is None
    assert full.weight.grad is not None
