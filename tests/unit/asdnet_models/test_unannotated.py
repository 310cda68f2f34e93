"""Partly drawn samples: what nobody drew is neither background nor truth, to S and to D."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from asdnet_models.class_maps import merge_unannotated, one_hot_maps
from asdnet_models.config import MethodConfig
from asdnet_models.losses import dice_loss, sample_attention
from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import Networks, Prediction, supervised_loss
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.semi_embed import SemiEmbed
from asdnet_models.methods.semi_fcn import SemiFCN
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol

# Background, bladder, prostate, rectum; here the prostate alone is drawn.
CLASSES = 4
PROSTATE_ONLY = torch.tensor([[False, True, False, True]])
ALL_DRAWN = torch.zeros(1, CLASSES, dtype=torch.bool)
PROTOCOL = StudyProtocol(
    patch_voxels=(16, 16, 16),
    network=NetworkConfig(width=4, kernel=3),
    confidence=ConfidenceConfig(width=2),
)
PLAN = RoundPlan(round=9, lr_factor=1, adversarial_ramp=1, region_ramp=1, embedding_ramp=1)
METHOD = MethodConfig(class_weight="uniform", sample_attention="off")
KINDS = ("inverse-square", "inverse", "uniform")


def maps_of(*classes: int) -> Tensor:
    """A row of voxels of these classes as one-hot maps, (1, C, n, 1, 1)."""
    return one_hot_maps(torch.tensor(classes)[None, None, :, None, None], CLASSES)


def merged_dice(predicted: Tensor, label: Tensor, kind: str = "uniform") -> float:
    merged = merge_unannotated(predicted, PROSTATE_ONLY), merge_unannotated(label, PROSTATE_ONLY)
    return float(dice_loss(*merged, kind))  # type: ignore[arg-type]


# ---- merging, by hand ---------------------------------------------------------------------------


def test_unannotated_organs_are_added_to_background() -> None:
    maps = torch.tensor([0.1, 0.2, 0.3, 0.4])[None, :, None, None, None]
    found = merge_unannotated(maps, PROSTATE_ONLY).flatten()
    assert found.tolist() == pytest.approx([0.1 + 0.2 + 0.4, 0, 0.3, 0])


def test_each_sample_by_its_own_organs() -> None:
    maps = torch.rand(2, CLASSES, 3, 2, 2)
    found = merge_unannotated(maps, torch.cat((PROSTATE_ONLY, ALL_DRAWN)))
    assert torch.equal(found[1], maps[1])
    assert torch.equal(found[0, 2], maps[0, 2])
    assert not found[0, [1, 3]].any()


@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (4,)])
def test_one_truth_value_for_each_sample_and_class(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"unannotated is .*, must be \(1, 4\)"):
        merge_unannotated(maps_of(0, 1), torch.zeros(shape, dtype=torch.bool))


def test_background_is_never_unannotated() -> None:
    with pytest.raises(ValueError, match="unannotated names class 0"):
        merge_unannotated(maps_of(0, 1), torch.tensor([[True, False, False, False]]))


# The patient has all four; the reader has drawn the prostate, the rest of the label is zero.
LABEL = maps_of(0, 0, 2, 0, 0, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "predicted",
    [
        pytest.param((0, 1, 2, 3, 0, 2), id="the unannotated organs, rightly"),
        pytest.param((0, 0, 2, 0, 0, 2), id="the unannotated organs as background"),
        pytest.param((3, 3, 2, 1, 1, 2), id="any unannotated organ for background"),
    ],
)
def test_organs_that_are_not_annotated_add_no_loss(predicted: tuple[int, ...], kind: str) -> None:
    assert merged_dice(maps_of(*predicted), LABEL, kind) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "predicted",
    [
        pytest.param((0, 1, 2, 2, 0, 2), id="the drawn organ where the label has none"),
        pytest.param((0, 1, 0, 3, 0, 2), id="background where the label has the drawn organ"),
        pytest.param(
            (0, 1, 3, 3, 0, 2), id="an unannotated organ where the label has the drawn one"
        ),
    ],
)
def test_what_somebody_drew_costs(predicted: tuple[int, ...], kind: str) -> None:
    assert merged_dice(maps_of(*predicted), LABEL, kind) > 0.05


def test_the_marginal_dice_by_hand() -> None:
    # Of 6 voxels prostate is predicted in 3, drawn in 2, both in 2; the union 3, 4, 3.
    found = merged_dice(maps_of(0, 1, 2, 2, 0, 2), LABEL)
    assert found == pytest.approx(1 - (2 * 2 / 5 + 2 * 3 / 7) / 2, abs=1e-4)


def test_unmerged_the_same_prediction_is_punished() -> None:
    right = maps_of(0, 1, 2, 3, 0, 2)
    assert float(dice_loss(right, LABEL, "uniform")) > 0.1
    assert merged_dice(right, LABEL) == pytest.approx(0, abs=1e-4)


def test_attention_sees_the_union_too() -> None:
    # Prostate (.4) is the likeliest single class, background or an unannotated organ likelier (.6).
    maps = torch.tensor([0.2, 0.2, 0.4, 0.2])[None, :, None, None, None].repeat(1, 1, 4, 1, 1)
    label = maps_of(2, 2, 0, 0)
    merged = merge_unannotated(maps, PROSTATE_ONLY), merge_unannotated(label, PROSTATE_ONLY)
    assert sample_attention(*merged, 1.0).tolist() == [1.0]
    assert sample_attention(maps, label, 1.0).tolist() == pytest.approx([1 - 2 * 2 / 6])


# ---- gradients ----------------------------------------------------------------------------------


def test_unannotated_logits_are_moved_through_the_union_alone() -> None:
    """Within the union probability can be shared in any way: the loss does not see it."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, CLASSES, 4, 4, 4, generator=generator).requires_grad_()
    label = torch.randint(0, 2, (1, 1, 4, 4, 4), generator=generator) * 2
    batch = LabelledBatch(image=label.float(), label=label, unannotated=PROSTATE_ONLY)
    own = Prediction(logits=(logits,))
    supervised_loss(METHOD, PLAN, batch, own, StepRecord()).backward()
    assert logits.grad is not None
    share = torch.softmax(logits, 1).detach()
    union = [0, 1, 3]
    # d loss / d z_c = p_c (g - ...) with one g for all of the union: in proportion to p_c.
    pull = logits.grad[:, union] / share[:, union]
    torch.testing.assert_close(pull, pull[:, :1].expand_as(pull), rtol=1e-3, atol=1e-6)
    assert logits.grad.abs().max() > 1e-3


def test_stray_voxels_of_an_unannotated_organ_teach_nothing() -> None:
    label = torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)
    label[:, :, :2] = 2
    stray = label.clone()
    stray[:, :, 3] = 3
    own = Prediction(logits=(torch.randn(1, CLASSES, 4, 4, 4),))
    found = [
        supervised_loss(
            METHOD,
            PLAN,
            LabelledBatch(image=label.float(), label=each, unannotated=PROSTATE_ONLY),
            own,
            StepRecord(),
        )
        for each in (label, stray)
    ]
    assert torch.equal(*found)


def test_every_head_is_merged() -> None:
    label = torch.zeros(1, 1, 6, 1, 1, dtype=torch.long)
    label[0, 0, [2, 5]] = 2
    batch = LabelledBatch(image=label.float(), label=label, unannotated=PROSTATE_ONLY)
    # One-hot to rounding: 30 times the maps as logits.
    logits = (30 * maps_of(0, 1, 2, 3, 0, 2), 30 * maps_of(3, 3, 2, 1, 1, 2))
    loss = supervised_loss(
        METHOD, PLAN, batch, Prediction(logits=logits, weights=(0.5, 0.5)), StepRecord()
    )
    assert float(loss) == pytest.approx(0, abs=1e-4)


# ---- whole steps --------------------------------------------------------------------------------


def batches(unannotated: Tensor | None) -> tuple[LabelledBatch, Tensor]:
    generator = torch.Generator().manual_seed(1)
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.long)
    label[:, :, 5:11, 5:11] = 2
    noise = torch.randn(4, 1, 16, 16, 16, generator=generator)
    image = label + 0.3 * noise[:2]
    return LabelledBatch(image=image, label=label, unannotated=unannotated), noise[2:]


def networks(protocol: StudyProtocol = PROTOCOL) -> Networks:
    segmenter, d = build_segmenter(protocol), build_confidence(protocol)
    return Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.Adam(segmenter.parameters(), 1e-3, weight_decay=1e-4),
        confidence=d,
        confidence_optimiser=torch.optim.Adam(d.parameters(), 1e-3, weight_decay=1e-4),
        learns_correctness=protocol.confidence.target == "correctness",
        softmax_prior=protocol.confidence.prior == "softmax",
    )


def weights(network: nn.Module | None) -> list[Tensor]:
    assert network is not None
    return [parameter.detach().clone() for parameter in network.parameters()]


def both(unannotated: Tensor) -> Tensor:
    return unannotated.repeat(2, 1)


@pytest.mark.parametrize("architecture", ["svnet", "unet", "dsresunet"])
def test_drawn_in_full_is_the_same_to_the_bit(architecture: str) -> None:
    network = NetworkConfig.model_validate({"architecture": architecture, "width": 4, "kernel": 3})
    protocol = PROTOCOL.model_copy(update={"network": network})
    ends = []
    for unannotated in (None, both(ALL_DRAWN)):
        nets = networks(protocol)
        for _ in range(2):
            record = train_step(nets, MethodConfig(), PLAN, *batches(unannotated))
        ends.append((record, weights(nets.segmenter), weights(nets.confidence)))
    (one, s, d), (other, s_too, d_too) = ends
    assert one == other
    for mine, its in zip([*s, *d], [*s_too, *d_too], strict=True):
        assert torch.equal(mine, its)


def seen_by_d(
    nets: Networks, method: MethodConfig, unannotated: Tensor
) -> list[tuple[Tensor, list[bool]]]:
    """The maps that D is given, step by step; beside each, which classes occur in them."""
    seen: list[Tensor] = []
    assert nets.confidence is not None
    nets.confidence.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    train_step(nets, method, PLAN, *batches(unannotated))
    return [(maps, (maps.flatten(2).amax((0, 2)) > 0).tolist()) for maps in seen]


@pytest.mark.parametrize("soften", [0.0, 0.1])
@pytest.mark.parametrize("unlabelled_fakes", [False, True])
def test_d_cannot_separate_readers_maps_by_what_they_lack(
    soften: float, unlabelled_fakes: bool
) -> None:
    method = replace_method(soften_real=soften, fakes_from_unlabelled=unlabelled_fakes)
    (d_step, occur), (s_step, _) = seen_by_d(networks(), method, both(PROSTATE_ONLY))
    # Real and fake alike: neither has a bladder or a rectum.
    assert occur == [True, False, True, False]
    torch.testing.assert_close(d_step.sum(1), torch.ones_like(d_step.sum(1)))
    # Eq. 5: of labelled samples the same maps, unlabelled ones as they are.
    assert not s_step[:2, [1, 3]].any()
    assert (s_step[2:] > 0).all()


def replace_method(**changes: object) -> MethodConfig:
    return METHOD.model_copy(update=changes)


def test_a_site_that_never_draws_an_organ_leaves_d_its_sight_of_it() -> None:
    nets = networks()
    before = weights(nets.confidence)[0]
    for _ in range(5):
        train_step(nets, METHOD, PLAN, *batches(both(PROSTATE_ONLY)))
    after = weights(nets.confidence)[0]
    assert torch.equal(after[:, [1, 3]], before[:, [1, 3]])
    assert not torch.equal(after[:, [0, 2]], before[:, [0, 2]])


class Echo(nn.Module):
    """Predicts the class nearest to the voxel's value."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-self.scale * (image - c) ** 2 for c in range(CLASSES)], dim=1)


def test_correctness_is_of_the_union() -> None:
    """S sees a rectum where nobody drew one: that is right as far as anybody knows."""
    confidence = ConfidenceConfig(width=2, target="correctness")
    nets = networks(PROTOCOL.model_copy(update={"confidence": confidence}))
    nets.segmenter = Echo()
    nets.segmenter_optimiser = torch.optim.Adam(nets.segmenter.parameters(), 1e-3)
    label = torch.zeros(1, 1, 16, 16, 16, dtype=torch.long)
    label[:, :, :4] = 2
    image = label.float()
    image[:, :, 12:] = 3
    whole = train_step(nets, METHOD, PLAN, LabelledBatch(image=image, label=label), None)
    assert "confidence_on_wrong" in whole.losses
    partly = LabelledBatch(image=image, label=label, unannotated=PROSTATE_ONLY)
    assert "confidence_on_wrong" not in train_step(nets, METHOD, PLAN, partly, None).losses
    image = image.clone()
    image[:, :, 8:12] = 2
    partly = replace(partly, image=image)
    assert "confidence_on_wrong" in train_step(nets, METHOD, PLAN, partly, None).losses


# ---- the rivals ---------------------------------------------------------------------------------


def test_unknown_voxels_are_no_background_to_the_embedding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asdnet_models.methods.semi_embed as module

    drawn: list[Tensor] = []
    sample = module.sample_voxels

    def noted(label: Tensor, *rest: object) -> Tensor:
        index = sample(label, *rest)  # type: ignore[arg-type]
        drawn.append(label.flatten()[index])
        return index

    monkeypatch.setattr(module, "sample_voxels", noted)
    method = MethodConfig(name="semi-embed", class_weight="uniform")
    for unannotated in (None, both(PROSTATE_ONLY), torch.cat((PROSTATE_ONLY, ALL_DRAWN))):
        SemiEmbed(
            networks(), method, PLAN, proximal=None, generator=torch.Generator().manual_seed(1)
        ).step(batches(unannotated)[0], None)
    # All drawn: background and prostate; none: prostate alone; one of two: as all.
    assert [sorted(classes.unique().tolist()) for classes in drawn] == [[0, 2], [2], [0, 2]]


def test_pseudo_labels_of_other_scans_stay_whole() -> None:
    labelled, image = batches(both(PROSTATE_ONLY))
    plan = PLAN.model_copy(update={"pseudo_labels": 1})
    pseudo = torch.zeros(2, 1, 16, 16, 16, dtype=torch.long)
    pseudo[:, :, 4:9] = 3
    found = []
    for label in (pseudo, torch.zeros_like(pseudo)):
        nets = networks()
        method = SemiFCN(nets, METHOD, plan, proximal=None, generator=torch.Generator())
        record = method.step(labelled, UnlabelledBatch(image=image, pseudo_label=label))
        found.append(record.losses)
    assert found[0]["dice"] == found[1]["dice"]
    assert found[0]["pseudo"] != found[1]["pseudo"]


def test_a_sample_without_any_drawn_organ_costs_nothing() -> None:
    labelled, image = batches(torch.tensor([[False, True, True, True]] * 2))
    record = train_step(networks(), MethodConfig(), PLAN, labelled, image)
    assert record.losses["dice"] == pytest.approx(0, abs=1e-5)
