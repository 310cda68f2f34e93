"""One step of semiEmbedFCN: features, their samples, and the teacher."""

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from asdnet_models.config import MethodConfig
from asdnet_models.losses import embedding_loss
from asdnet_models.methods.asdnet import ASDNet
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import Networks
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.semi_embed import SemiEmbed, sample_voxels
from asdnet_models.methods.teacher import Teacher
from asdnet_models.network_config import NetworkConfig
from asdnet_models.networks import build_segmenter
from asdnet_models.networks.svnet import SVNet
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol

PROTOCOL = StudyProtocol(
    organs={"bladder": 1, "prostate": 2},
    patch_voxels=(16, 16, 16),
    network=NetworkConfig(width=4, kernel=3),
)
METHOD = MethodConfig(name="semi-embed", class_weight="inverse", lambda_embedding=0.1)


def plan(ramp: float) -> RoundPlan:
    return RoundPlan(round=9, lr_factor=1, adversarial_ramp=0, region_ramp=0, embedding_ramp=ramp)


def batches() -> tuple[LabelledBatch, UnlabelledBatch]:
    noise = torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.uint8)
    label[:, :, :5] = 1
    label[:, :, 10:13] = 2
    return (
        LabelledBatch(image=label + 0.3 * noise[:2], label=label),
        UnlabelledBatch(image=label.flip(2) + 0.3 * noise[2:]),
    )


def networks(norm: str = "group") -> Networks:
    network = NetworkConfig.model_validate({"width": 4, "kernel": 3, "norm": norm})
    segmenter = build_segmenter(PROTOCOL.model_copy(update={"network": network}))
    return Networks(
        segmenter=segmenter, segmenter_optimiser=torch.optim.Adam(segmenter.parameters(), 1e-2)
    )


def made(nets: Networks, ramp: float = 1.0, seed: int = 3) -> SemiEmbed:
    generator = torch.Generator().manual_seed(seed)
    return SemiEmbed(nets, METHOD, plan(ramp), proximal=None, generator=generator)


def stepped(
    ramp: float, seed: int = 3, *, unlabelled: bool = True, steps: int = 1
) -> tuple[Tensor, StepRecord]:
    nets = networks()
    method = made(nets, ramp, seed)
    labelled, free = batches()
    for _ in range(steps):
        record = method.step(labelled, free if unlabelled else None)
    return parameters_to_vector(nets.segmenter.parameters()).detach(), record


# ---- features -----------------------------------------------------------------------------------


def test_head_of_features_is_the_network() -> None:
    network = SVNet(classes=3, levels=4, width=4, kernel=3)
    image = batches()[0].image
    with torch.no_grad():
        features = network.features(image)
        assert features.shape == (2, 8, 16, 16, 16)
        assert torch.equal(network.head(features), network(image))


def test_voxels_are_drawn_evenly_over_classes_and_without_repeats() -> None:
    label = batches()[0].label.clone()
    label[:, :, 13, 0, 0] = 3  # two voxels of a fourth class; the fifth is absent
    index = sample_voxels(label, 5, 64, torch.Generator().manual_seed(1))
    assert torch.bincount(label.flatten()[index].long(), minlength=5).tolist() == [64, 64, 64, 2, 0]
    assert len(index.unique()) == len(index)
    again = sample_voxels(label, 5, 64, torch.Generator().manual_seed(1))
    other = sample_voxels(label, 5, 64, torch.Generator().manual_seed(2))
    assert torch.equal(index, again)
    assert not torch.equal(index, other)


# ---- the step -----------------------------------------------------------------------------------


def test_in_warm_up_it_is_attsvnet() -> None:
    resting, record = stepped(0.0)
    nets = networks()
    config = MethodConfig(class_weight="inverse", lambda_adversarial=0, lambda_region=0)
    supervised = ASDNet(nets, config, plan(0.0), proximal=None, generator=torch.Generator())
    expected = supervised.step(batches()[0], None)
    assert "embedding" not in record.losses
    assert record.losses["total"] == pytest.approx(expected.losses["total"])
    vector = parameters_to_vector(nets.segmenter.parameters()).detach()
    torch.testing.assert_close(resting, vector, rtol=0, atol=1e-7)


def test_the_embedding_is_that_of_labels_and_of_the_teachers_labels() -> None:
    labelled, unlabelled = batches()
    network = build_segmenter(PROTOCOL)
    assert isinstance(network, SVNet)
    with torch.no_grad():
        features = network.features(torch.cat((labelled.image, unlabelled.image)))
        drawn_by_teacher = network(unlabelled.image).argmax(1, keepdim=True)
    label = torch.cat((labelled.label.long(), drawn_by_teacher))
    index = sample_voxels(label, 3, 64, torch.Generator().manual_seed(3))
    rows = features.movedim(1, -1).reshape(-1, 8)[index]
    expected = float(embedding_loss(rows, label.flatten()[index], METHOD.embedding_margin))
    _, record = stepped(0.5)
    weighted = record.losses["total"] - stepped(0.0)[1].losses["total"]
    assert record.losses["embedding"] == pytest.approx(expected, rel=1e-4)
    assert weighted == pytest.approx(0.5 * 0.1 * expected, rel=1e-3)


def test_unlabelled_patches_are_felt() -> None:
    with_them, without = stepped(1.0), stepped(1.0, unlabelled=False)
    assert not torch.equal(with_them[0], without[0])
    assert with_them[1].losses["dice"] == pytest.approx(without[1].losses["dice"])
    assert without[1].losses["embedding"] > 0


def test_the_same_seed_gives_the_same_weights() -> None:
    assert torch.equal(stepped(1.0, steps=3)[0], stepped(1.0, steps=3)[0])
    assert not torch.equal(stepped(1.0, steps=3)[0], stepped(1.0, seed=4, steps=3)[0])


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="without labels rests"):
        made(networks()).step(None, batches()[1])


# ---- the teacher --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_teacher_starts_at_s_and_follows_by_a_hundredth(norm: str) -> None:
    nets = networks(norm)
    method = made(nets)
    before = parameters_to_vector(nets.segmenter.parameters()).detach().clone()
    teacher = method._teacher
    assert teacher is not None
    assert torch.equal(parameters_to_vector(teacher.network.parameters()), before)
    method.step(*batches())
    after = parameters_to_vector(nets.segmenter.parameters()).detach()
    mean = parameters_to_vector(teacher.network.parameters())
    assert not torch.equal(before, after)
    torch.testing.assert_close(mean, 0.99 * before + 0.01 * after, rtol=0, atol=1e-6)
    for own, running in zip(teacher.network.buffers(), nets.segmenter.buffers(), strict=True):
        assert torch.equal(own, running)


def test_the_teacher_has_no_gradient_and_does_not_touch_s() -> None:
    nets = networks()
    teacher = Teacher.of(nets.segmenter, 0.99)
    label = teacher.label(batches()[1].image)
    assert label.shape == (2, 1, 16, 16, 16)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(parameter.requires_grad for parameter in nets.segmenter.parameters())
    assert nets.segmenter.training
