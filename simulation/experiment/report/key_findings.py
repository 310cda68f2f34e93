"""The report's key findings: sentences computed from the scores."""

from collections.abc import Mapping

from asdnet_models.sums import FailureCount
from protocol.wording import counted, listed_names
from server.monitoring.hints import FAR_MM
from simulation.experiment.methods import METHODS, SUPERVISED
from simulation.experiment.report.all_labels import AllLabels
from simulation.experiment.report.confidence import m_against_softmax, map_values
from simulation.experiment.report.few_labels import few_label_findings, has_few_labels
from simulation.experiment.report.formatting import gap, number, signed, signed_span, span
from simulation.experiment.report.results import Results
from simulation.experiment.report.settings import gains
from simulation.experiment.report.statistics import (
    Difference,
    Verdict,
    case_means,
    crossed_difference,
    share,
    summarise,
)
from simulation.experiment.store import POOLED, Setting

_SUPERVISED, _ADVERSARIAL, _ASDNET = "AttSVNet", "AttSVNet+FCN", "ASDNet"
_STEPS: Mapping[Setting, str] = {
    "pooled": "as many steps as one site",
    "pooled-equal-steps": "as many steps as all sites together",
}


def key_findings(
    results: Results, reference: str, all_labels: AllLabels | None = None
) -> tuple[str, ...]:
    """The key findings, a sentence each; also what is not known yet."""
    few = has_few_labels(results.info)
    # What nobody has asked for need not be said to be unknown.
    paper = not few or {_ADVERSARIAL, _SUPERVISED} & {*results.info.methods}
    return (
        _best(results),
        *(few_label_findings(results, reference, all_labels) if few else ()),
        *(_of_the_paper(results, reference) if paper else ()),
        *(
            sentence
            for method in _in_several_settings(results, reference)
            for sentence in (
                _federation_gain(results, method),
                *(_pooled_share(results, method, setting) for setting in POOLED),
            )
        ),
        *(() if few and not _map_auroc(results, reference) else (_map(results, reference),)),
        *_best_map(results, reference),
        *_failed(results, reference),
    )


def _of_the_paper(results: Results, reference: str) -> tuple[str, ...]:
    """Region attention, and all that is learnt without labels, on the paper's rows."""
    ours = _ASDNET if reference == SUPERVISED else reference
    return (
        _beats(
            results,
            ours,
            _ADVERSARIAL,
            f"{ours} against {_ADVERSARIAL}, which is region attention",
        ),
        _beats(
            results,
            ours,
            _SUPERVISED,
            "What unlabelled scans and the confidence network add in total, "
            f"{ours} against the supervised {_SUPERVISED}",
        ),
    )


def _failed(results: Results, method: str) -> tuple[str, ...]:
    """Organs that failed, or whose predictions lie far away on average; cases are not named."""
    sentences = []
    kept = results.info.protocol.get("evaluation", {}).get("largest_component") or ()
    kept = results.info.organs if kept is True else kept
    for organ in results.info.organs:
        cases = results.cases_of(method, results.setting, organ)
        failures = FailureCount.of(cases.failure.where(cases.failure.notna(), None))
        asd = results.summary("asd_mm", method, results.setting, organ).mean or 0.0
        far = failures.far_off or asd > FAR_MM
        if not failures.total and not far:
            continue
        words = [f"{failures}, of {counted(len(cases), 'segmentation')}"] if failures.total else []
        words += [f"ASD {number(asd, 1)} mm on average"] if far else []
        hint = "; evaluation.largest_component may help" if far and organ not in kept else ""
        sentences.append(f"{method}, {results.setting}, {organ}: {', '.join(words)}{hint}.")
    return tuple(sentences)


def _in_several_settings(results: Results, reference: str) -> list[str]:
    """The reference, and what is in no table of the paper and was trained in several settings."""
    own = [
        method
        for method in results.methods
        if not (method in METHODS and METHODS[method].tables)
        and len(results.settings_of(method)) > 1
    ]
    return [reference, *(method for method in own if method != reference)]


def _best(results: Results) -> str:
    setting = results.setting
    means = {
        method: results.summary("dsc", method, setting) for method in results.methods_of(setting)
    }
    ranked = sorted(
        (m for m in means if means[m].mean is not None), key=lambda m: -(means[m].mean or 0)
    )
    if not ranked:
        return "Best row: no test case was scored yet."
    best = ranked[0]
    sentence = (
        f"Best of {len(ranked)} {setting} rows: {best}, mean DSC over organs "
        f"{number(means[best].mean)} (95% interval {span(means[best].interval)})"
    )
    if len(ranked) == 1:
        return f"{sentence}."
    second = ranked[1]
    lead = _difference(results, best, second)
    clear = "ahead of" if lead.verdict == "higher" else "not distinguishable from"
    return f"{sentence}, {clear} {second}: {gap(lead)}."


def _difference(results: Results, one: str, other: str) -> Difference:
    """Over scans; over seeds too where each labels other scans."""
    if has_few_labels(results.info):
        scores = (results.scores("dsc", method, results.setting) for method in (one, other))
        return crossed_difference(*scores)
    return results.difference("dsc", (one, results.setting), (other, results.setting))


def _beats(results: Results, one: str, other: str, what: str) -> str:
    missing = [m for m in (one, other) if not results.runs_of(m, results.setting)]
    if missing:
        have = "has" if len(missing) == 1 else "have"
        return (
            f"{what}: not known, because {listed_names(missing)} {have} no complete "
            f"{results.setting} run."
        )
    lead = _difference(results, one, other)
    if not lead.n:
        return f"{what}: not known, because no test case was scored by both."
    paper = _paper_gap(results, one, other)
    if paper is None:
        verdict = _plain(lead.verdict)
    else:
        verdict = f"the paper has {signed(paper)}; {_against_paper(lead.verdict)}"
    return f"{what}: mean DSC {gap(lead)}; {verdict}."


def _paper_gap(results: Results, one: str, other: str) -> float | None:
    pairs = [(METHODS[method].published if method in METHODS else {}) for method in (one, other)]
    organs = [o for o in results.info.organs if all(o in published for published in pairs)]
    if not organs or len(organs) < len(results.info.organs):
        return None
    gaps = [pairs[0][organ][0] - pairs[1][organ][0] for organ in organs]
    return sum(gaps) / len(gaps)


def _plain(verdict: Verdict) -> str:
    return {
        "higher": "a gain",
        "lower": "a loss",
        "undecided": "no difference is shown: the interval includes 0",
    }[verdict]


def _against_paper(verdict: Verdict) -> str:
    return {
        "higher": "its direction is reproduced",
        "lower": "it is not reproduced: here the order is reversed",
        "undecided": "it is not reproduced: the interval includes 0",
    }[verdict]


def _federation_gain(results: Results, method: str) -> str:
    lines = gains(results, method)
    if not lines:
        return (
            f"Gain from the federation: not known, for {method} has no complete federated and "
            "local runs of the same cases."
        )
    by_verdict: dict[Verdict, list[str]] = {"higher": [], "lower": [], "undecided": []}
    for line in lines:
        ends = signed_span(line.gain.interval)
        by_verdict[line.gain.verdict].append(f"{line.site} {signed(line.gain.mean)} ({ends})")
    parts = [
        f"{word} at {', '.join(sites)}"
        for word, sites in zip(("higher", "lower", "undecided"), by_verdict.values(), strict=True)
        if sites
    ]
    return f"Federated against local {method}, mean DSC by site: {'; '.join(parts)}."


def _pooled_share(results: Results, method: str, setting: Setting) -> str:
    portion = share(
        results.scores("dsc", method, "federated"), results.scores("dsc", method, setting)
    )
    if portion is None:
        return (
            f"Federated as a share of {setting}: not known, for {method} has no complete federated "
            f"and {setting} runs of the same cases."
        )
    ratio, ends = portion
    percent = f"{100 * ends.low:.1f} to {100 * ends.high:.1f}%" if ends else "none"
    return (
        f"Federated {method} reaches {100 * ratio:.1f}% of the mean DSC of the same method on "
        f"pooled scans, trained for {_STEPS[setting]} ({setting}; 95% interval {percent})."
    )


def _map(results: Results, method: str) -> str:
    lead = m_against_softmax(results, method, "organs")
    if lead.mean is None:
        return (
            "Confidence map against maximum softmax: not known, for no complete "
            f"{results.setting} run of {method} has figures of both."
        )
    return f"Within organs of withheld scans {_map_words(results, method, lead)}."


def _best_map(results: Results, reference: str) -> tuple[str, ...]:
    """The method whose map knows most, where that is not the reference's."""
    means = {method: summarise(_map_auroc(results, method)).mean for method in results.methods}
    known = {method: mean for method, mean in means.items() if mean is not None}
    best = max(known, key=lambda m: (known[m], m == reference), default=reference)
    if best == reference:
        return ()
    lead = m_against_softmax(results, best, "organs")
    return (f"Best confidence map, {best}: {_map_words(results, best, lead)}.",)


def _map_auroc(results: Results, method: str) -> list[float]:
    return case_means(map_values(results, method, "confidence", "organs", "auroc"), over_folds=True)


def _map_words(results: Results, method: str, lead: Difference) -> str:
    verdict = {
        "higher": "the confidence map separates right from wrong better than the maximum softmax",
        "lower": "the confidence map separates right from wrong worse than the maximum softmax, "
        "which costs nothing",
        "undecided": "the confidence map is not shown to beat the maximum softmax",
    }[lead.verdict]
    auroc = summarise(_map_auroc(results, method))
    return f"{verdict}: AUROC {number(auroc.mean)}, difference {gap(lead)}"
