"""What rows gain over the supervised one where few labels are left, over scans and seeds."""

from dataclasses import dataclass

from protocol.wording import counted
from simulation.experiment.report.all_labels import AllLabels
from simulation.experiment.report.formatting import NONE, gap, signed
from simulation.experiment.report.results import Results
from simulation.experiment.report.statistics import (
    CrossedDifference,
    Interval,
    Summary,
    crossed_difference,
    holm,
)
from simulation.experiment.store import ExperimentInfo, Setting

_ITSELF = CrossedDifference(n=0, mean=None, interval=None, p=None, by_seed=())


@dataclass(frozen=True, kw_only=True)
class FewLine:
    """One row in one setting, or at one site of it.

    Attributes:
        site: "" for all.
        gain: Over the reference; of itself there is none.
        p: Of the gain, Holm-corrected where rows are compared.
        by_seed: The gain in each seed.
        sites: Where a gain was measured.
        higher: Sites with any gain.
        clearly_higher: Sites whose interval is above 0.
        of_all_labels: DSC as a share of the reference's with all labels, and its interval.
    """

    setting: Setting
    method: str
    site: str
    dsc: Summary
    gain: CrossedDifference
    p: float | None
    by_seed: str
    sites: int = 0
    higher: int = 0
    clearly_higher: int = 0
    of_all_labels: float | None = None
    of_all_labels_low: float | None = None
    of_all_labels_high: float | None = None


def has_few_labels(info: ExperimentInfo) -> bool:
    """Whether labels were withheld on purpose, or the split is of a benchmark for that."""
    return any(
        info.cohort.get(key) not in (None, 0)
        for key in ("training_labels", "label_free", "benchmark")
    )


def few_lines(
    results: Results, reference: str, setting: Setting, all_labels: AllLabels | None = None
) -> list[FewLine]:
    """Every row in a setting; none where the reference is not trained in it."""
    methods = results.methods_of(setting)
    if reference not in methods:
        return []
    gains = {m: _gain(results, m, reference, setting) for m in methods}
    corrected = holm([gains[m].p for m in methods])
    lines = []
    for method, p in zip(methods, corrected, strict=True):
        at_sites = [line.gain for line in site_lines(results, method, reference, setting)]
        ratio, ends = _of_all(results, method, setting, all_labels)
        lines.append(
            FewLine(
                setting=setting,
                method=method,
                site="",
                dsc=results.summary("dsc", method, setting),
                gain=gains[method],
                p=p,
                by_seed=_by_seed(gains[method]),
                sites=len(at_sites),
                higher=sum((gain.mean or 0) > 0 for gain in at_sites),
                clearly_higher=sum(gain.verdict == "higher" for gain in at_sites),
                of_all_labels=ratio,
                of_all_labels_low=ends.low if ends else None,
                of_all_labels_high=ends.high if ends else None,
            )
        )
    return lines


def site_lines(results: Results, method: str, reference: str, setting: Setting) -> list[FewLine]:
    """The row at every site where both were scored; none for the reference itself."""
    lines = []
    for site in results.sites():
        gain = _gain(results, method, reference, setting, site)
        if gain.n:
            dsc = results.summary("dsc", method, setting, site=site)
            lines.append(
                FewLine(
                    setting=setting,
                    method=method,
                    site=site,
                    dsc=dsc,
                    gain=gain,
                    p=gain.p,
                    by_seed=_by_seed(gain),
                )
            )
    return lines


def _gain(
    results: Results, method: str, reference: str, setting: Setting, site: str = ""
) -> CrossedDifference:
    if method == reference:
        return _ITSELF
    one, other = (results.scores("dsc", m, setting, site=site) for m in (method, reference))
    return crossed_difference(one, other)


def _of_all(
    results: Results, method: str, setting: Setting, all_labels: AllLabels | None
) -> tuple[float | None, Interval | None]:
    scores = results.scores("dsc", method, setting)
    return (all_labels.share(scores, setting) if all_labels else None) or (None, None)


def _by_seed(gain: CrossedDifference) -> str:
    return " ".join(signed(mean) for mean in gain.by_seed)


def of_all_words(line: FewLine) -> str:
    """The share in per cent, with its interval."""
    if line.of_all_labels is None:
        return NONE
    low, high = line.of_all_labels_low, line.of_all_labels_high
    ends = f" ({100 * low:.1f} to {100 * high:.1f})" if low is not None and high is not None else ""
    return f"{100 * line.of_all_labels:.1f}%{ends}"


def labels_words(info: ExperimentInfo) -> str:
    """How many training scans keep their label, at the beginning of a sentence."""
    labels = info.cohort.get("training_labels")
    return "All labels" if labels is None else counted(int(labels), "label")


def few_label_findings(
    results: Results, reference: str, all_labels: AllLabels | None = None
) -> tuple[str, ...]:
    """What the best row gains over the reference, at which sites, and of what is possible."""
    setting = results.setting
    lines = few_lines(results, reference, setting, all_labels)
    others = [line for line in lines if line.method != reference and line.gain.mean is not None]
    if not lines:
        return (
            f"Gains over {reference}: not known, for it has no complete {setting} run;"
            " asdnet-sim report --reference names another row.",
        )
    if not others:
        return (
            f"Gains over {reference}: not known, for no other row has a complete {setting} run of"
            " the same scans.",
        )
    best = max(others, key=lambda line: line.dsc.mean or 0.0)
    sentences = [
        f"{labels_words(results.info)}, {setting}: {best.method} against {reference}, mean DSC "
        f"{gap(best.gain)} over scans and {counted(len(best.gain.by_seed), 'seed')} "
        f"({best.by_seed}); a gain at {best.higher} of {counted(best.sites, 'site')}, with an "
        f"interval above 0 at {best.clearly_higher}. The best of {counted(len(others), 'row')} by "
        "these scores."
    ]
    if best.of_all_labels is not None:
        sentences.append(
            f"{best.method} reaches {of_all_words(best)} of the mean DSC of {reference} trained "
            f"with every label, {setting}; {reference} with few labels "
            f"{next(of_all_words(line) for line in lines if line.method == reference)}."
        )
    return tuple(sentences)
