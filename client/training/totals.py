"""What the steps of a round measured, summed for the report that leaves the site."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from asdnet_models.methods.record import StepRecord
from asdnet_models.sums import SumCount
from client.data.dataset import SiteData
from protocol.config.study import StudyProtocol
from protocol.wire.reports import TrainReport
from protocol.wire.small_groups import withhold_few


class Totals:
    """Sums over the steps of a round; here their numbers are read, a GPU waited for once."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._attention = SumCount()
        self._trusted: list[int] = []
        self._predicted: list[int] = []
        self._voxels: list[list[int]] = []
        for record in records:
            self._add(record)

    def _add(self, record: StepRecord) -> None:
        for name, value in record.losses.items():
            self._losses[name].append(value)
        self._attention += SumCount(sum=sum(record.attention), count=len(record.attention))
        self._trusted = _added(self._trusted, record.trusted_by_class)
        self._predicted = _added(self._predicted, record.predicted_by_class)
        self._voxels += record.voxels_by_sample

    def report(
        self,
        protocol: StudyProtocol,
        data: SiteData,
        drawn: Mapping[str, Sequence[str]],
        *,
        seconds: float,
        fewest: int,
    ) -> TrainReport:
        """What of it may leave, for patches that were drawn from these cases."""
        names = ("background", *protocol.organ_names)
        voxels = zip(names, self._trusted, self._predicted, strict=False)
        report = TrainReport(
            labelled=len(data.labelled),
            unlabelled=len(data.unlabelled),
            steps=protocol.training.local_steps,
            seconds=seconds,
            losses={
                name: SumCount(sum=float(np.sum(values)), count=len(values))
                for name, values in self._losses.items()
            },
            attention=self._attention,
            trusted={name: SumCount(sum=sure, count=count) for name, sure, count in voxels},
        )
        return withhold_few(
            report,
            labelled=len(set(drawn["labelled"])),
            unlabelled=len(set(drawn["unlabelled"])),
            voxels=self._voxels_by_case(drawn["unlabelled"]),
            fewest=fewest,
        )

    def _voxels_by_case(self, drawn: Sequence[str]) -> list[list[int]]:
        """Of each unlabelled case, what `voxels_by_sample` has of its patches."""
        of_case: dict[str, list[int]] = {}
        # Eq. 6 runs in all steps of a round or in none.
        for key, row in zip(drawn, self._voxels, strict=bool(self._voxels)):
            of_case[key] = _added(of_case.get(key, []), row)
        return list(of_case.values())


def _added(total: list[int], new: list[int]) -> list[int]:
    return [a + b for a, b in zip(total, new, strict=True)] if total and new else total or new
