"""Region attention over a teacher: Eq. 6 with the teacher's labels in the place of S's own.

In Eq. 6 S learns what it believes already; here the moving average of S labels a weak view, M
says where that is to be trusted, and S learns it on a strong view of the same patch.
"""

from torch import Tensor

from asdnet_models.methods.batches import UnlabelledBatch
from asdnet_models.methods.record import StepRecord
from asdnet_models.methods.teacher import Taught, TeacherMethod, weak_view


class RegionTeacher(TeacherMethod):
    """Weak to strong, gated by M (`gate` has other gates)."""

    def _lesson(self, unlabelled: UnlabelledBatch, record: StepRecord) -> tuple[Tensor, Taught]:
        return unlabelled.image, self._taught(weak_view(unlabelled), record)
