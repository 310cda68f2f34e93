"""A step in parts, for small cards: the same gradients as the whole batch's, to rounding."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch, Patches
from asdnet_models.methods.common import Networks, NonFiniteLossError, Proximal
from asdnet_models.methods.record import StepRecord
from asdnet_models.networks import build_confidence, build_segmenter
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol, merged

PROTOCOL = StudyProtocol.model_validate(
    {
        "organs": {"bladder": 1, "prostate": 2},
        "patch_voxels": (16, 16, 16),
        "network": {"width": 4, "kernel": 3},
        "confidence": {"width": 2},
        "method": {"gamma": 0.4, "class_weight": "inverse"},
    }
)
INFORMED = {
    "confidence": {"input": "maps+image", "target": "correctness", "prior": "softmax"},
}
PLAN = RoundPlan(round=9, lr_factor=1, adversarial_ramp=1, region_ramp=1)
COUNT = 3

Gradients = list[Tensor | None]


def batches(unannotated: Tensor | None = None) -> tuple[LabelledBatch, Tensor]:
    generator = torch.Generator().manual_seed(3)
    label = torch.zeros(COUNT, 1, 16, 16, 16, dtype=torch.long)
    label[:, :, 2:7] = 1
    label[1:, :, 9:13, 4:12] = 2
    noise = torch.randn(2 * COUNT, 1, 16, 16, 16, generator=generator)
    labelled = LabelledBatch(
        image=label + 0.3 * noise[:COUNT], label=label, unannotated=unannotated
    )
    return labelled, noise[COUNT:]


def gradients_of(
    protocol: StudyProtocol,
    parts: int,
    labelled: LabelledBatch | None,
    unlabelled: Tensor | None,
    *,
    proximal: bool = False,
    clip_norm: float | None = None,
) -> tuple[Gradients, Gradients, StepRecord]:
    """Of S and of D where each steps, by plain descent: Adam would blow rounding up to steps."""
    segmenter, confidence = build_segmenter(protocol), build_confidence(protocol)
    nets = Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.SGD(segmenter.parameters(), 1e-2),
        confidence=confidence,
        confidence_optimiser=torch.optim.SGD(confidence.parameters(), 1e-2),
        learns_correctness=protocol.confidence.target == "correctness",
        softmax_prior=protocol.confidence.prior == "softmax",
        parts=parts,
        clip_norm=clip_norm,
    )
    found: dict[str, Gradients] = {"S": [], "D": []}

    def keep(name: str, network: torch.nn.Module) -> Callable[..., None]:
        def look(*_: object) -> None:
            found[name] += [
                None if p.grad is None else p.grad.clone() for p in network.parameters()
            ]

        return look

    nets.segmenter_optimiser.register_step_pre_hook(keep("S", segmenter))
    assert nets.confidence_optimiser is not None
    nets.confidence_optimiser.register_step_pre_hook(keep("D", confidence))
    pull = None
    if proximal:
        pull = Proximal(segmenter, 5.0)
        with torch.no_grad():
            for parameter in segmenter.parameters():
                parameter += 0.01
    record = train_step(nets, protocol.method, PLAN, labelled, unlabelled, proximal=pull)
    return found["S"], found["D"], record


def assert_same(found: Gradients, expected: Gradients) -> None:
    """Together to 1e-4; single tensors less, where a sum over all voxels nearly cancels."""
    pairs = [
        (a, b) for a, b in zip(found, expected, strict=True) if a is not None and b is not None
    ]
    assert len(pairs) == len(expected)
    for one, other in pairs:
        assert float((one - other).norm()) <= 2e-2 * float(other.norm()) + 1e-7
    ones, others = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))
    assert float((ones - others).norm()) <= 1e-4 * float(others.norm())


@pytest.mark.parametrize("parts", [2, 3, 9])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        INFORMED,
        {"method": {"fakes_from_unlabelled": True, "soften_real": 0.1}},
        {"network": {"architecture": "dsresunet"}},
    ],
    ids=["paper", "informed", "hung", "deep"],
)
def test_parts_give_the_whole_batchs_gradients(changes: dict[str, object], parts: int) -> None:
    protocol = merged(PROTOCOL, changes)
    segmenter, confidence, whole = gradients_of(protocol, 1, *batches())
    in_parts = gradients_of(protocol, parts, *batches())
    assert_same(in_parts[0], segmenter)
    assert_same(in_parts[1], confidence)
    record = in_parts[2]
    assert record.losses == pytest.approx(whole.losses, rel=1e-4, abs=1e-6)
    assert record.attention == pytest.approx(whole.attention, rel=1e-4)
    assert record.predicted_by_class == whole.predicted_by_class
    assert record.trusted_by_class == pytest.approx(whole.trusted_by_class, abs=8)


def test_partly_drawn_samples_keep_their_pairs() -> None:
    unannotated = torch.tensor([[False, False, True], [False, True, False], [False, False, False]])
    changes = {"method": {"fakes_from_unlabelled": True}}
    protocol = merged(PROTOCOL, changes)
    whole = gradients_of(protocol, 1, *batches(unannotated))
    in_parts = gradients_of(protocol, 3, *batches(unannotated))
    assert_same(in_parts[0], whole[0])
    assert_same(in_parts[1], whole[1])


def test_the_proximal_pull_counts_once() -> None:
    _, unlabelled = batches()
    whole = gradients_of(PROTOCOL, 1, None, unlabelled, proximal=True)
    assert_same(gradients_of(PROTOCOL, 2, None, unlabelled, proximal=True)[0], whole[0])


def norm_of(gradients: Gradients) -> float:
    return float(torch.cat([g.flatten() for g in gradients if g is not None]).norm())


def test_a_long_gradient_of_s_is_shortened_once_all_parts_are_summed() -> None:
    free, of_d, _ = gradients_of(PROTOCOL, 1, *batches())
    limit = norm_of(free) / 4
    for parts in (1, 3):
        clipped, of_d_too, _ = gradients_of(PROTOCOL, parts, *batches(), clip_norm=limit)
        assert norm_of(clipped) == pytest.approx(limit, rel=1e-4)
        assert_same([g if g is None else 4 * g for g in clipped], free)
        assert_same(of_d_too, of_d)


def test_a_gradient_within_the_norm_is_left_as_it_is() -> None:
    free, _, _ = gradients_of(PROTOCOL, 1, *batches())
    same, _, _ = gradients_of(PROTOCOL, 1, *batches(), clip_norm=2 * norm_of(free))
    assert all(
        a is None or torch.equal(a, b) for a, b in zip(free, same, strict=True) if b is not None
    )


def test_one_kind_of_patch_alone() -> None:
    labelled, _ = batches()
    whole = gradients_of(PROTOCOL, 1, labelled, None)
    in_parts = gradients_of(PROTOCOL, 2, labelled, None)
    assert_same(in_parts[0], whole[0])
    assert_same(in_parts[1], whole[1])


def test_no_part_of_a_broken_step_is_stepped() -> None:
    labelled, unlabelled = batches()
    broken = unlabelled.clone()
    broken[-1, 0, 0, 0, 0] = float("nan")
    segmenter = build_segmenter(PROTOCOL)
    nets = Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.Adam(segmenter.parameters(), 1e-3),
        parts=COUNT,
        confidence=build_confidence(PROTOCOL),
    )
    with pytest.raises(NonFiniteLossError, match="segmenter"):
        train_step(nets, PROTOCOL.method, PLAN, labelled, broken)
    fresh = build_segmenter(PROTOCOL).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in segmenter.state_dict().items())


def test_unequal_batches_are_refused() -> None:
    labelled, unlabelled = batches()
    with pytest.raises(ValueError, match=r"one length, not \[1, 3\]"):
        Patches(labelled=labelled, unlabelled=unlabelled[:1]).parts(2)


def test_shares_sum_to_one() -> None:
    labelled, unlabelled = batches()
    parts = Patches(labelled=labelled, unlabelled=unlabelled).parts(2)
    assert [part.count for part in parts] == [1, 2]
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert torch.equal(torch.cat([part.unlabelled for part in parts]), unlabelled)  # type: ignore[misc]
