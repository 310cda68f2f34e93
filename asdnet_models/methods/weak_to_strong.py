"""Weak-to-strong consistency with CutMix between unlabelled patches.

Sources: FixMatch (Sohn et al., NeurIPS 2020), UniMatch (Yang et al., CVPR 2023), CutMix (Yun et
al., ICCV 2019).  Ours differ in the teacher, a moving average, and in the gate.
"""

import torch
from torch import Tensor

from asdnet_models.methods.batches import UnlabelledBatch
from asdnet_models.methods.boxes import EDGE, random_boxes
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import Taught, TeacherMethod, weak_view


class WeakToStrong(TeacherMethod):
    """The teacher labels weak views; S sees strong views with boxes of one another."""

    def _lesson(self, unlabelled: UnlabelledBatch, record: StepRecord) -> tuple[Tensor, Taught]:
        # A batch of one has no other patch, and is itself again.
        taught = self._taught(weak_view(unlabelled), record)
        box = random_boxes(unlabelled.image, EDGE, self.generator)
        those = (unlabelled.image, taught.label, taught.belief)
        image, label, belief = (torch.where(box, each.roll(1, 0), each) for each in those)
        return image, Taught(label=label, belief=belief)
