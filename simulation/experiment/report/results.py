"""The scores of a study, asked for by row, way, organ and site."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from simulation.experiment.methods import ROWS
from simulation.experiment.report.statistics import Place, Scores
from simulation.experiment.store import WAYS, CaseRow, Run, StudyInfo, Way

Part = Literal["test", "withheld"]
Score = Literal["dsc", "asd_mm"]
# Which way a larger value points.
BETTER: Mapping[Score, int] = {"dsc": 1, "asd_mm": -1}
SCORE_NAMES: Mapping[Score, str] = {"dsc": "DSC", "asd_mm": "ASD"}
# In place of an organ: the mean over all organs of a case.
ALL_ORGANS = "all organs"


class Book:
    """Scores by place.

    Args:
        info: What was asked for.
        runs: What is complete.
    """

    def __init__(self, info: StudyInfo, runs: list[Run]) -> None:
        self.info = info
        self.runs = tuple(runs)

    def runs_of(self, row: str, way: Way) -> list[Run]:
        """Complete runs, of all folds and seeds."""
        return [r for r in self.runs if (r.info.key.row, r.info.key.way) == (row, way)]

    @property
    def rows(self) -> tuple[str, ...]:
        """Rows with a complete run, as the paper orders them, others after."""
        there = dict.fromkeys([*self.info.rows, *(r.info.key.row for r in self.runs)])
        done = {r.info.key.row for r in self.runs}
        known = [row for row in ROWS if row in there]
        return tuple(r for r in [*known, *(r for r in there if r not in ROWS)] if r in done)

    def rows_of(self, way: Way) -> tuple[str, ...]:
        """Rows with a complete run of this way."""
        return tuple(row for row in self.rows if self.runs_of(row, way))

    def ways_of(self, row: str) -> tuple[Way, ...]:
        """Ways in which a row has a complete run."""
        return tuple(way for way in WAYS if self.runs_of(row, way))

    @property
    def way(self) -> Way:
        """The way that methods are compared in: federated, or the first that has a run."""
        there = {run.info.key.way for run in self.runs}
        return next((way for way in WAYS if way in there), WAYS[0])

    def sites(self, part: Part = "test") -> tuple[str, ...]:
        """Sites with scored cases of this part."""
        return tuple(sorted({c.site for r in self.runs for c in r.cases if c.part == part}))

    def cases(
        self, row: str, way: Way, *, site: str = "", part: Part = "test"
    ) -> Iterator[tuple[Place, CaseRow]]:
        """Every organ of every case with its place."""
        for run in self.runs_of(row, way):
            key = run.info.key
            for case in run.cases:
                if case.part == part and site in ("", case.site):
                    yield Place(key.fold, key.seed, case.site, case.case), case

    def scores(
        self,
        score: Score,
        row: str,
        way: Way,
        organ: str = ALL_ORGANS,
        *,
        site: str = "",
        part: Part = "test",
    ) -> Scores:
        """A score by place: DSC, or ASD in mm; None where it is undefined.

        For all organs, the mean over them, and None where one of them is undefined.
        """
        found: dict[Place, list[float | None]] = {}
        for place, case in self.cases(row, way, site=site, part=part):
            if organ in (ALL_ORGANS, case.organ):
                found.setdefault(place, []).append(getattr(case, score))
        return {place: _mean(values) for place, values in found.items()}

    def failures(self, row: str, way: Way, organ: str, *, site: str = "") -> tuple[int, int, int]:
        """Segmentations of test cases: failures, without an ASD, and all; each seed counts."""
        cases = [c for _, c in self.cases(row, way, site=site) if c.organ == organ]
        return (
            sum(c.failure for c in cases),
            sum(c.asd_mm is None for c in cases),
            len(cases),
        )

    def is_synthetic(self) -> bool:
        """Whether the cohort is made."""
        return self.info.cohort.get("kind") == "phantom"


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None
