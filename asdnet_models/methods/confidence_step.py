"""What D learns at a step: readers' maps from S's (Eq. 3 and 4), or where S is right."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from asdnet_models.class_maps import argmax_channels, merge_unannotated
from asdnet_models.config import MethodConfig
from asdnet_models.losses import confidence_loss, correctness_loss, rank_thresholds
from asdnet_models.methods.batches import LabelledBatch, Patches
from asdnet_models.methods.common import Networks
from asdnet_models.methods.record import StepRecord
from asdnet_models.networks.confidence import ConfidenceNetwork, confidence_map
from asdnet_models.schedule import LossSchedule


def confidence_logits(confidence: nn.Module, maps: Tensor, image: Tensor) -> Tensor:
    """D's of maps (B, C, X, Y, Z) and their patches, (B, 1, X, Y, Z), float32; bf16 on a GPU."""
    with torch.autocast(maps.device.type, torch.bfloat16, enabled=maps.is_cuda):
        logits: Tensor = confidence(maps, image)
    return logits.float()


def trust_threshold(
    method: MethodConfig, plan: LossSchedule, trust: Tensor, label: Tensor
) -> float | Tensor:
    """gamma of Eq. 6: the round's, or by rank within each class of the label."""
    if method.gamma_rule == "quantile":
        return rank_thresholds(trust, label, method.trusted_share)
    return method.gamma if plan.gamma is None else plan.gamma


@contextmanager
def unseen_weights_kept(confidence: nn.Module | None, unannotated: Tensor | None) -> Iterator[None]:
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


def confidence_step_loss(
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
    logits = confidence_logits(
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
    logits = confidence_logits(networks.confidence, maps, labelled.image)
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
