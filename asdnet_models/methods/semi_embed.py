"""semiEmbedFCN: voxels of one class have like features, in scans with and without labels.

Source: Baur et al., MICCAI 2017 (auxiliary manifold embedding after Weston et al. 2012).  Which
voxels of an unlabelled patch are of one class is said by a teacher, the moving average of S
(Tarvainen & Valpola, NeurIPS 2017), which is made anew each round and never sent.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asdnet_models.class_maps import argmax_channels
from asdnet_models.losses import embedding_loss
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import (
    Method,
    Prediction,
    supervised_loss,
)
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import Teacher
from asdnet_models.networks.parts import EncoderDecoder

_TEACHER_DECAY = 0.99
# With four classes 256 voxels, 32,640 pairs, a step.
_VOXELS_PER_CLASS = 64


@dataclass(eq=False)
class SemiEmbed(Method):
    """L = L_AttDice + ramp * lambda_embedding * L_embedding."""

    def __post_init__(self) -> None:
        rises = self.plan.embedding_ramp > 0
        self._teacher = Teacher.of(self.networks.segmenter, _TEACHER_DECAY) if rises else None

    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One step of S, then one of its teacher.

        Raises:
            NonFiniteLossError: Before the optimiser has stepped on a non-finite loss.
            ValueError: Without labelled patches: labels alone tie features to the head.
        """
        if labelled is None:
            raise ValueError("a step needs labelled patches; a site without labels rests")
        guide = unlabelled if self._teacher is not None else None
        record = StepRecord()
        images = torch.cat([labelled.image, *([guide.image] if guide else [])])
        features, own = _features_and_prediction(
            self.networks.segmenter, images, len(labelled.image)
        )
        classes = own.logits[0].shape[1]
        loss = supervised_loss(self.config, self.plan, labelled, own, record)
        if self._teacher is not None:
            label = _known_classes(labelled, classes)
            if guide is not None:
                label = torch.cat((label, self._teacher.label(guide.image)))
            embedding = self._embedding(features, label, classes)
            record.note("embedding", embedding)
            loss = loss + self.plan.embedding_ramp * self.config.lambda_embedding * embedding
        self._step_segmenter(loss, record)
        if self._teacher is not None:
            self._teacher.follow(self.networks.segmenter)
        return record

    def _embedding(self, features: Tensor, label: Tensor, classes: int) -> Tensor:
        index = sample_voxels(label, classes, _VOXELS_PER_CLASS, self.generator)
        rows = features.movedim(1, -1).flatten(0, -2)[index]
        return embedding_loss(rows, label.flatten()[index], self.config.embedding_margin)


def sample_voxels(label: Tensor, classes: int, count: int, generator: torch.Generator) -> Tensor:
    """Where to take features: up to `count` voxels of each class, drawn without replacement.

    Args:
        label: (B, 1, X, Y, Z), integers under `classes`.
        classes: Background included; an absent one gives nothing.
        count: Voxels a class; drawn evenly over the voxels, background would be nearly all.
        generator: On the CPU, so that a GPU draws the same.

    Returns:
        Indices into the flattened label, int64, on the label's device.
    """
    flat = label.flatten()
    drawn = []
    for value in range(classes):
        places = torch.nonzero(flat == value)[:, 0]
        order = torch.randperm(len(places), generator=generator)[:count]
        drawn.append(places[order.to(places.device)])
    return torch.cat(drawn)


def _known_classes(labelled: LabelledBatch, classes: int) -> Tensor:
    """Each labelled voxel's class, (B, 1, X, Y, Z), int64; -1, which is never drawn, if unknown.

    In a partly annotated sample a voxel of no annotated organ may be of an unannotated one: its
    features must not be pulled to those of background.
    """
    if labelled.unannotated is None:
        return labelled.label.long()
    label = argmax_channels(labelled.target(classes))
    partly = labelled.unannotated.any(1)[:, None, None, None, None]
    return torch.where(partly & (label == 0), -1, label)


def _features_and_prediction(
    segmenter: Any, images: Tensor, count: int
) -> tuple[Tensor, Prediction]:
    """Features of all images and all heads of the first `count`, in one forward pass.

    `segmenter` is a network with `features` in asdnet_models/catalogue.py.
    """
    weights: tuple[float, ...] = (1.0,)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        if isinstance(segmenter, EncoderDecoder):
            decoded = segmenter.decoded(images)
            features, weights = decoded[0], segmenter.head_weights
            heads = segmenter.read([level[:count] for level in decoded])
        else:
            features = segmenter.features(images)
            heads = (segmenter.head(features[:count]),)
    own = Prediction(logits=tuple(head.float() for head in heads), weights=weights)
    return features.float(), own
