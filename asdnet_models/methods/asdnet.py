"""One training step of ASDNet and, by switching terms off, of each of its ablations.

The order is the method (Nie et al., MICCAI 2018, as in adversarial training since Goodfellow
et al. 2014): D learns on detached fakes; D is frozen; S learns through it; D is thawed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from asdnet_models.losses import (
    adversarial_loss,
    confidence_loss,
    correctness_loss,
    merge_undrawn,
    rank_thresholds,
    region_attention_loss,
    total_loss,
    trusted_voxels,
)
from asdnet_models.methods.common import (
    LabelledBatch,
    Networks,
    Prediction,
    Proximal,
    StepRecord,
    UnlabelledBatch,
    frozen,
    predict,
    supervised_loss,
    take_step,
)
from asdnet_models.networks.confidence import ConfidenceCNN, ConfidenceFCN, confidence_map
from protocol.schedule import RoundPlan
from protocol.study import MethodConfig


class ASDNet:
    """The paper's method; its ablations are settings of `MethodConfig`."""

    def __init__(
        self,
        networks: Networks,
        config: MethodConfig,
        plan: RoundPlan,
        *,
        proximal: Proximal | None,
        generator: torch.Generator,
    ) -> None:
        self._networks, self._config, self._plan, self._proximal = networks, config, plan, proximal

    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One step of D (where it is trained) and one of S."""
        return train_step(
            self._networks,
            self._config,
            self._plan,
            labelled,
            unlabelled.image if unlabelled else None,
            proximal=self._proximal,
        )


def train_step(
    networks: Networks,
    method: MethodConfig,
    plan: RoundPlan,
    labelled: LabelledBatch | None,
    unlabelled: Tensor | None,
    *,
    proximal: Proximal | None = None,
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
    image = torch.cat(images)
    prediction = predict(networks.segmenter, image)
    probabilities = prediction.probabilities
    count = labelled.image.shape[0] if labelled else 0
    if labelled is not None and networks.confidence_optimiser is not None:
        with _unseen_weights_kept(networks.confidence, labelled.undrawn):
            if networks.learns_correctness:
                _correctness_step(networks, labelled, probabilities[:count].detach(), record)
            else:
                fakes = slice(None) if method.fakes_from_unlabelled else slice(count)
                _confidence_step(
                    networks, method, labelled, probabilities[fakes].detach(), image[fakes], record
                )
    loss = _segmenter_loss(networks, method, plan, labelled, prediction, image, record)
    if proximal is not None:
        loss = loss + proximal(networks.segmenter)
    take_step(networks.segmenter_optimiser, loss, "segmenter")
    return record


def _confidence_logits(confidence: nn.Module, maps: Tensor, image: Tensor) -> Tensor:
    with torch.autocast(maps.device.type, torch.bfloat16, enabled=maps.is_cuda):
        logits: Tensor = confidence(maps, image)
    return logits.float()


@contextmanager
def _unseen_weights_kept(confidence: nn.Module | None, undrawn: Tensor | None) -> Iterator[None]:
    """D's weights that read organs which no sample of the batch has drawn outlast its step.

    Merged maps are nought there, so these weights get no gradient of the loss.  Weight decay is
    all that is left of it, which Adam scales up to full steps: a site that never draws an organ
    would wear D's sight of it down to nothing.
    """
    if undrawn is None or not isinstance(confidence, ConfidenceFCN | ConfidenceCNN):
        yield
        return
    unseen = torch.nonzero(undrawn.all(0))[:, 0]
    weight = confidence.stem[0].weight
    assert isinstance(weight, Tensor)
    before = weight.detach()[:, unseen].clone()
    yield
    with torch.no_grad():
        weight[:, unseen] = before


def _as_drawn(labelled: LabelledBatch, fakes: Tensor) -> Tensor:
    """Fakes as D may see them beside this batch's reference maps, which lack undrawn organs.

    An organ that no real map of a sample can have would give every fake away.  Fakes of
    unlabelled patches are each merged as the labelled patch that they were drawn with.
    """
    if labelled.undrawn is None:
        return fakes
    pairs = torch.arange(len(fakes), device=fakes.device) % len(labelled.undrawn)
    return merge_undrawn(fakes, labelled.undrawn[pairs])


def _confidence_step(
    networks: Networks,
    method: MethodConfig,
    labelled: LabelledBatch,
    fakes: Tensor,
    image: Tensor,
    record: StepRecord,
) -> None:
    """Eq. 3 and 4.  `fakes`, of `image`, are detached, so no gradient reaches S."""
    assert networks.confidence is not None
    assert networks.confidence_optimiser is not None
    classes = fakes.shape[1]
    fakes = _as_drawn(labelled, fakes)
    real = labelled.target(classes)
    if method.soften_real:
        real = labelled.known(real * (1 - method.soften_real) + method.soften_real / classes)
    logits = _confidence_logits(
        networks.confidence, torch.cat((real, fakes)), torch.cat((labelled.image, image))
    )
    loss = confidence_loss(logits[: len(real)], logits[len(real) :])
    take_step(networks.confidence_optimiser, loss, "confidence")
    record.losses["confidence"] = float(loss.detach())
    with torch.no_grad():
        maps = torch.sigmoid(logits)
        record.losses["confidence_on_real"] = float(maps[: len(real)].mean())
        record.losses["confidence_on_fake"] = float(maps[len(real) :].mean())


def _correctness_step(
    networks: Networks, labelled: LabelledBatch, maps: Tensor, record: StepRecord
) -> None:
    """D learns where S is right on labelled patches.  `maps` are detached.

    In a partly drawn sample right is what cannot be told from right: background, or an organ
    that nobody drew, where the label has neither of the drawn ones.
    """
    assert networks.confidence is not None
    assert networks.confidence_optimiser is not None
    maps = labelled.known(maps)
    label = labelled.label
    if labelled.undrawn is not None:
        label = labelled.target(maps.shape[1]).argmax(1, keepdim=True)
    logits = _confidence_logits(networks.confidence, maps, labelled.image)
    loss = correctness_loss(logits, maps, label)
    take_step(networks.confidence_optimiser, loss, "confidence")
    record.losses["confidence"] = float(loss.detach())
    with torch.no_grad():
        confidence = confidence_map(logits, maps, softmax_prior=networks.softmax_prior)
        right = maps.argmax(1, keepdim=True) == label
        for name, voxels in (("right", right), ("wrong", ~right)):
            if voxels.any():
                record.losses[f"confidence_on_{name}"] = float(confidence[voxels].mean())


def _segmenter_loss(
    networks: Networks,
    method: MethodConfig,
    plan: RoundPlan,
    labelled: LabelledBatch | None,
    prediction: Prediction,
    image: Tensor,
    record: StepRecord,
) -> Tensor:
    """Eq. 7 with this round's ramps; fills the record."""
    probabilities = prediction.probabilities
    nought = probabilities.sum() * 0.0
    count = labelled.image.shape[0] if labelled else 0
    supervised = nought
    if labelled is not None:
        supervised = supervised_loss(method, plan, labelled, prediction, record)
    adversarial = region = nought
    if networks.confidence is not None and plan.uses_unlabelled:
        maps = probabilities
        if labelled is not None and labelled.undrawn is not None:
            maps = torch.cat((labelled.known(probabilities[:count]), probabilities[count:]))
        with frozen(networks.confidence):
            logits = _confidence_logits(networks.confidence, maps, image)
        if plan.adversarial_ramp > 0:
            adversarial = adversarial_loss(logits)
            record.losses["adversarial"] = float(adversarial.detach())
        if plan.region_ramp > 0 and len(probabilities) > count:
            own = probabilities[count:]
            confidence = confidence_map(
                logits[count:].detach(), own.detach(), softmax_prior=networks.softmax_prior
            )
            gamma = _thresholds(method, plan, own, confidence)
            region = region_attention_loss(own, confidence, gamma, method.class_weight)
            record.losses["region"] = float(region.detach())
            _record_coverage(own, confidence, gamma, record)
    loss = total_loss(
        supervised,
        adversarial,
        region,
        method.lambda_adversarial * plan.adversarial_ramp,
        method.lambda_region * plan.region_ramp,
    )
    record.losses["total"] = float(loss.detach())
    return loss


def _thresholds(
    method: MethodConfig, plan: RoundPlan, probabilities: Tensor, confidence: Tensor
) -> float | Tensor:
    """gamma of Eq. 6: the round's, or by rank within each predicted class."""
    if method.gamma_rule != "quantile":
        return method.gamma if plan.gamma is None else plan.gamma
    pseudo_label = probabilities.argmax(1, keepdim=True)
    return rank_thresholds(confidence, pseudo_label, method.trusted_share)


@torch.no_grad()
def _record_coverage(
    probabilities: Tensor, confidence: Tensor, threshold: float | Tensor, record: StepRecord
) -> None:
    """Trusted and predicted voxels by predicted class: the health of semi-supervision."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1).flatten()
    trusted = trusted_voxels(confidence, threshold).flatten()
    record.predicted_by_class = torch.bincount(predicted, minlength=classes).tolist()
    record.trusted_by_class = torch.bincount(predicted[trusted], minlength=classes).tolist()
