"""Methods with a teacher or a second network: what a step learns where, and from which views."""

import math

import pytest
import torch
from torch import Tensor, nn

from asdnet_models.class_maps import argmax_channels
from asdnet_models.config import MethodConfig
from asdnet_models.methods import method_named
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.boxes import random_boxes
from asdnet_models.methods.common import Method, Networks, NonFiniteLossError, Proximal
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import Teacher
from asdnet_models.methods.ua_mt import UncertaintyAwareMeanTeacher
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.teacher_loss import believed_loss
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol

PROTOCOL = StudyProtocol(
    organs={"bladder": 1, "prostate": 2},
    patch_voxels=(16, 16, 16),
    network=NetworkConfig(width=4, kernel=3),
    confidence=ConfidenceConfig(width=4, input="maps+image", target="correctness", prior="softmax"),
)
TAUGHT = ("region-teacher", "weak-to-strong", "copy-paste", "mean-teacher", "ua-mt", "cross-pseudo")
GATED = ("region-teacher", "weak-to-strong", "copy-paste")


def config(name: str, gate: str = "none", **changes: object) -> MethodConfig:
    content = {"name": name, "gate": gate, "gamma": 0.5, "supervised": "dice+ce", **changes}
    return MethodConfig.model_validate(
        {"class_weight": "uniform", "sample_attention": "off"} | content
    )


def plan(ramp: float = 1.0, progress: float = 0.0) -> RoundPlan:
    return RoundPlan(round=9, lr_factor=1, adversarial_ramp=0, region_ramp=ramp, progress=progress)


def batches() -> tuple[LabelledBatch, UnlabelledBatch]:
    noise = torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.uint8)
    label[:, :, :5] = 1
    label[:, :, 10:13] = 2
    plain = label.flip(2) + 0.3 * noise[2:]
    return (
        LabelledBatch(image=label + 0.3 * noise[:2], label=label),
        UnlabelledBatch(image=plain * 1.1 + 0.05, plain=plain),
    )


def networks(method: MethodConfig, *, confidence_learns: bool = True) -> Networks:
    segmenter, teacher = build_segmenter(PROTOCOL), build_segmenter(other_seed())
    confidence = build_confidence(PROTOCOL) if method.trains_confidence else None

    def adam(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), 1e-3)

    return Networks(
        segmenter=segmenter,
        segmenter_optimiser=adam(segmenter),
        confidence=confidence,
        confidence_optimiser=adam(confidence) if confidence and confidence_learns else None,
        teacher=teacher,
        teacher_optimiser=adam(teacher) if method.name == "cross-pseudo" else None,
        learns_correctness=True,
        softmax_prior=True,
    )


def other_seed() -> StudyProtocol:
    return PROTOCOL.model_copy(update={"seed": 5})


def made(
    nets: Networks,
    method: MethodConfig,
    ramp: float = 1.0,
    proximal: Proximal | None = None,
    progress: float = 0.0,
) -> Method:
    generator = torch.Generator().manual_seed(3)
    return method_named(method.name)(
        nets, method, plan(ramp, progress), proximal=proximal, generator=generator
    )


def stepped(
    method: MethodConfig,
    labelled: LabelledBatch | None,
    unlabelled: UnlabelledBatch | None,
    ramp: float = 1.0,
) -> tuple[Tensor, StepRecord]:
    """All weights of S after one step, and what it measured."""
    nets = networks(method)
    record = made(nets, method, ramp).step(labelled, unlabelled)
    return weights(nets.segmenter), record


def weights(network: nn.Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()


@pytest.mark.parametrize("name", TAUGHT)
def test_a_site_learns_from_what_it_has(name: str) -> None:
    """From both kinds, from labels alone, from unlabelled scans alone: three different steps."""
    method = config(name)
    labelled, unlabelled = batches()
    both, of_both = stepped(method, labelled, unlabelled)
    labels, of_labels = stepped(method, labelled, None)
    neither, of_unlabelled = stepped(method, None, unlabelled)
    assert not any(torch.equal(*pair) for pair in ((both, labels), (both, neither)))
    assert {"dice", "teacher", "agreement", "total"} <= of_both.losses.keys()
    assert "teacher" not in of_labels.losses
    assert "dice" not in of_unlabelled.losses
    assert 0 <= of_both.losses["agreement"] <= 1
    with pytest.raises(ValueError, match="a step needs labelled patches"):
        stepped(method, None, None)


@pytest.mark.parametrize("name", TAUGHT)
def test_in_the_warm_up_unlabelled_patches_change_nothing(name: str) -> None:
    labelled, unlabelled = batches()
    assert torch.equal(
        stepped(config(name), labelled, unlabelled, 0.0)[0],
        stepped(config(name), labelled, None, 0.0)[0],
    )
    with pytest.raises(ValueError, match="after the warm-up"):
        stepped(config(name), None, unlabelled, 0.0)


@pytest.mark.parametrize("name", TAUGHT)
def test_the_same_generator_takes_the_same_step(name: str) -> None:
    first, second = (stepped(config(name), *batches()) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.parametrize("name", [name for name in TAUGHT if name != "cross-pseudo"])
def test_the_teacher_labels_the_weak_view_and_follows_s(name: str) -> None:
    """What it labels is the plain view, and after the step it is a hundredth nearer to S."""
    labelled, unlabelled = batches()
    assert unlabelled.plain is not None
    method = config(name, teacher_decay=0.99)
    nets = networks(method)
    assert nets.teacher is not None
    before = weights(nets.teacher)
    record = made(nets, method).step(labelled, unlabelled)
    after, own = weights(nets.teacher), weights(nets.segmenter)
    torch.testing.assert_close(after, before + 0.01 * (own - before))
    expected = (own - after).norm() / after.norm()
    assert record.losses["drift"] == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(ValueError, match="without the views that a teacher labels"):
        stepped(method, labelled, UnlabelledBatch(image=unlabelled.image))
    # Another weak view gives other labels, although S sees the same patch.
    elsewhere = UnlabelledBatch(image=unlabelled.image, plain=unlabelled.plain.flip(2))
    assert not torch.equal(
        stepped(method, labelled, unlabelled)[0], stepped(method, labelled, elsewhere)[0]
    )


@pytest.mark.parametrize("name", GATED)
def test_a_gate_that_believes_nothing_leaves_the_labels_step(name: str) -> None:
    """Of a label-free site nothing moves but by Adam's zero gradient."""
    _, unlabelled = batches()
    method = config(name, "softmax", gamma=0.999)
    nets = networks(method)
    before = weights(nets.segmenter)
    record = made(nets, method).step(None, unlabelled)
    assert record.losses["teacher"] == 0.0
    assert torch.equal(weights(nets.segmenter), before)
    assert sum(record.trusted_by_class) == 0 < sum(record.predicted_by_class)


@pytest.mark.parametrize("name", GATED)
def test_m_is_of_the_teachers_maps_and_d_learns_where_the_teacher_is_right(name: str) -> None:
    labelled, unlabelled = batches()
    method = config(name, "mask")
    nets = networks(method)
    assert nets.confidence is not None and nets.teacher is not None
    with torch.no_grad():
        maps = torch.softmax(nets.teacher(labelled.image), 1)
    right = float((argmax_channels(maps) == labelled.label).float().mean())
    record = made(nets, method).step(labelled, unlabelled)
    right_weight = dict.fromkeys(("confidence", "confidence_on_right", "confidence_on_wrong"))
    assert right_weight.keys() <= record.losses.keys()
    counted = {name: record.noted[f"confidence_on_{name}"][0][1] for name in ("right", "wrong")}
    assert float(counted["right"]) / labelled.label.numel() == pytest.approx(right)
    # By weight and by mask M is asked; by softmax and "none" no D is there to be asked.
    assert config(name, "weight").trains_confidence
    assert not config(name, "softmax").trains_confidence
    assert not config(name, "none").trains_confidence


def test_copy_paste_teaches_each_voxel_by_its_own_side() -> None:
    """Two boxes swapped: the loss is of readers' labels on one side, of the teacher's beyond."""
    labelled, unlabelled = batches()
    assert unlabelled.plain is not None
    method = config("copy-paste", lambda_region=0.5)
    nets = networks(method)
    segmenter, teacher = build_segmenter(PROTOCOL), build_segmenter(other_seed())
    box = random_boxes(unlabelled.image, 2 / 3, torch.Generator().manual_seed(3))
    assert box.flatten(1).sum(1).tolist() == [10**3, 10**3]
    drawn = torch.cat((~box, box))
    image = torch.where(drawn, torch.cat((labelled.image,) * 2), torch.cat((unlabelled.image,) * 2))
    with torch.no_grad():
        logits = segmenter(image)
        label = torch.cat((argmax_channels(teacher(unlabelled.plain)),) * 2)
        own = torch.cat((labelled.label,) * 2)
        readers = believed_loss(logits, own, drawn, "uniform", entropy=True).mean()
        teachers = believed_loss(logits, label, ~drawn, "uniform", entropy=True).mean()
    record = made(nets, method).step(labelled, unlabelled)
    assert record.losses["teacher"] == pytest.approx(float(teachers), rel=1e-4)
    assert record.losses["total"] == pytest.approx(float(readers + 0.5 * teachers), rel=1e-4)


def test_organs_that_a_site_has_not_drawn_are_not_learnt_as_background() -> None:
    """In the pasted part too: without them a step is another one than with background there."""
    labelled, unlabelled = batches()
    label = labelled.label.where(labelled.label != 2, torch.zeros_like(labelled.label))
    missing = torch.tensor([[False, False, True]] * 2)
    partly = LabelledBatch(image=labelled.image, label=label, unannotated=missing)
    wrongly = LabelledBatch(image=labelled.image, label=label)
    method = config("copy-paste")
    step, record = stepped(method, partly, unlabelled)
    assert math.isfinite(record.losses["total"])
    assert not torch.equal(step, stepped(method, wrongly, unlabelled)[0])


def test_two_networks_teach_one_another() -> None:
    labelled, unlabelled = batches()
    method = config("cross-pseudo")
    nets = networks(method)
    assert nets.teacher is not None
    before = weights(nets.teacher)
    made(nets, method).step(labelled, unlabelled)
    after = weights(nets.teacher)
    assert not torch.equal(after, before)
    # The twin learns from labels too, without S's word.
    alone = networks(method)
    assert alone.teacher is not None
    made(alone, method).step(labelled, None)
    assert not torch.equal(weights(alone.teacher), after)


@pytest.mark.parametrize("name", TAUGHT)
def test_a_loss_that_is_not_finite_moves_nothing(name: str) -> None:
    labelled, unlabelled = batches()
    broken = LabelledBatch(image=labelled.image * float("nan"), label=labelled.label)
    nets = networks(config(name))
    before = weights(nets.segmenter)
    with pytest.raises(NonFiniteLossError):
        made(nets, config(name)).step(broken, unlabelled)
    assert torch.equal(weights(nets.segmenter), before)


def test_a_pull_to_the_global_weights_is_in_a_label_free_sites_step() -> None:
    _, unlabelled = batches()
    method = config("region-teacher")
    nets = networks(method)
    pull = Proximal(build_segmenter(other_seed()), 10.0)
    made(nets, method, proximal=pull).step(None, unlabelled)
    assert not torch.equal(weights(nets.segmenter), stepped(method, None, unlabelled)[0])


def test_uncertain_voxels_do_not_count() -> None:
    """A teacher that says nothing is at the entropy's upper end, which no threshold reaches."""
    labelled, unlabelled = batches()
    method = config("ua-mt")
    nets = networks(method)
    assert nets.teacher is not None
    nn.utils.vector_to_parameters(
        torch.zeros_like(weights(nets.teacher)), nets.teacher.parameters()
    )
    record = made(nets, method, ramp=0.5).step(labelled, unlabelled)
    assert record.losses["teacher"] == 0.0
    assert sum(record.trusted_by_class) == 0


def test_boxes_lie_inside_and_are_drawn_anew_for_each_sample() -> None:
    like = torch.zeros(8, 1, 9, 6, 4)
    boxes = random_boxes(like, 2 / 3, torch.Generator().manual_seed(1))
    assert boxes.flatten(1).sum(1).tolist() == [6 * 4 * 2] * 8
    assert len({tuple(box.flatten().tolist()) for box in boxes}) > 1
    assert random_boxes(torch.zeros(1, 1, 1, 1, 1), 0.1, torch.Generator()).all()


def test_half_belief_is_half_a_voxel() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator)
    label = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=generator)
    all_of_it = believed_loss(logits, label, torch.ones(2, 1, 4, 4, 4), "uniform", entropy=True)
    half = believed_loss(logits, label, torch.full((2, 1, 4, 4, 4), 0.5), "uniform", entropy=True)
    torch.testing.assert_close(all_of_it, half)
    with pytest.raises(ValueError, match="both must be"):
        believed_loss(logits, label[:1], label, "uniform", entropy=False)


def test_the_first_teacher_is_the_network_that_it_was_given() -> None:
    segmenter = build_segmenter(PROTOCOL)
    teacher = Teacher.of(segmenter, 0.5)
    assert float(teacher.drift(segmenter)) == 0.0
    with torch.no_grad():
        next(iter(segmenter.parameters())).add_(1.0)
    assert float(teacher.drift(segmenter)) > 0.0


@pytest.mark.parametrize(("progress", "believed"), [(0.0, False), (0.5, False), (1.0, True)])
def test_the_threshold_of_uncertainty_rises_over_all_rounds(
    progress: float, *, believed: bool
) -> None:
    """With a ramp that has long risen, a teacher that is nearly undecided is not believed yet."""
    method = config("ua-mt")
    taught = made(networks(method), method, progress=progress)
    assert isinstance(taught, UncertaintyAwareMeanTeacher)
    nearly = torch.tensor([0.45, 0.3, 0.25]).view(1, 3, 1, 1, 1).expand(1, 3, 16, 16, 16)
    taught.teacher.maps = lambda image: nearly  # type: ignore[method-assign]
    image = torch.zeros(1, 1, 16, 16, 16)
    assert bool(taught._believed(image, nearly).all()) is believed


def test_of_nothing_believed_nothing_is_learnt_without_labels() -> None:
    """Weight decay alone would shrink S, step by step."""
    _, unlabelled = batches()
    method = config("region-teacher", gate="softmax", gamma=0.999999)
    nets = networks(method)
    before = weights(nets.segmenter).clone()
    record = made(nets, method).step(None, unlabelled)
    assert record.losses["teacher"] == 0.0
    assert torch.equal(weights(nets.segmenter), before)
