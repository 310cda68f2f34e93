"""Bidirectional copy-paste between labelled and unlabelled patches.

Source: Bai et al., CVPR 2023 (BCP).  Ours differ in the gate (M over the teacher's maps), where
they keep the largest component of each pseudo-label; in the views; in the start (a ramp, where they
train first on boxes among labelled patches); in that one pair of patches goes both ways; and in
what a site without labels does: it cuts and mixes among its unlabelled patches.
"""

import torch
from torch import Tensor

from asdnet_models.class_maps import argmax_channels
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.boxes import EDGE, random_boxes
from asdnet_models.methods.common import Prediction, predict
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import learnt_loss, note_agreement, weak_view, weight_of
from asdnet_models.methods.weak_to_strong import WeakToStrong
from asdnet_models.teacher_loss import dice_and_loss


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
        box = random_boxes(unlabelled.image, EDGE, self.generator)
        # In the first half the labelled patch is around the box, in the second in it.
        drawn = torch.cat((~box, box))
        readers = labelled.twice()
        image = torch.where(drawn, readers.image, _twice(unlabelled.image))
        prediction = predict(self.networks.segmenter, image)
        loss = self._drawn_loss(readers, prediction, drawn, record)
        logits, label = prediction.logits[0], _twice(taught.label)
        note_agreement(logits, label, record, ~drawn)
        learnt = learnt_loss(self.config, logits, label, _twice(taught.belief) * ~drawn)
        record.note("teacher", learnt)
        return loss + weight_of(self.config, self.plan) * learnt

    def _drawn_loss(
        self,
        readers: LabelledBatch,
        prediction: Prediction,
        drawn: Tensor,
        record: StepRecord,
    ) -> Tensor:
        """Of the voxels that a reader has drawn; the weighted sum over the heads."""
        label = argmax_channels(readers.target(prediction.logits[0].shape[1]))
        entropy = self.config.supervised == "dice+ce"
        both = [
            dice_and_loss(
                readers.known_logits(head), label, drawn, self.config.class_weight, entropy=entropy
            )
            for head in prediction.logits
        ]
        record.note("dice", both[0][0].mean())
        pairs = zip(prediction.weights, both, strict=True)
        return torch.stack([weight * loss for weight, (_, loss) in pairs]).sum(0).mean()


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat((tensor, tensor))
