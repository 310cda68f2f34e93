"""One training step of ASDNet and, by switching terms off, of each of its ablations.

The order is the method (Nie et al., MICCAI 2018, as in adversarial training since Goodfellow
et al. 2014): D learns on detached fakes; D is frozen; S learns through it; D is thawed.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from asdnet_models.class_maps import argmax_channels
from asdnet_models.config import MethodConfig
from asdnet_models.losses import (
    adversarial_loss,
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
from asdnet_models.methods.confidence_step import (
    confidence_logits,
    confidence_step_loss,
    trust_threshold,
    unseen_weights_kept,
)
from asdnet_models.methods.record import StepRecord
from asdnet_models.networks.confidence import confidence_map
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
            yield part.share * confidence_step_loss(networks, method, part, maps, measured)
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
        with unseen_weights_kept(networks.confidence, labelled.unannotated):
            take_step(networks.confidence_optimiser, confidence_losses(), "confidence")
    take_step(
        networks.segmenter_optimiser,
        segmenter_losses(),
        "segmenter",
        clip_norm=networks.clip_norm,
    )
    return record


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
            logits = confidence_logits(networks.confidence, maps, part.image)
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
    """Eq. 6 of unlabelled patches; trusted and predicted voxels are noted."""
    predicted = argmax_channels(own)
    gamma = trust_threshold(method, plan, confidence, predicted)
    loss = region_attention_loss(own, confidence, gamma, method.class_weight, predicted=predicted)
    record.note("region", loss)
    record.note_trusted(predicted, trusted_voxels(confidence, gamma), own.shape[1])
    return loss
