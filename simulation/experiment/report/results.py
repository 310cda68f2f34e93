"""The scores of an experiment as data frames, by method, setting, organ and site."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import pandas as pd

from simulation.experiment.methods import METHODS
from simulation.experiment.report.statistics import (
    PLACE,
    Difference,
    Scores,
    Summary,
    case_means,
    difference,
    means,
    summarise,
)
from simulation.experiment.store import (
    SETTINGS,
    CaseRow,
    ConfidenceRow,
    ExperimentInfo,
    RoundRow,
    Run,
    Setting,
)

Part = Literal["test", "withheld"]
Score = Literal["dsc", "asd_mm", "hd95_mm", "nsd"]
# Which way a larger value points.
BETTER: Mapping[Score, int] = {"dsc": 1, "asd_mm": -1, "hd95_mm": -1, "nsd": 1}
SCORE_NAMES: Mapping[Score, str] = {
    "dsc": "DSC",
    "asd_mm": "ASD",
    "hd95_mm": "HD95",
    "nsd": "NSD",
}
# Used as an organ's name: the mean over all organs of a case.
ALL_ORGANS = "all organs"


class Results:
    """What is complete of an experiment.

    Each table has the columns method, setting, fold and seed of a run, and those of the run's own
    table in the store; what is undefined is NaN.

    Args:
        info: What was asked for.
        runs: What is complete.
    """

    def __init__(self, info: ExperimentInfo, runs: Sequence[Run]) -> None:
        self.info = info
        self.runs = tuple(runs)
        self.cases = _table(CaseRow, [(run, run.cases) for run in runs])
        self.confidence = _table(ConfidenceRow, [(run, run.confidence) for run in runs])
        self.rounds = _table(RoundRow, [(run, run.rounds) for run in runs])

    def runs_of(self, method: str, setting: Setting) -> list[Run]:
        """Complete runs, of all folds and seeds."""
        return [
            r for r in self.runs if (r.info.key.method, r.info.key.setting) == (method, setting)
        ]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods with a complete run, as the paper orders them, others after."""
        done = {run.info.key.method for run in self.runs}
        there = dict.fromkeys([*self.info.methods, *(run.info.key.method for run in self.runs)])
        known = [method for method in METHODS if method in there]
        return tuple(m for m in [*known, *(m for m in there if m not in METHODS)] if m in done)

    def methods_of(self, setting: Setting) -> tuple[str, ...]:
        return tuple(method for method in self.methods if self.runs_of(method, setting))

    def settings_of(self, method: str) -> tuple[Setting, ...]:
        """Settings in which a method has a complete run."""
        return tuple(setting for setting in SETTINGS if self.runs_of(method, setting))

    @property
    def setting(self) -> Setting:
        """The setting that methods are compared in: federated, or the first that has a run."""
        there = {run.info.key.setting for run in self.runs}
        return next((setting for setting in SETTINGS if setting in there), SETTINGS[0])

    def sites(self, part: Part = "test") -> tuple[str, ...]:
        """Sites with scored cases of this part."""
        return tuple(sorted(self.cases.site[self.cases.part == part].unique()))

    def cases_of(
        self, method: str, setting: Setting, organ: str = "", *, site: str = "", part: Part = "test"
    ) -> pd.DataFrame:
        """Lines of `cases`; "" is every organ or site."""
        wanted = {"method": method, "setting": setting, "part": part}
        wanted |= {"organ": organ} if organ else {}
        wanted |= {"site": site} if site else {}
        return chosen(self.cases, **wanted)

    def scores(
        self,
        score: Score,
        method: str,
        setting: Setting,
        organ: str = ALL_ORGANS,
        *,
        site: str = "",
        part: Part = "test",
    ) -> Scores:
        """A score by case, site, fold and seed, distances in mm; NaN where it is undefined.

        For all organs, the mean over them, and NaN where one of them is undefined.
        """
        named = "" if organ == ALL_ORGANS else organ
        cases = self.cases_of(method, setting, named, site=site, part=part)
        return means(cases.set_index(PLACE)[score], PLACE)

    def case_means(
        self, score: Score, method: str, setting: Setting, organ: str = ALL_ORGANS, **which: Any
    ) -> list[float]:
        """One value a case; withheld scans are the same in every fold, and so averaged over it."""
        over_folds = which.get("part") == "withheld"
        scores = self.scores(score, method, setting, organ, **which)
        return case_means(scores, over_folds=over_folds)

    def summary(
        self, score: Score, method: str, setting: Setting, organ: str = ALL_ORGANS, **which: Any
    ) -> Summary:
        """Of one value a case; `which` is the site and the part, as for `scores`."""
        return summarise(self.case_means(score, method, setting, organ, **which))

    def difference(
        self,
        score: Score,
        first: tuple[str, Setting],
        second: tuple[str, Setting],
        organ: str = ALL_ORGANS,
        **which: Any,
    ) -> Difference:
        """First minus second, each a method in a setting, on the cases that both scored."""
        one, other = (self.scores(score, *key, organ, **which) for key in (first, second))
        return difference(one, other, over_folds=which.get("part") == "withheld")

    def is_synthetic(self) -> bool:
        return self.info.cohort.get("kind") == "phantom"


def chosen(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The lines that have these values in these columns."""
    lines = pd.Series(True, index=table.index)
    for column, value in wanted.items():
        lines &= table[column] == value
    return table[lines]


def _table(kind: Any, runs: Sequence[tuple[Run, Sequence[Any]]]) -> pd.DataFrame:
    fields = kind.model_fields
    lines = [
        {
            "method": run.info.key.method,
            "setting": run.info.key.setting,
            "fold": run.info.key.fold,
            "seed": run.info.key.seed,
            **vars(line),
        }
        for run, rows in runs
        for line in rows
    ]
    table = pd.DataFrame(lines, columns=["method", "setting", "fold", "seed", *fields])
    numbers = [n for n, f in fields.items() if float in (f.annotation, *get_args(f.annotation))]
    return table.astype(dict.fromkeys(numbers, float))
