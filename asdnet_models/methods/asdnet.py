"""One training step of ASDNet and, by switching terms off, of each of its ablations.

The order is the method (Nie et al., MICCAI 2018, as in adversarial training since Goodfellow
et al. 2014): D learns on detached fakes; D is frozen; S learns through it; D is thawed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from asdnet_models.losses import (
    adversarial_loss,
    confidence_loss,
    dice_loss,
    one_hot_maps,
    region_attention_loss,
    sample_attention,
    total_loss,
    trusted_voxels,
)
from protocol.schedule import RoundPlan
from protocol.study import MethodConfig


class NonFiniteLossError(ArithmeticError):
    """A loss became NaN or infinite; the weights of this round must not be sent."""


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """Patches with their reference: image (B, 1, X, Y, Z) float, label alike, integer."""

    image: Tensor
    label: Tensor


@dataclass(kw_only=True)
class StepRecord:
    """What one step measured.  A key is absent where its term did not run."""

    losses: dict[str, float] = field(default_factory=dict)
    attention: list[float] = field(default_factory=list)
    trusted_by_class: list[int] = field(default_factory=list)
    predicted_by_class: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class Networks:
    """S and D with their optimisers; no optimiser means that the network is not trained here."""

    segmenter: nn.Module
    segmenter_optimiser: torch.optim.Optimizer
    confidence: nn.Module | None = None
    confidence_optimiser: torch.optim.Optimizer | None = None


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Gradients flow through the network, none into it.  Restores what was trainable before."""
    before = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, trainable in zip(network.parameters(), before, strict=True):
            parameter.requires_grad_(trainable)


def train_step(
    networks: Networks,
    method: MethodConfig,
    plan: RoundPlan,
    labelled: LabelledBatch | None,
    unlabelled: Tensor | None,
    *,
    proximal: "Proximal | None" = None,
) -> StepRecord:
    """One optimiser step of D (where it is trained) and one of S.

    Args:
        networks: S, D and their optimisers, on the batches' device.
        method: The switches of Eq. 1 to 7.
        plan: This round's ramps and running attention mean.
        labelled: Patches with labels, or None at a site that has none.
        unlabelled: Image patches (B, 1, X, Y, Z), or None.
        proximal: Pull of S to the global weights, for label-free sites.

    Raises:
        NonFiniteLossError: Before any optimiser has stepped on a non-finite loss.
        ValueError: If there is neither a labelled nor an unlabelled batch.
    """
    images = [
        batch for batch in (labelled.image if labelled else None, unlabelled) if batch is not None
    ]
    if not images:
        raise ValueError("a step needs labelled or unlabelled patches; this site sampled neither")
    record = StepRecord()
    probabilities = _softmax(networks.segmenter, torch.cat(images))
    count = labelled.image.shape[0] if labelled else 0
    if labelled is not None and networks.confidence_optimiser is not None:
        fakes = probabilities if method.fakes_from_unlabelled else probabilities[:count]
        _confidence_step(networks, method, labelled, fakes.detach(), record)
    loss = _segmenter_loss(networks, method, plan, labelled, probabilities, record)
    if proximal is not None:
        loss = loss + proximal(networks.segmenter)
    _step(networks.segmenter_optimiser, loss, "segmenter")
    return record


def _softmax(segmenter: nn.Module, image: Tensor) -> Tensor:
    with torch.autocast(image.device.type, torch.bfloat16, enabled=image.is_cuda):
        logits = segmenter(image)
    return torch.softmax(logits.float(), dim=1)


def _confidence_logits(confidence: nn.Module, maps: Tensor) -> Tensor:
    with torch.autocast(maps.device.type, torch.bfloat16, enabled=maps.is_cuda):
        logits: Tensor = confidence(maps)
    return logits.float()


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, name: str) -> None:
    if not torch.isfinite(loss):
        raise NonFiniteLossError(f"{name} loss is {float(loss.detach())}; lower its learning rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _confidence_step(
    networks: Networks,
    method: MethodConfig,
    labelled: LabelledBatch,
    fakes: Tensor,
    record: StepRecord,
) -> None:
    """Eq. 3 and 4.  `fakes` are detached, so no gradient reaches S."""
    assert networks.confidence is not None
    assert networks.confidence_optimiser is not None
    classes = fakes.shape[1]
    real = one_hot_maps(labelled.label, classes)
    if method.soften_real:
        real = real * (1 - method.soften_real) + method.soften_real / classes
    logits = _confidence_logits(networks.confidence, torch.cat((real, fakes)))
    loss = confidence_loss(logits[: len(real)], logits[len(real) :])
    _step(networks.confidence_optimiser, loss, "confidence")
    record.losses["confidence"] = float(loss.detach())
    with torch.no_grad():
        maps = torch.sigmoid(logits)
        record.losses["confidence_on_real"] = float(maps[: len(real)].mean())
        record.losses["confidence_on_fake"] = float(maps[len(real) :].mean())


def _segmenter_loss(
    networks: Networks,
    method: MethodConfig,
    plan: RoundPlan,
    labelled: LabelledBatch | None,
    probabilities: Tensor,
    record: StepRecord,
) -> Tensor:
    """Eq. 7 with this round's ramps; fills the record."""
    nought = probabilities.sum() * 0.0
    count = labelled.image.shape[0] if labelled else 0
    supervised = nought
    if labelled is not None:
        supervised = _supervised_loss(method, plan, labelled, probabilities[:count], record)
    adversarial = region = nought
    if networks.confidence is not None and plan.uses_unlabelled:
        with frozen(networks.confidence):
            logits = _confidence_logits(networks.confidence, probabilities)
        if plan.adversarial_ramp > 0:
            adversarial = adversarial_loss(logits)
            record.losses["adversarial"] = float(adversarial.detach())
        if plan.region_ramp > 0 and len(probabilities) > count:
            confidence = torch.sigmoid(logits[count:]).detach()
            own = probabilities[count:]
            region = region_attention_loss(own, confidence, method.gamma, method.class_weight)
            record.losses["region"] = float(region.detach())
            _record_coverage(own, confidence, method.gamma, record)
    loss = total_loss(
        supervised,
        adversarial,
        region,
        method.lambda_adversarial * plan.adversarial_ramp,
        method.lambda_region * plan.region_ramp,
    )
    record.losses["total"] = float(loss.detach())
    return loss


def _supervised_loss(
    method: MethodConfig,
    plan: RoundPlan,
    labelled: LabelledBatch,
    probabilities: Tensor,
    record: StepRecord,
) -> Tensor:
    """Eq. 1, weighted by Eq. 2 unless attention is off; mean over samples."""
    target = one_hot_maps(labelled.label, probabilities.shape[1])
    losses = dice_loss(probabilities, target, method.class_weight)
    record.losses["dice"] = float(losses.detach().mean())
    if method.sample_attention == "off":
        return losses.mean()
    weight = sample_attention(probabilities, target, method.beta)
    record.attention = weight.tolist()
    if method.sample_attention == "normalised":
        weight = weight / plan.attention_scale
    return (weight * losses).mean()


@torch.no_grad()
def _record_coverage(
    probabilities: Tensor, confidence: Tensor, threshold: float, record: StepRecord
) -> None:
    """Trusted and predicted voxels by predicted class: the health of semi-supervision."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1).flatten()
    trusted = trusted_voxels(confidence, threshold).flatten()
    record.predicted_by_class = torch.bincount(predicted, minlength=classes).tolist()
    record.trusted_by_class = torch.bincount(predicted[trusted], minlength=classes).tolist()


class Proximal:
    """mu / 2 ||theta - theta_global||^2 over the weights that S had at the round's start.

    Source: Li et al., MLSys 2020 (FedProx).
    """

    def __init__(self, segmenter: nn.Module, mu: float) -> None:
        self._anchor = [parameter.detach().clone() for parameter in segmenter.parameters()]
        self._mu = mu

    def __call__(self, segmenter: nn.Module) -> Tensor:
        """The penalty of the present weights; scalar."""
        distance = sum(
            ((parameter - anchor) ** 2).sum()
            for parameter, anchor in zip(segmenter.parameters(), self._anchor, strict=True)
        )
        return self._mu / 2 * torch.as_tensor(distance)
