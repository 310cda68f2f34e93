"""Bidirectional copy-paste between labelled and unlabelled patches.

Source: Bai et al., CVPR 2023 (BCP).  Ours differ in the gate (M over the teacher's maps), in the
views, and in what a site without labels does: it cuts and mixes among its unlabelled patches.
"""

import torch
from torch import Tensor

from asdnet_models.class_maps import argmax_channels
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.boxes import random_boxes
from asdnet_models.methods.common import predict
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import mixed, note_agreement, weak_view
from asdnet_models.methods.weak_to_strong import WeakToStrong
from asdnet_models.teacher_loss import believed_loss

_BOX = 2 / 3  # of each edge, as published


class CopyPaste(WeakToStrong):
    """A box of each unlabelled patch goes into a labelled one, and the reverse.

    Sites with both kinds of patch do this; the others, and all in the warm-up, learn as with
    `WeakToStrong`.  Eq. 2 weighs whole labelled patches, of which there are none here.
    """

    def _loss(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None, record: StepRecord
    ) -> Tensor:
        if labelled is None or unlabelled is None:
            return super()._loss(labelled, unlabelled, record)
        taught = self._taught(weak_view(unlabelled), record)
        box = random_boxes(unlabelled.image, _BOX, self.generator)
        # In the first half the labelled patch is around the box, in the second in it.
        drawn = torch.cat((~box, box))
        (image,) = mixed(drawn, [_twice(labelled.image)], [_twice(unlabelled.image)])
        prediction = predict(self.networks.segmenter, image)
        loss = self._drawn_loss(labelled, prediction.logits, prediction.weights, drawn, record)
        logits, label = prediction.logits[0], _twice(taught.label)
        note_agreement(logits, label, record, ~drawn)
        learnt = self._believed(logits, label, _twice(taught.belief) * ~drawn).mean()
        record.note("teacher", learnt)
        return loss + self.weight * learnt

    def _drawn_loss(
        self,
        labelled: LabelledBatch,
        heads: tuple[Tensor, ...],
        weights: tuple[float, ...],
        drawn: Tensor,
        record: StepRecord,
    ) -> Tensor:
        """Of the voxels that a reader has drawn; the weighted sum over the heads."""
        twice = labelled.twice()
        label = argmax_channels(twice.target(heads[0].shape[1]))
        known = [twice.known_logits(head) for head in heads]
        with torch.no_grad():
            dice = believed_loss(known[0], label, drawn, self.config.class_weight, entropy=False)
            record.note("dice", dice.mean())
        losses = [self._believed(logits, label, drawn) for logits in known]
        weighted = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
        return torch.stack(weighted).sum(0).mean()

    def _believed(self, logits: Tensor, label: Tensor, belief: Tensor) -> Tensor:
        entropy = self.config.supervised == "dice+ce"
        return believed_loss(logits, label, belief, self.config.class_weight, entropy=entropy)


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat((tensor, tensor))
