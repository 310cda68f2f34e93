"""One step of semiFCN: what it learns from pseudo-labels, and when."""

import pytest
import torch
from torch import Tensor

from asdnet_models.class_maps import one_hot_maps
from asdnet_models.config import MethodConfig
from asdnet_models.losses import dice_loss, sample_attention
from asdnet_models.methods.asdnet import ASDNet
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import Method, Networks, NonFiniteLossError, Proximal
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.semi_fcn import SemiFCN
from asdnet_models.network_config import NetworkConfig
from asdnet_models.networks import build_segmenter
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol

PROTOCOL = StudyProtocol(
    organs={"bladder": 1, "prostate": 2},
    patch_voxels=(16, 16, 16),
    network=NetworkConfig(width=4, kernel=3),
)
METHOD = MethodConfig(name="semi-fcn", class_weight="inverse", lambda_region=0.3)


def plan(labelling: int) -> RoundPlan:
    return RoundPlan(
        round=9, lr_factor=1, adversarial_ramp=0, region_ramp=0, pseudo_labels=labelling
    )


def label_of(*thickness: int) -> Tensor:
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.uint8)
    label[:, :, : thickness[0]] = 1
    label[:, :, 10 : 10 + thickness[1]] = 2
    return label


def batches() -> tuple[LabelledBatch, UnlabelledBatch]:
    noise = torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    label, pseudo = label_of(5, 3), label_of(2, 6)
    return (
        LabelledBatch(image=label + 0.3 * noise[:2], label=label),
        UnlabelledBatch(image=pseudo + 0.3 * noise[2:], pseudo_label=pseudo),
    )


def networks() -> Networks:
    segmenter = build_segmenter(PROTOCOL)
    return Networks(
        segmenter=segmenter, segmenter_optimiser=torch.optim.Adam(segmenter.parameters(), 1e-3)
    )


def stepped(
    kind: type[Method],
    labelling: int,
    labelled: LabelledBatch | None,
    unlabelled: UnlabelledBatch | None,
    config: MethodConfig = METHOD,
) -> tuple[Tensor, StepRecord]:
    """All weights of S after one step, and what it measured."""
    nets = networks()
    method = kind(nets, config, plan(labelling), proximal=None, generator=torch.Generator())
    record = method.step(labelled, unlabelled)
    return torch.nn.utils.parameters_to_vector(nets.segmenter.parameters()).detach(), record


def test_the_loss_is_attsvnets_and_dice_against_pseudo_labels() -> None:
    labelled, unlabelled = batches()
    assert unlabelled.pseudo_label is not None
    with torch.no_grad():
        own, other = (
            torch.softmax(build_segmenter(PROTOCOL)(image), 1)
            for image in (labelled.image, unlabelled.image)
        )
    target = one_hot_maps(labelled.label, 3)
    weights = sample_attention(own, target, 2.0)
    supervised = float((weights * dice_loss(own, target, "inverse")).mean())
    pseudo = float(dice_loss(other, one_hot_maps(unlabelled.pseudo_label, 3), "inverse").mean())
    _, record = stepped(SemiFCN, 1, labelled, unlabelled)
    assert set(record.losses) == {"dice", "pseudo", "total"}
    assert record.losses["pseudo"] == pytest.approx(pseudo, rel=1e-5)
    assert record.losses["total"] == pytest.approx(supervised + 0.3 * pseudo, rel=1e-5)
    assert record.attention == pytest.approx(weights.tolist(), rel=1e-4)


def test_pseudo_labels_move_s_and_which_they_are_matters() -> None:
    labelled, unlabelled = batches()
    other = UnlabelledBatch(image=unlabelled.image, pseudo_label=label_of(7, 1))
    weights = [stepped(SemiFCN, 1, labelled, batch)[0] for batch in (unlabelled, other, None)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_before_the_first_labelling_it_is_attsvnet() -> None:
    labelled, unlabelled = batches()
    resting, record = stepped(SemiFCN, 0, labelled, unlabelled)
    config = MethodConfig(class_weight="inverse", lambda_adversarial=0, lambda_region=0)
    attsvnet, expected = stepped(ASDNet, 0, labelled, None, config)
    assert torch.equal(resting, attsvnet)
    assert record == expected


def test_a_site_without_labels_learns_from_its_pseudo_labels_alone() -> None:
    before = torch.nn.utils.parameters_to_vector(networks().segmenter.parameters())
    after, record = stepped(SemiFCN, 2, None, batches()[1])
    assert set(record.losses) == {"pseudo", "total"}
    assert record.losses["total"] == pytest.approx(0.3 * record.losses["pseudo"])
    assert not torch.equal(before, after)


def test_the_proximal_term_is_felt() -> None:
    nets = networks()
    penalty = Proximal(nets.segmenter, 1e6)
    with torch.no_grad():
        for parameter in nets.segmenter.parameters():
            parameter += 0.1
    anchor = torch.nn.utils.parameters_to_vector(build_segmenter(PROTOCOL).parameters())
    away = torch.nn.utils.parameters_to_vector(nets.segmenter.parameters()).detach()
    method = SemiFCN(nets, METHOD, plan(1), proximal=penalty, generator=torch.Generator())
    method.step(None, batches()[1])
    # Adam's first step is its rate, here in the direction of the anchor everywhere.
    moved = torch.nn.utils.parameters_to_vector(nets.segmenter.parameters()).detach() - away
    assert torch.equal(moved.sign(), (anchor - away).sign().detach())


def test_nothing_to_learn_from_is_refused() -> None:
    labelled, unlabelled = batches()
    with pytest.raises(ValueError, match="once labelled anew"):
        stepped(SemiFCN, 0, None, unlabelled)
    with pytest.raises(ValueError, match=r"labelling 3: .* without pseudo-labels"):
        stepped(SemiFCN, 3, labelled, UnlabelledBatch(image=unlabelled.image))


def test_a_non_finite_scan_stops_before_the_step() -> None:
    labelled, unlabelled = batches()
    unlabelled.image[0, 0, 1, 1, 1] = float("nan")
    nets = networks()
    method = SemiFCN(nets, METHOD, plan(1), proximal=None, generator=torch.Generator())
    with pytest.raises(NonFiniteLossError):
        method.step(labelled, unlabelled)
    assert nets.segmenter_optimiser.state_dict()["state"] == {}
