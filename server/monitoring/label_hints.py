"""What is wrong with the labels that sites give their unlabelled scans, in words."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Literal

from asdnet_models.catalogue import METHODS
from asdnet_models.config import MethodConfig
from asdnet_models.sums import SumCount
from protocol.wire.reports import EvaluationReport
from server.rounds.record import StudyRecord

# Shares of what is predicted as an organ: as good as nothing, and everything.
_NOTHING, _EVERYTHING = 0.02, 0.98
# Mean DSC of an organ below which trust in all of it cannot be right.
_WELL_FOUND = 0.8
# Rounds that are averaged, and what the agreement has then lost since its best.
_WINDOW, _FALL = 3, 0.1


def label_lines(record: StudyRecord) -> Iterator[str]:
    """What is wrong with the labels of unlabelled scans; nothing where none are learnt from."""
    if record.rounds:
        yield from _trust(record)
        yield from _agreement(record)


def _trust(record: StudyRecord) -> Iterator[str]:
    """Organs of which nothing is trusted, or all though it is badly found, in the last round."""
    evaluation, protocol = record.best_evaluation, record.protocol
    if not chooses(protocol.method):
        return
    for organ in protocol.organ_names:
        shares = [r.trusted.get(organ, SumCount()) for r in record.rounds[-1].reports.values()]
        share, dsc = sum(shares, SumCount()).mean, _mean_dsc(evaluation, organ)
        if share is None:
            continue
        if share < _NOTHING:
            yield (
                f"{organ}: {share:.1%} of what is predicted of it in unlabelled scans is trusted, "
                f"so that they teach nothing of it; try {threshold_words(protocol.method, 'below')}"
            )
        elif share > _EVERYTHING and dsc is not None and dsc < _WELL_FOUND:
            yield (
                f"{organ}: {share:.1%} of what is predicted of it in unlabelled scans is trusted, "
                f"at a mean DSC of {dsc:.2f}: nothing is chosen, and mistakes are "
                f"learnt; try {threshold_words(protocol.method, 'above')}"
            )


def chooses(method: MethodConfig) -> bool:
    """Whether a threshold of the study says which labels of unlabelled voxels are learnt."""
    kind = METHODS[method.name]
    return kind.confidence and (not kind.gated or method.gate in ("mask", "softmax"))


def threshold_words(method: MethodConfig, which: Literal["above", "below"]) -> str:
    """As "a method.gamma above 0.5": the setting by which more is trusted, or less."""
    if method.gamma_rule == "quantile":
        other = "above" if which == "below" else "below"
        return f"a method.trusted_share {other} {method.trusted_share:g}"
    if method.gamma_rule == "calibrated" and method.trains_confidence:
        return f"a method.trusted_precision {which} {method.trusted_precision:g}"
    return f"a method.gamma {which} {method.gamma:g}"


def _mean_dsc(evaluation: Mapping[str, EvaluationReport], organ: str) -> float | None:
    sums = (report.scores["validation"].get(organ) for report in evaluation.values())
    means = [s.dsc.mean for s in sums if s is not None and s.dsc.mean is not None]
    return fmean(means) if means else None


def _agreement(record: StudyRecord) -> Iterator[str]:
    """Sites at which student and teacher agree on less than they did."""
    series: dict[str, list[float]] = {}
    for finished in record.rounds:
        for site, report in sorted(finished.reports.items()):
            mean = report.losses.get("agreement", SumCount()).mean
            if mean is not None:
                series.setdefault(site, []).append(mean)
    for site, means in series.items():
        windows = [fmean(means[n : n + _WINDOW]) for n in range(len(means) - _WINDOW + 1)]
        if len(means) >= 2 * _WINDOW and max(windows) - windows[-1] > _FALL:
            yield (
                f"site {site}: the model and its teacher agree on {windows[-1]:.0%} of the organs' "
                f"voxels in unlabelled scans, it was {max(windows):.0%}; the labels that they give "
                "each other are drifting: fewer training.local_steps between two averagings, or a "
                f"training.lr_segmenter below {record.protocol.training.lr_segmenter:g}"
            )
