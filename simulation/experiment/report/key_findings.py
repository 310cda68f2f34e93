"""The report's first sentences, each computed from the scores and honest about what they lack."""

from simulation.experiment.methods import ROWS
from simulation.experiment.report.confidence import m_against_softmax, map_values
from simulation.experiment.report.formatting import gap, number, several, signed, signed_span, span
from simulation.experiment.report.results import Book
from simulation.experiment.report.settings import gains
from simulation.experiment.report.statistics import (
    Difference,
    Verdict,
    case_means,
    difference,
    share,
    summarise,
)

_SUPERVISED, _ADVERSARIAL = "AttSVNet", "AttSVNet+FCN"


def in_short(book: Book, reference: str) -> tuple[str, ...]:
    """What was found, a sentence each; what cannot be said yet is said to be so."""
    return (
        _best(book),
        _beats(
            book,
            reference,
            _ADVERSARIAL,
            f"{reference} against {_ADVERSARIAL}, which is region attention",
        ),
        _beats(
            book,
            reference,
            _SUPERVISED,
            "What unlabelled scans and the confidence network add together, "
            f"{reference} against the supervised {_SUPERVISED}",
        ),
        *(
            sentence(book, row)
            for row in _with_ways(book, reference)
            for sentence in (_federation_gain, _pooled_share)
        ),
        _map(book, reference),
        *_best_map(book, reference),
    )


def _with_ways(book: Book, reference: str) -> list[str]:
    """The reference, and what is in no table of the paper and was trained in several ways."""
    own = [r for r in book.rows if not (r in ROWS and ROWS[r].tables) and len(book.ways_of(r)) > 1]
    return [reference, *(row for row in own if row != reference)]


def _best(book: Book) -> str:
    means = {
        row: summarise(case_means(book.scores("dsc", row, book.way)))
        for row in book.rows_of(book.way)
    }
    ranked = sorted(
        (row for row in means if means[row].mean is not None), key=lambda r: -(means[r].mean or 0)
    )
    if not ranked:
        return "Best row: no test case was scored yet."
    best = ranked[0]
    sentence = (
        f"Best of {len(ranked)} {book.way} rows: {best}, mean DSC over organs "
        f"{number(means[best].mean)} (95% interval {span(means[best].interval)})"
    )
    if len(ranked) == 1:
        return f"{sentence}."
    second = ranked[1]
    lead = _difference(book, best, second)
    clear = "ahead of" if lead.verdict == "higher" else "not distinguishable from"
    return f"{sentence}, {clear} {second}: {gap(lead)}."


def _difference(book: Book, one: str, other: str) -> Difference:
    return difference(book.scores("dsc", one, book.way), book.scores("dsc", other, book.way))


def _beats(book: Book, one: str, other: str, what: str) -> str:
    missing = [row for row in (one, other) if not book.runs_of(row, book.way)]
    if missing:
        return f"{what}: not known, for {several(missing)} has no complete {book.way} run."
    found = _difference(book, one, other)
    if not found.n:
        return f"{what}: not known, for no test case was scored by both."
    paper = _paper_gap(book, one, other)
    if paper is None:
        verdict = _plain(found.verdict)
    else:
        verdict = f"the paper has {signed(paper)}; {_against_paper(found.verdict)}"
    return f"{what}: mean DSC {gap(found)}; {verdict}."


def _paper_gap(book: Book, one: str, other: str) -> float | None:
    pairs = [(ROWS[row].published if row in ROWS else {}) for row in (one, other)]
    organs = [o for o in book.info.organs if all(o in published for published in pairs)]
    if not organs or len(organs) < len(book.info.organs):
        return None
    gaps = [pairs[0][organ][0] - pairs[1][organ][0] for organ in organs]
    return sum(gaps) / len(gaps)


def _plain(verdict: Verdict) -> str:
    return {
        "higher": "a gain",
        "lower": "a loss",
        "undecided": "no difference can be told, for the interval includes 0",
    }[verdict]


def _against_paper(verdict: Verdict) -> str:
    return {
        "higher": "its direction is reproduced",
        "lower": "it is not reproduced: here the order is reversed",
        "undecided": "it is not reproduced: the interval includes 0",
    }[verdict]


def _federation_gain(book: Book, row: str) -> str:
    lines = gains(book, row)
    if not lines:
        return (
            f"Gain from the federation: not known, for {row} has no complete federated and local "
            "runs of the same cases."
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
    return f"Federated against local {row}, mean DSC by site: {'; '.join(parts)}."


def _pooled_share(book: Book, row: str) -> str:
    federated, pooled = (book.scores("dsc", row, way) for way in ("federated", "pooled"))
    found = share(federated, pooled)
    if found is None:
        return (
            f"Federated as a share of pooled: not known, for {row} has no complete federated and "
            "pooled runs of the same cases."
        )
    ratio, ends = found
    percent = f"{100 * ends.low:.1f} to {100 * ends.high:.1f}%" if ends else "none"
    return (
        f"Federated {row} reaches {100 * ratio:.1f}% of the mean DSC of the same method on "
        f"pooled scans (95% interval {percent})."
    )


def _map(book: Book, row: str) -> str:
    found = m_against_softmax(book, row, "organs")
    if found.mean is None:
        return (
            "Confidence map against maximum softmax: not known, for no complete "
            f"{book.way} run of {row} has figures of both."
        )
    return f"Within organs of withheld scans {_map_words(book, row, found)}."


def _best_map(book: Book, reference: str) -> tuple[str, ...]:
    """The row whose map knows most, where that is not the reference's."""
    means = {row: summarise(_map_auroc(book, row)).mean for row in book.rows}
    known = {row: mean for row, mean in means.items() if mean is not None}
    best = max(known, key=lambda row: (known[row], row == reference), default=reference)
    if best == reference:
        return ()
    found = m_against_softmax(book, best, "organs")
    return (f"Best confidence map, {best}: {_map_words(book, best, found)}.",)


def _map_auroc(book: Book, row: str) -> list[float]:
    return case_means(map_values(book, row, "confidence", "organs", "auroc"), over_folds=True)


def _map_words(book: Book, row: str, found: Difference) -> str:
    verdict = {
        "higher": "the confidence map tells right from wrong better than the maximum softmax",
        "lower": "the confidence map tells right from wrong worse than the maximum softmax, "
        "which costs nothing",
        "undecided": "the confidence map is not shown to beat the maximum softmax",
    }[found.verdict]
    auroc = summarise(_map_auroc(book, row))
    return f"{verdict}: AUROC {number(auroc.mean)}, difference {gap(found)}"
