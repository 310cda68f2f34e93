"""Every ordering of methods in the paper's tables, and whether our scores reproduce it."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, Literal

from reporting.blocks import Block, Bullets, Section, Table, Text
from simulation.experiment.methods import METHODS
from simulation.experiment.report.formatting import Column, line_table, signed, signed_span
from simulation.experiment.report.published import TABLES, table_methods
from simulation.experiment.report.results import BETTER, SCORE_NAMES, Results, Score
from simulation.experiment.report.statistics import Difference

Outcome = Literal["held", "reversed", "undecided"]
_OUTCOMES: tuple[Outcome, ...] = ("held", "reversed", "undecided")
# The paper's argument, step by step: the better method, the worse, and what lies between them.
LADDER = (
    ("ASDNet", "AttSVNet+FCN", "region attention on unlabelled scans"),
    ("AttSVNet+FCN", "AttSVNet", "the confidence network's adversarial term"),
    ("AttSVNet+FCN", "AttSVNet+CNN", "a confidence map rather than one verdict a patch"),
    ("ASDNet", "AttSVNet+Semi", "the adversarial term in addition to region attention"),
    ("AttSVNet", "SVNet", "sample attention"),
    ("SVNet", "VNet", "a shallower network"),
)


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """The paper has `better` above `worse`; `ours` is better minus worse, on the same cases."""

    table: int
    score: Score
    organ: str
    better: str
    worse: str
    paper: float
    ours: Difference

    @property
    def outcome(self) -> Outcome:
        """Held or reversed where the interval is all on one side of 0."""
        if self.ours.verdict == "undecided":
            return "undecided"
        up = self.ours.verdict == "higher"
        return "held" if up == (BETTER[self.score] > 0) else "reversed"


def orderings(results: Results) -> list[Ordering]:
    """All pairs of a table's methods that were run, by score and organ; ties of the paper aside."""
    candidates = (
        _ordering(results, table, score, organ, one, other)
        for table in TABLES
        for score, organ in product(BETTER, results.info.organs)
        for one, other in combinations(table_methods(results, table, "federated"), 2)
    )
    return [pair for pair in candidates if pair is not None]


def _ordering(
    results: Results, table: int, score: Score, organ: str, one: str, other: str
) -> Ordering | None:
    # Table 2 prints no ASD.
    if table == 2 and score == "asd_mm":
        return None
    a, b = (_published(method, organ, score) for method in (one, other))
    if a is None or b is None or a == b:
        return None
    if (a - b) * BETTER[score] < 0:
        one, other, a, b = other, one, b, a
    ours = results.difference(score, (one, "federated"), (other, "federated"), organ)
    return Ordering(
        table=table,
        score=score,
        organ=organ,
        better=one,
        worse=other,
        paper=round(a - b, 3),
        ours=ours,
    )


def _published(method: str, organ: str, score: Score) -> float | None:
    pair = METHODS[method].published.get(organ) if method in METHODS else None
    if pair is None:
        return None
    return pair[0] if score == "dsc" else pair[1]


def orderings_section(results: Results) -> Section:
    all_pairs = orderings(results)
    if not all_pairs:
        text = (
            "Nothing to compare: no two rows of a table of the paper are complete, or the "
            "cohort's organs are not the paper's."
        )
        return Section(title="What did not reproduce", blocks=(Text(text=text),))
    blocks: list[Block] = [
        Text(
            text="An ordering of the paper is held or reversed where the 95% interval of the "
            "difference over the same cases is all on one side of 0, and undecided where it "
            "includes 0. Federated rows. The intervals are not corrected for their number: of "
            "twenty true ties, one would look decided."
        ),
        Bullets(items=tuple(_ladder_sentences(all_pairs))),
    ]
    for table, score in product(TABLES, BETTER):
        pairs = [o for o in all_pairs if (o.table, o.score) == (table, score)]
        if pairs:
            blocks.append(_table(pairs, table, score))
    return Section(title="What did not reproduce", blocks=tuple(blocks))


def tally(pairs: list[Ordering]) -> str:
    count = Counter(item.outcome for item in pairs)
    return ", ".join(f"{count[outcome]} {outcome}" for outcome in _OUTCOMES)


def _ladder_sentences(pairs: list[Ordering]) -> list[str]:
    sentences = [f"All {len(pairs)} orderings: {tally(pairs)}."]
    for better, worse, what in LADDER:
        steps = {
            o.organ: o for o in pairs if o.score == "dsc" and {o.better, o.worse} == {better, worse}
        }
        if not steps:
            sentences.append(f"{what[0].upper()}{what[1:]}. {better} > {worse}: not run.")
            continue
        by_order: dict[str, list[str]] = {}
        for organ, o in steps.items():
            by_order.setdefault(f"{o.better} > {o.worse}", []).append(f"{organ} {o.outcome}")
        parts = [f"{order}: {', '.join(organs)}" for order, organs in by_order.items()]
        sentences.append(f"{what[0].upper()}{what[1:]}. {'; '.join(parts)}.")
    return sentences


def _table(pairs: list[Ordering], table: int, score: Score) -> Table:
    unit, decimals, better = ("", 3, ">") if score == "dsc" else (", mm", 2, "<")
    name = SCORE_NAMES[score]
    columns: tuple[Column, ...] = (
        (f"the paper's order ({name})", lambda o: f"{o.better} {better} {o.worse}"),
        (f"paper{unit}", lambda o: signed(o.paper)),
        (f"ours{unit}", lambda o: signed(o.ours.mean, decimals)),
        (f"interval{unit}", lambda o: signed_span(o.ours.interval, decimals)),
        ("cases", lambda o: str(o.ours.n)),
        ("outcome", lambda o: o.outcome),
    )
    return line_table(
        f"orderings_table{table}_{score}",
        f"Orderings of Table {table}, {name}: {tally(pairs)}",
        pairs,
        columns,
        by="organ",
        csv=[_record(o) for o in pairs],
    )


def _record(o: Ordering) -> dict[str, Any]:
    ends = o.ours.interval
    return {
        "table": o.table,
        "score": o.score,
        "organ": o.organ,
        "better": o.better,
        "worse": o.worse,
        "paper": o.paper,
        "ours": o.ours.mean,
        "low": ends.low if ends else None,
        "high": ends.high if ends else None,
        "n": o.ours.n,
        "outcome": o.outcome,
    }
