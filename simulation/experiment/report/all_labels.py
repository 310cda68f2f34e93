"""Another experiment, in which every training scan has its label: what few labels are held to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from simulation.errors import ReportError
from simulation.experiment.report.results import Results
from simulation.experiment.report.statistics import PLACE, Interval, Scores, means, share
from simulation.experiment.store import Setting, read_experiment

# Why a folder is refused ends with what to do.
_HINT = "give --all-labels the experiment of the same cohort and sites without --labels"


@dataclass(frozen=True, kw_only=True)
class AllLabels:
    """The scores of the reference row, trained with every label."""

    results: Results
    reference: str

    def share(self, scores: Scores, setting: Setting) -> tuple[float, Interval | None] | None:
        """These test scores as a share of those with all labels in the same setting.

        Seeds are averaged first, of either as many as it has; the interval is over scans.

        Returns:
            None where the reference was not trained in this setting.
        """
        return share(
            _by_case(scores), _by_case(self.results.scores("dsc", self.reference, setting))
        )


def read_all_labels(folder: Path, few: Results, reference: str) -> AllLabels:
    """The experiment with all labels that the results of few are held to.

    Raises:
        ReportError: It is none, trained with few labels itself, has no run of the reference, or
            tests on other scans or organs.
    """
    try:
        results = Results(*read_experiment(folder))
    except FileNotFoundError:
        raise ReportError(f"{folder}: has no study.json, so is no experiment; {_HINT}") from None
    cohort = results.info.cohort
    if cohort.get("training_labels") is not None or cohort.get("label_free"):
        raise ReportError(f"{folder}: was trained with few labels itself; {_HINT}")
    if results.info.organs != few.info.organs:
        raise ReportError(f"{folder}: has other organs, {_names(results.info.organs)}; {_HINT}")
    if reference not in results.methods:
        raise ReportError(
            f"{folder}: has no complete run of {reference}, but of {_names(results.methods)}; name"
            " one of them by --reference, or run it"
        )
    if _tested(results) != _tested(few):
        raise ReportError(f"{folder}: tests on other scans; {_HINT}")
    if other := _differing(few.info.protocol, results.info.protocol):
        raise ReportError(
            f"{folder}: is of another study, which differs in {_names(other)}, so that more than"
            f" labels would be compared; {_HINT}"
        )
    return AllLabels(results=results, reference=reference)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The fields of two studies that differ, but name and seed; as "network" or "training"."""
    keys = sorted((one.keys() | other.keys()) - {"name", "seed"})
    return [key for key in keys if one.get(key) != other.get(key)]


def _tested(results: Results) -> set[str]:
    return set(results.cases.case[results.cases.part == "test"])


def _by_case(scores: Scores) -> Scores:
    """One score a scan, wherever it is dealt to."""
    by_case = means(scores.dropna(), ["case"])
    index = pd.MultiIndex.from_tuples([(0, 0, "", case) for case in by_case.index], names=PLACE)
    return pd.Series(by_case.to_numpy(), index, dtype=float)


def _names(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
