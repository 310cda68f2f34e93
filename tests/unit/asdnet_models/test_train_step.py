"""The equalities that one step of ASDNet must hold."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from asdnet_models.class_maps import one_hot_maps
from asdnet_models.config import MethodConfig
from asdnet_models.losses import confidence_loss, dice_loss, sample_attention
from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.methods.common import Networks, NonFiniteLossError, Proximal, frozen
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter
from protocol.config.schedule import RoundPlan, plan_round
from protocol.config.study import StudyProtocol

PROTOCOL = StudyProtocol(
    organs={"bladder": 1, "prostate": 2},
    patch_voxels=(16, 16, 16),
    network=NetworkConfig(width=4, kernel=3),
    confidence=ConfidenceConfig(width=2),
)
FULL = RoundPlan(round=9, lr_factor=1, adversarial_ramp=1, region_ramp=1)
WARM_UP = RoundPlan(round=1, lr_factor=1, adversarial_ramp=0, region_ramp=0)
METHOD = MethodConfig()
SUPERVISED = MethodConfig(lambda_adversarial=0, lambda_region=0)

State = dict[str, Tensor]


def batches(seed: int = 1) -> tuple[LabelledBatch, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.long)
    label[:, :, 2:7] = 1
    label[:, :, 9:13, 4:12] = 2
    image = label + 0.3 * torch.randn(label.shape, generator=generator)
    unlabelled = torch.randn(2, 1, 16, 16, 16, generator=generator)
    return LabelledBatch(image=image, label=label), unlabelled


def networks(*, confidence: bool = True, trained: bool = True) -> Networks:
    segmenter = build_segmenter(PROTOCOL)
    d = build_confidence(PROTOCOL) if confidence else None
    return Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.Adam(segmenter.parameters(), 1e-3, weight_decay=1e-4),
        confidence=d,
        confidence_optimiser=torch.optim.Adam(d.parameters(), 1e-4, weight_decay=1e-4)
        if d is not None and trained
        else None,
    )


def state(network: nn.Module | None) -> State:
    assert network is not None
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(network: nn.Module | None) -> list[Tensor | None]:
    assert network is not None
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def before_step(optimiser: torch.optim.Optimizer | None, look: Callable[[], None]) -> None:
    assert optimiser is not None
    optimiser.register_step_pre_hook(lambda *_: look())


class Echo(nn.Module):
    """A segmenter that predicts the class nearest to the voxel's value."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-self.scale * (image - c) ** 2 for c in range(self.classes)], dim=1)


# ---- who learns from what -----------------------------------------------------------------------


def test_d_steps_first_and_leaves_every_gradient_of_s_none() -> None:
    nets = networks()
    seen: list[str] = []

    def at_d_step() -> None:
        seen.append("D")
        assert all(gradient is None for gradient in gradients(nets.segmenter))
        assert all(gradient is not None for gradient in gradients(nets.confidence))

    before_step(nets.confidence_optimiser, at_d_step)
    before_step(nets.segmenter_optimiser, lambda: seen.append("S"))
    train_step(nets, METHOD, FULL, *batches())
    assert seen == ["D", "S"]


def test_d_learns_by_eq3_on_detached_fakes_of_labelled_patches_and_by_nothing_else() -> None:
    labelled, unlabelled = batches()
    nets = networks()
    by_hand = build_confidence(PROTOCOL)
    optimiser = torch.optim.Adam(by_hand.parameters(), 1e-4, weight_decay=1e-4)
    for _ in range(2):
        with torch.no_grad():
            logits = nets.segmenter(torch.cat((labelled.image, unlabelled)))
            fakes = torch.softmax(logits, 1)[:2]
        logits = by_hand(torch.cat((one_hot_maps(labelled.label, 3), fakes)))
        optimiser.zero_grad()
        confidence_loss(logits[:2], logits[2:]).backward()
        optimiser.step()
        train_step(nets, METHOD, FULL, labelled, unlabelled)
    # A gradient that S's step left in D and the second step took would show here.
    assert same(state(nets.confidence), state(by_hand))
    assert not same(state(nets.confidence), state(build_confidence(PROTOCOL)))


def test_the_s_step_leaves_weights_and_gradients_of_d_alone() -> None:
    nets = networks()
    at_s_step: list[tuple[State, list[Tensor | None]]] = []
    at_d_step: list[list[Tensor | None]] = []
    before_step(nets.confidence_optimiser, lambda: at_d_step.append(gradients(nets.confidence)))
    before_step(
        nets.segmenter_optimiser,
        lambda: at_s_step.append((state(nets.confidence), gradients(nets.confidence))),
    )
    train_step(nets, METHOD, FULL, *batches())
    weights, left = at_s_step[0]
    assert same(weights, state(nets.confidence))
    for ours, theirs in zip(left, at_d_step[0], strict=True):
        assert ours is not None and theirs is not None
        assert torch.equal(ours, theirs)
    assert nets.confidence is not None
    assert all(parameter.requires_grad for parameter in nets.confidence.parameters())


def test_s_does_not_feel_ds_loss() -> None:
    with_d, without_d = networks(), networks(confidence=False)
    train_step(with_d, METHOD, WARM_UP, *batches())
    train_step(without_d, METHOD, WARM_UP, *batches())
    assert same(state(with_d.segmenter), state(without_d.segmenter))
    assert not same(state(with_d.confidence), state(build_confidence(PROTOCOL)))


def test_s_feels_eq5_and_eq6() -> None:
    states = []
    for adversarial, region in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        nets = networks(trained=False)
        plan = RoundPlan(round=1, lr_factor=1, adversarial_ramp=adversarial, region_ramp=region)
        train_step(nets, METHOD, plan, *batches())
        states.append(state(nets.segmenter))
    assert not same(states[0], states[1])
    assert not same(states[0], states[2])
    assert not same(states[1], states[2])


def test_a_d_without_optimiser_stays_bit_identical() -> None:
    nets = networks(trained=False)
    before, s_before = state(nets.confidence), state(nets.segmenter)
    record = train_step(nets, METHOD, FULL, *batches())
    assert same(before, state(nets.confidence))
    assert all(gradient is None for gradient in gradients(nets.confidence))
    assert "confidence" not in record.losses
    assert not same(s_before, state(nets.segmenter))


def test_a_label_free_step_leaves_d_bit_identical() -> None:
    nets = networks()
    before, s_before = state(nets.confidence), state(nets.segmenter)
    record = train_step(nets, METHOD, FULL, None, batches()[1])
    assert same(before, state(nets.confidence))
    assert all(gradient is None for gradient in gradients(nets.confidence))
    assert not same(s_before, state(nets.segmenter))
    assert set(record.losses) == {"adversarial", "region", "total"}
    assert record.attention == []


@pytest.mark.parametrize(("from_unlabelled", "maps"), [(False, 2 + 2), (True, 2 + 4)])
def test_fakes_of_unlabelled_scans_are_a_switch(from_unlabelled: bool, maps: int) -> None:
    nets = networks()
    seen: list[int] = []
    assert nets.confidence is not None
    nets.confidence.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    train_step(nets, MethodConfig(fakes_from_unlabelled=from_unlabelled), FULL, *batches())
    assert seen == [maps, 4]  # D's step; then Eq. 5 and 6 on all maps of S


@pytest.mark.parametrize(("soften", "expected"), [(0.0, {0.0, 1.0}), (0.3, {0.1, 0.8})])
def test_real_masks_are_softened_on_demand(soften: float, expected: set[float]) -> None:
    nets = networks()
    seen: list[Tensor] = []
    assert nets.confidence is not None
    nets.confidence.register_forward_pre_hook(lambda _, args: seen.append(args[0][:2]))
    train_step(nets, MethodConfig(soften_real=soften), WARM_UP, *batches())
    assert {round(float(value), 6) for value in seen[0].unique()} == expected


# ---- the supervised ablation --------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["literal", "off"])
def test_both_lambdas_zero_is_attsvnet(attention: str) -> None:
    method = SUPERVISED.model_copy(update={"sample_attention": attention})
    protocol = PROTOCOL.model_copy(update={"method": method})
    nets = networks()
    by_hand = build_segmenter(PROTOCOL)
    optimiser = torch.optim.Adam(by_hand.parameters(), 1e-3, weight_decay=1e-4)
    for step in range(3):
        labelled, _ = batches(step)
        target = one_hot_maps(labelled.label, 3)
        probabilities = torch.softmax(by_hand(labelled.image), 1)
        loss = dice_loss(probabilities, target)
        if attention == "literal":
            loss = loss * sample_attention(probabilities, target, 2.0)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        last_round = plan_round(protocol, protocol.training.rounds)
        train_step(nets, method, last_round, labelled, None)
    theirs = state(by_hand)
    for name, tensor in state(nets.segmenter).items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-7)
    assert not same(theirs, state(build_segmenter(PROTOCOL)))


def test_an_unlabelled_batch_changes_nothing_where_both_lambdas_are_zero() -> None:
    labelled, unlabelled = batches()
    first, second = networks(confidence=False), networks(confidence=False)
    train_step(first, SUPERVISED, WARM_UP, labelled, unlabelled)
    train_step(second, SUPERVISED, WARM_UP, labelled, torch.flip(unlabelled, (2,)) * 3)
    assert same(state(first.segmenter), state(second.segmenter))


def test_attention_is_divided_by_the_announced_mean() -> None:
    totals = {}
    for kind in ("literal", "normalised", "off"):
        method = SUPERVISED.model_copy(update={"sample_attention": kind})
        plan = WARM_UP.model_copy(update={"attention_scale": 0.25})
        record = train_step(networks(), method, plan, batches()[0], None)
        totals[kind] = record.losses["total"]
        if kind == "off":
            assert record.attention == []
            assert totals[kind] == record.losses["dice"]
        else:
            assert len(record.attention) == 2
            assert all(0 < weight < 1 for weight in record.attention)
    assert totals["normalised"] == pytest.approx(4 * totals["literal"])
    assert totals["literal"] < totals["off"]


# ---- the numbers of a step ----------------------------------------------------------------------


def test_total_is_eq7_with_the_ramps_of_the_round() -> None:
    method = MethodConfig(sample_attention="off", lambda_adversarial=0.5, lambda_region=2)
    plan = RoundPlan(round=3, lr_factor=1, adversarial_ramp=0.5, region_ramp=0.25)
    losses = train_step(networks(), method, plan, *batches()).losses
    assert losses["region"] > 0
    assert losses["total"] == pytest.approx(
        losses["dice"] + 0.25 * losses["adversarial"] + 0.5 * losses["region"], rel=1e-5
    )


def test_terms_in_warm_up_are_absent_from_the_record() -> None:
    record = train_step(networks(), METHOD, WARM_UP, *batches())
    assert set(record.losses) == {
        "dice",
        "total",
        "confidence",
        "confidence_on_real",
        "confidence_on_fake",
    }
    assert record.trusted_by_class == record.predicted_by_class == []


def test_coverage_counts_unlabelled_voxels_by_predicted_class() -> None:
    image = torch.zeros(2, 1, 16, 16, 16)
    image[0, :, :3] = 1
    image[1, :, :1] = 2
    predicted = [2 * 4096 - 768 - 256, 768, 256]
    segmenter, confidence = Echo(3), build_confidence(PROTOCOL)
    for parameter in confidence.parameters():
        nn.init.zeros_(parameter)  # M = .5 everywhere
    nets = Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.SGD(segmenter.parameters(), 0.0),
        confidence=confidence,
    )
    labelled, _ = batches()
    everything = train_step(nets, MethodConfig(gamma=0.4), FULL, labelled, image)
    assert everything.predicted_by_class == predicted
    assert everything.trusted_by_class == predicted
    nothing = train_step(nets, MethodConfig(gamma=0.5), FULL, labelled, image)
    assert nothing.predicted_by_class == predicted
    assert nothing.trusted_by_class == [0, 0, 0]
    assert nothing.losses["region"] == 0


def test_a_map_that_trusts_one_half_is_counted_so() -> None:
    class Half(nn.Module):
        def forward(self, maps: Tensor, image: Tensor) -> Tensor:
            logits = torch.full_like(maps[:, :1], -9.0)
            logits[:, :, :8] = 9.0
            return logits

    image = torch.zeros(1, 1, 16, 16, 16)
    image[:, :, 6:10] = 1  # two of its four planes are trusted
    segmenter = Echo(3)
    optimiser = torch.optim.SGD(segmenter.parameters(), 0.0)
    nets = Networks(segmenter=segmenter, segmenter_optimiser=optimiser, confidence=Half())
    record = train_step(nets, METHOD, FULL, None, image)
    assert record.predicted_by_class == [12 * 256, 4 * 256, 0]
    assert record.trusted_by_class == [6 * 256, 2 * 256, 0]


def test_an_unlabelled_patch_is_judged_by_its_own_map() -> None:
    class TrustsClassOne(nn.Module):
        def forward(self, maps: Tensor, image: Tensor) -> Tensor:
            return 40 * (maps[:, 1:2] - 0.5)

    image = torch.zeros(2, 1, 16, 16, 16)
    image[0, :, 6:10] = 1
    image[1, :, 15:] = 1
    segmenter = Echo(3)
    optimiser = torch.optim.SGD(segmenter.parameters(), 0.0)
    nets = Networks(segmenter=segmenter, segmenter_optimiser=optimiser, confidence=TrustsClassOne())
    record = train_step(nets, METHOD, FULL, batches()[0], image)
    assert record.predicted_by_class == [27 * 256, 5 * 256, 0]
    assert record.trusted_by_class == [0, 5 * 256, 0]


# ---- one logit a patch (row AttSVNet+CNN) -------------------------------------------------------


def cnn_networks() -> Networks:
    nets = networks()
    confidence = PROTOCOL.confidence.model_copy(update={"architecture": "cnn"})
    d = build_confidence(PROTOCOL.model_copy(update={"confidence": confidence}))
    nets.confidence = d
    nets.confidence_optimiser = torch.optim.Adam(d.parameters(), 1e-4)
    return nets


def test_a_cnn_trains_and_teaches_by_eq5_alone() -> None:
    method = MethodConfig(lambda_region=0, lambda_adversarial=1)
    plan = RoundPlan(round=9, lr_factor=1, adversarial_ramp=1, region_ramp=0)
    nets, untaught = cnn_networks(), networks(confidence=False)
    before = state(nets.confidence)
    labelled, unlabelled = batches()
    assert nets.confidence is not None
    with torch.no_grad():
        fakes = torch.softmax(nets.segmenter(labelled.image), 1)
        real = nets.confidence(one_hot_maps(labelled.label, 3)).flatten()
        fake = nets.confidence(fakes).flatten()
    by_hand = -(torch.sigmoid(real).log() + torch.sigmoid(-fake).log()).mean()
    record = train_step(nets, method, plan, labelled, unlabelled)
    assert record.losses["confidence"] == pytest.approx(float(by_hand), rel=1e-5)
    assert record.losses["adversarial"] > 0
    assert "region" not in record.losses
    now = state(nets.confidence)
    assert not any(torch.equal(before[name], now[name]) for name in before)
    train_step(untaught, method, plan, labelled, unlabelled)
    assert not same(state(nets.segmenter), state(untaught.segmenter))


def test_eq6_refuses_one_value_a_patch() -> None:
    with pytest.raises(ValueError, match=r"confidence is \(2, 1, 1, 1, 1\), must be \(2, 1, 16"):
        train_step(cnn_networks(), METHOD, FULL, *batches())


# ---- guards -------------------------------------------------------------------------------------


def test_frozen_gives_back_what_was_trainable_before() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    network[0].bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in network.parameters()]
    with pytest.raises(RuntimeError, match="inside"), frozen(network):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        raise RuntimeError("inside")
    assert [parameter.requires_grad for parameter in network.parameters()] == before
    assert before == [True, False, True, True]


def test_gradients_flow_through_a_frozen_network() -> None:
    network, x = nn.Linear(1, 1), torch.ones(1, 1, requires_grad=True)
    with frozen(network):
        y = network(x)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.item() == network.weight.item()
    assert network.weight.grad is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("with_d", [True, False])
def test_a_non_finite_image_stops_before_any_step(value: float, with_d: bool) -> None:
    nets = networks(confidence=with_d)
    s_before = state(nets.segmenter)
    labelled, unlabelled = batches()
    labelled.image[0, 0, 3, 3, 3] = value
    with pytest.raises(NonFiniteLossError, match="confidence loss" if with_d else "segmenter loss"):
        train_step(nets, METHOD, FULL, labelled, unlabelled)
    assert same(state(nets.segmenter), s_before)
    assert nets.segmenter_optimiser.state_dict()["state"] == {}
    if with_d:
        assert same(state(nets.confidence), state(build_confidence(PROTOCOL)))


def test_a_non_finite_unlabelled_image_leaves_s_alone() -> None:
    nets = networks()
    before = state(nets.segmenter)
    labelled, unlabelled = batches()
    unlabelled[1, 0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteLossError, match="segmenter loss is nan"):
        train_step(nets, METHOD, FULL, labelled, unlabelled)
    assert same(state(nets.segmenter), before)


def test_a_step_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="labelled or unlabelled"):
        train_step(networks(), METHOD, FULL, None, None)


# ---- the proximal term --------------------------------------------------------------------------


def test_proximal_by_hand() -> None:
    network = nn.Linear(2, 1)
    penalty = Proximal(network, 0.5)
    assert penalty(network).item() == 0
    with torch.no_grad():
        network.weight += torch.tensor([[1.0, -2.0]])
        network.bias += 3.0
    assert penalty(network).item() == pytest.approx(0.5 / 2 * (1 + 4 + 9))


def test_proximal_is_what_a_label_free_site_learns_in_warm_up() -> None:
    # S's own terms rest, so SGD at rate 1 goes the fraction mu back to the anchor.
    segmenter = Echo(3)
    penalty = Proximal(segmenter, 0.25)
    with torch.no_grad():
        segmenter.scale += 4.0
    optimiser = torch.optim.SGD(segmenter.parameters(), 1.0)
    nets = Networks(segmenter=segmenter, segmenter_optimiser=optimiser)
    train_step(nets, METHOD, WARM_UP, None, batches()[1], proximal=penalty)
    assert segmenter.scale.item() == pytest.approx(20.0 + 4.0 * 0.75)
