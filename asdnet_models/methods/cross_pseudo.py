"""Cross pseudo-supervision: two networks learn from one another's labels.

Source: Chen et al., CVPR 2021.  A control.  The second network has S's form and another start; it
stays at its site from round to round and is never averaged, so that in a federation only S is
the sites' common work.
"""

import torch
from torch import Tensor

from asdnet_models.class_maps import argmax_channels
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import Method, Prediction, predict, supervised_loss, take_step
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import learnt_loss, note_agreement, weight_of


class CrossPseudo(Method):
    """L = L_AttDice + ramp * lambda_region * L(the other's label), for each of the two networks."""

    def step(
        self, labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None
    ) -> StepRecord:
        """One step of S and one of the second network.

        Raises:
            NonFiniteLossError: Before the optimiser of that network has stepped.
            ValueError: If there is neither a labelled patch nor, after the warm-up, another one.
        """
        second, optimiser = self.networks.teacher, self.networks.teacher_optimiser
        assert second is not None and optimiser is not None
        other = unlabelled if self.plan.region_ramp > 0 else None
        images = [batch.image for batch in (labelled, other) if batch is not None]
        if not images:
            raise ValueError("a step needs labelled patches, or unlabelled ones after the warm-up")
        image = torch.cat(images)
        record, beside = StepRecord(), StepRecord()
        own, seconds = predict(self.networks.segmenter, image), predict(second, image)
        # Both losses before either network moves.
        loss = self._loss(labelled, own, seconds, record)
        of_second = self._loss(labelled, seconds, own, beside)
        self._step_segmenter(loss, record)
        take_step(optimiser, of_second, "second network", clip_norm=self.networks.clip_norm)
        return record

    def _loss(
        self,
        labelled: LabelledBatch | None,
        own: Prediction,
        others: Prediction,
        record: StepRecord,
    ) -> Tensor:
        count = 0 if labelled is None else len(labelled.image)
        logits = own.logits[0]
        loss = logits.sum() * 0.0
        if labelled is not None:
            loss = loss + supervised_loss(self.config, self.plan, labelled, own, record)
        if len(logits) > count:
            label = argmax_channels(others.probabilities[count:].detach())
            everywhere = torch.ones_like(label, dtype=torch.bool)
            record.note_trusted(label, everywhere, logits.shape[1])
            note_agreement(logits[count:], label, record)
            learnt = learnt_loss(self.config, logits[count:], label, everywhere)
            record.note("teacher", learnt)
            loss = loss + weight_of(self.config, self.plan) * learnt
        return loss
