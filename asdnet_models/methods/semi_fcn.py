"""semiFCN: train, let S label the unlabelled scans, train on both, and so on.

Source: Bai et al., MICCAI 2017.  The labels are made by the site at rounds that the server
announces (client/training/pseudo_labels.py); here S only learns from them.
"""

import torch
from torch import Tensor

from asdnet_models.class_maps import one_hot_maps
from asdnet_models.losses import dice_loss
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import (
    Method,
    predict,
    supervised_loss,
)
from asdnet_models.methods.record import StepRecord


class SemiFCN(Method):
    """L = L_AttDice + lambda_region * generalised Dice against pseudo-labels, once they exist."""

    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One step of S.

        Raises:
            NonFiniteLossError: Before the optimiser has stepped on a non-finite loss.
            ValueError: If there is nothing to learn from, or a pseudo-label is missing.
        """
        # Before the first labelling unlabelled patches rest, whatever comes with them.
        pseudo_labelled = unlabelled if self.plan.pseudo_labels > 0 else None
        images = [batch.image for batch in (labelled, pseudo_labelled) if batch is not None]
        if not images:
            raise ValueError("a step needs labelled patches, or unlabelled ones once labelled anew")
        record = StepRecord()
        prediction = predict(self.networks.segmenter, torch.cat(images))
        probabilities = prediction.probabilities
        count = len(labelled.image) if labelled else 0
        loss = probabilities.sum() * 0.0
        if labelled is not None:
            loss = loss + supervised_loss(self.config, self.plan, labelled, prediction, record)
        if pseudo_labelled is not None:
            pseudo = self._pseudo_loss(probabilities[count:], pseudo_labelled.pseudo_label)
            record.note("pseudo", pseudo)
            loss = loss + self.config.lambda_region * pseudo
        self._step_segmenter(loss, record)
        return record

    def _pseudo_loss(self, probabilities: Tensor, label: Tensor | None) -> Tensor:
        """Eq. 1 with the pseudo-labels for reference; mean over samples."""
        if label is None:
            raise ValueError(
                f"labelling {self.plan.pseudo_labels}: unlabelled patches came without "
                "pseudo-labels; cut both from the same place"
            )
        target = one_hot_maps(label, probabilities.shape[1])
        return dice_loss(probabilities, target, self.config.class_weight).mean()
