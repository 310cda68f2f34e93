"""One training step of ASDNet and, by switching terms off, of each of its ablations.

The order is the method (Nie et al., MICCAI 2018, as in adversarial training since Goodfellow
et al. 2014): D learns on detached fakes; D is frozen; S learns through it; D is thawed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from asdnet_models.class_maps import argmax_channels, merge_unannotated
from asdnet_models.config import MethodConfig
from asdnet_models.losses import (
    adversarial_loss,
    confidence_loss,
    correctness_loss,
    rank_thresholds,
    region_attention_loss,
    total_loss,
    trusted_voxels,
)
from asdnet_models.methods.batches import LabelledBatch, Patches, UnlabelledBatch
from asdnet_models.methods.common import (
    Method,
    Networks,
    Prediction,
    Proximal,
    frozen,
    predict,
    supervised_loss,
    take_step,
)
from asdnet_models.methods.record import StepRecord
from asdnet_models.networks.confidence import ConfidenceNetwork, confidence_map
from asdnet_models.schedule import LossSchedule


class ASDNet(Method):
    """The paper's method; its ablations are settings of `MethodConfig`."""

    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One step of D (where it is trained) and one of S."""
        return train_step(
            self.networks,
            self.config,
            self.plan,
            labelled,
            unlabelled.image if unlabelled else None,
            proximal=self.proximal,
        )


def train_step(
    networks: Networks,
    method: MethodConfig,
    plan: LossSchedule,
    labelled: LabelledBatch | None,
    unlabelled: Tensor | None,
    *,
    proximal: Proximal | None = None,
) -> StepRecord:
    """One optimiser step of D (where it is trained) and one of S.

    In `networks.parts` parts the gradients are the whole batch's to rounding: every term is a mean
    over samples.  `rank_thresholds`, which are over the whole batch, and batch norm are not.

    Args:
        networks: S, D and their optimisers, on the batches' device.
        method: The switches of Eq. 1 to 7.
        plan: This round's ramps and running attention mean.
        labelled: Patches with labels, or None at a site that has none.
        unlabelled: Image patches (B, 1, X, Y, Z), or None.
        proximal: Pull of S to the global weights, for label-free sites.

    Raises:
        NonFiniteLossError: Before any optimiser has stepped on a non-finite loss.
        ValueError: If there is neither a labelled nor an unlabelled batch, or a step in parts has
            not as many of both.
    """
    batch = Patches(labelled=labelled, unlabelled=unlabelled)
    parts = batch.parts(networks.parts)
    # One run of S serves both steps.  In parts S runs once more for D's step, without a graph:
    # D must have learnt from all parts before S learns through it from any.
    whole = predict(networks.segmenter, batch.image) if len(parts) == 1 else None
    record = StepRecord()

    def confidence_losses() -> Iterator[Tensor]:
        for part in parts:
            with torch.no_grad():
                maps = (whole or predict(networks.segmenter, part.image)).probabilities.detach()
            measured = StepRecord()
            yield part.share * _confidence_loss(networks, method, part, maps, measured)
            record.take_in(measured, part.share)

    def segmenter_losses() -> Iterator[Tensor]:
        for part in parts:
            prediction = whole or predict(networks.segmenter, part.image)
            measured = StepRecord()
            loss = part.share * _segmenter_loss(networks, method, plan, part, prediction, measured)
            if proximal is not None and part is parts[0]:
                loss = loss + proximal(networks.segmenter)
            record.take_in(measured, part.share)
            yield loss

    if labelled is not None and networks.confidence_optimiser is not None:
        with _unseen_weights_kept(networks.confidence, labelled.unannotated):
            take_step(networks.confidence_optimiser, confidence_losses(), "confidence")
    take_step(
        networks.segmenter_optimiser,
        segmenter_losses(),
        "segmenter",
        clip_norm=networks.clip_norm,
    )
    return record


def _confidence_logits(confidence: nn.Module, maps: Tensor, image: Tensor) -> Tensor:
    with torch.autocast(maps.device.type, torch.bfloat16, enabled=maps.is_cuda):
        logits: Tensor = confidence(maps, image)
    return logits.float()


@contextmanager
def _unseen_weights_kept(
    confidence: nn.Module | None, unannotated: Tensor | None
) -> Iterator[None]:
    """D's weights that read organs which no sample of the batch has annotated outlast its step.

    Merged maps are zero there, so these weights get no gradient of the loss.  Weight decay is
    all that is left of it, which Adam scales up to full steps: a site that never draws an organ
    would wear D's sight of it down to nothing.
    """
    if unannotated is None or not isinstance(confidence, ConfidenceNetwork):
        yield
        return
    unseen = torch.nonzero(unannotated.all(0))[:, 0]
    weight = confidence.stem[0].weight
    assert isinstance(weight, Tensor)
    before = weight.detach()[:, unseen].clone()
    yield
    with torch.no_grad():
        weight[:, unseen] = before


def _as_annotated(labelled: LabelledBatch, fakes: Tensor) -> Tensor:
    """Fakes as D may see them next to this batch's reference maps, which lack unannotated organs.

    An organ that no real map of a sample can have would give every fake away.  Fakes of
    unlabelled patches are each merged as the labelled patch that they were drawn with.
    """
    if labelled.unannotated is None:
        return fakes
    pairs = torch.arange(len(fakes), device=fakes.device) % len(labelled.unannotated)
    return merge_unannotated(fakes, labelled.unannotated[pairs])


def _confidence_loss(
    networks: Networks, method: MethodConfig, part: Patches, maps: Tensor, record: StepRecord
) -> Tensor:
    """D's loss on labelled patches.  `maps` are S's of all patches, detached."""
    assert part.labelled is not None
    if networks.learns_correctness:
        return _correctness(networks, part.labelled, maps[: part.count], record)
    fakes = slice(None) if method.fakes_from_unlabelled else slice(part.count)
    return _adversary(networks, method, part.labelled, maps[fakes], part.image[fakes], record)


def _adversary(
    networks: Networks,
    method: MethodConfig,
    labelled: LabelledBatch,
    fakes: Tensor,
    image: Tensor,
    record: StepRecord,
) -> Tensor:
    """Eq. 3 and 4.  `fakes` are of `image`."""
    assert networks.confidence is not None
    classes = fakes.shape[1]
    fakes = _as_annotated(labelled, fakes)
    real = labelled.target(classes)
    if method.soften_real:
        real = labelled.known(real * (1 - method.soften_real) + method.soften_real / classes)
    logits = _confidence_logits(
        networks.confidence, torch.cat((real, fakes)), torch.cat((labelled.image, image))
    )
    loss = confidence_loss(logits[: len(real)], logits[len(real) :])
    record.note("confidence", loss)
    with torch.no_grad():
        confidence = torch.sigmoid(logits)
        record.note("confidence_on_real", confidence[: len(real)].mean())
        record.note("confidence_on_fake", confidence[len(real) :].mean())
    return loss


def _correctness(
    networks: Networks, labelled: LabelledBatch, maps: Tensor, record: StepRecord
) -> Tensor:
    """D learns where S is right on labelled patches.

    In a partly annotated sample a voxel is right also where it may be: background or an organ
    that is not annotated, where the label has none of the annotated ones.
    """
    assert networks.confidence is not None
    maps = labelled.known(maps)
    label = labelled.label
    if labelled.unannotated is not None:
        label = argmax_channels(labelled.target(maps.shape[1]))
    predicted = argmax_channels(maps)
    logits = _confidence_logits(networks.confidence, maps, labelled.image)
    loss = correctness_loss(logits, maps, label, predicted=predicted)
    record.note("confidence", loss)
    with torch.no_grad():
        confidence = confidence_map(logits, maps, softmax_prior=networks.softmax_prior)
        right = predicted == label
        for name, voxels in (("right", right), ("wrong", ~right)):
            # Not picked out by index, for whose length a GPU would be waited for.
            mean = (confidence * voxels).sum() / voxels.sum().clamp_min(1)
            record.note(f"confidence_on_{name}", mean, voxels.sum())
    return loss


def _segmenter_loss(
    networks: Networks,
    method: MethodConfig,
    plan: LossSchedule,
    part: Patches,
    prediction: Prediction,
    record: StepRecord,
) -> Tensor:
    """Eq. 7 with this round's ramps; fills the record."""
    probabilities = prediction.probabilities
    zero = probabilities.sum() * 0.0
    labelled, count = part.labelled, part.count
    supervised = zero
    if labelled is not None:
        supervised = supervised_loss(method, plan, labelled, prediction, record)
    adversarial = region = zero
    if networks.confidence is not None and plan.uses_unlabelled:
        maps = probabilities
        if labelled is not None and labelled.unannotated is not None:
            maps = torch.cat((labelled.known(probabilities[:count]), probabilities[count:]))
        with frozen(networks.confidence):
            logits = _confidence_logits(networks.confidence, maps, part.image)
        if plan.adversarial_ramp > 0:
            adversarial = adversarial_loss(logits)
            record.note("adversarial", adversarial)
        if plan.region_ramp > 0 and len(probabilities) > count:
            own = probabilities[count:]
            confidence = confidence_map(
                logits[count:].detach(), own.detach(), softmax_prior=networks.softmax_prior
            )
            region = _region_loss(method, plan, own, confidence, record)
    loss = total_loss(
        supervised,
        adversarial,
        region,
        method.lambda_adversarial * plan.adversarial_ramp,
        method.lambda_region * plan.region_ramp,
    )
    record.note("total", loss)
    return loss


def _region_loss(
    method: MethodConfig, plan: LossSchedule, own: Tensor, confidence: Tensor, record: StepRecord
) -> Tensor:
    """Eq. 6 of unlabelled patches; trusted and predicted voxels are noted.

    gamma is the round's, or by rank within each predicted class.
    """
    predicted = argmax_channels(own)
    gamma: float | Tensor = method.gamma if plan.gamma is None else plan.gamma
    if method.gamma_rule == "quantile":
        gamma = rank_thresholds(confidence, predicted, method.trusted_share)
    loss = region_attention_loss(own, confidence, gamma, method.class_weight, predicted=predicted)
    record.note("region", loss)
    flat = predicted.flatten(1)
    none = torch.zeros(own.shape[:2], dtype=torch.int64, device=own.device)
    trusted = trusted_voxels(confidence, gamma).flatten(1).long()
    record.trusted.append(none.scatter_add(1, flat, trusted))
    record.predicted.append(none.scatter_add(1, flat, torch.ones_like(flat)))
    return loss
