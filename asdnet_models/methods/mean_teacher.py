"""Mean teacher: S's probabilities are pulled to those of its moving average, everywhere.

Source: Tarvainen & Valpola, NeurIPS 2017.  A control: nothing says where the teacher is wrong.
"""

import torch
from torch import Tensor

from asdnet_models.class_maps import argmax_channels
from asdnet_models.methods.batches import UnlabelledBatch
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import Taught, TeacherMethod, note_agreement, weak_view


class MeanTeacher(TeacherMethod):
    """Squared distance of S's probabilities on strong views from the teacher's on weak ones."""

    def _lesson(self, unlabelled: UnlabelledBatch, record: StepRecord) -> tuple[Tensor, Taught]:
        image = weak_view(unlabelled)
        maps = self.teacher.maps(image)
        label = argmax_channels(maps)
        believed = self._believed(image, maps)
        record.note_trusted(label, believed, maps.shape[1])
        return unlabelled.image, Taught(label=label, belief=believed.float(), maps=maps)

    def _believed(self, image: Tensor, maps: Tensor) -> Tensor:
        """Where the teacher's maps of these views count, (B, 1, X, Y, Z), boolean."""
        return torch.ones_like(image, dtype=torch.bool)

    def _learn(self, logits: Tensor, taught: Taught, record: StepRecord) -> Tensor:
        assert taught.maps is not None
        note_agreement(logits, taught.label, record)
        squared = (torch.softmax(logits, 1) - taught.maps).square().mean(1, keepdim=True)
        return (squared * taught.belief).sum() / taught.belief.sum().clamp_min(1)
