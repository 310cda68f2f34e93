"""Folds: which of the labelled cases are tested and validated on, and which keep their labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from protocol.wording import counted
from simulation.errors import SplitError

if TYPE_CHECKING:  # --help and a plan of runs do without the readers of scans
    from client.data.case import Part
    from simulation.layouts import StudyCase
    from simulation.options import CommonOptions

FOLDS = 5


def choose_fold(cases: Sequence[StudyCase], fold: int, seed: int) -> list[StudyCase]:
    """Parts of fold 1 to 5: a fifth of the labelled cases is tested on, half a fifth validated on.

    Stratified by site: each site's shuffled cases are dealt to the folds in turn, and the next
    site continues where the last one stopped, so folds differ by one case at most.  A group of
    cases is dealt as one, to the smallest fold.  Cases whose part is fixed keep it in every fold.
    """
    if not 1 <= fold <= FOLDS:
        raise SplitError(f"--fold must be 1 to {FOLDS}, not {fold}")
    by_site = _groups_by_site(cases)
    folds = _dealt_to_folds(by_site, np.random.default_rng([seed, 11]))
    test = {name for group in folds[fold - 1] for name in group}
    validation = {name for group in folds[fold % FOLDS][::2] for name in group}
    trained_on = {c.site for c in cases if c.fixed and c.part == "labelled"}
    for site, groups in by_site.items():
        # A site keeps a labelled case to train on: first what it validates on gives way.
        ordered = sorted(groups, key=lambda group: group[0] in test)
        if site not in trained_on and not {n for g in groups for n in g} - test - validation:
            test.difference_update(ordered[0])
            validation.difference_update(ordered[0])
    parts: list[StudyCase] = []
    for case in cases:
        part: Part = case.part
        if _is_dealt(case) and case.name in test:
            part = "test"
        elif _is_dealt(case) and case.name in validation:
            part = "validation"
        parts.append(replace(case, part=part))
    return parts


def refuse_needless_folds(cases: Sequence[StudyCase], folds: Sequence[int], option: str) -> None:
    """Where every case has its part there is one fold; five of it are no five results.

    Raises:
        SplitError: More, or another one, is asked for.
    """
    if tuple(folds) != (1,) and not any(map(_is_dealt, cases)):
        raise SplitError(
            f"{option}: --sites-file says the split of every case, so there is one fold; give "
            f"{option} 1, or leave splits empty"
        )


def refuse_unscored(cases: Sequence[StudyCase], left_out: Collection[str] = ()) -> None:
    """Without a test case nothing could be said, without a validation case no best round chosen.

    Args:
        cases: With the parts of one fold.
        left_out: Sites that do not take part; their test cases are scored all the same.

    Raises:
        SplitError: One of the two is missing.
    """
    taking_part = [case for case in cases if case.site not in left_out]
    sites = {case.site for case in taking_part}
    training = sum(case.part == "labelled" for case in taking_part)
    mistakes = []
    for part, done, of in (
        ("test", "tested", cases),
        ("validation", "validated", taking_part),
    ):
        if not any(case.part == part for case in of):
            mistakes.append(
                f"no case is {done} on: {counted(training, 'labelled case')} at"
                f" {counted(len(sites), 'site')}, and a site keeps one to train on; add labelled"
                f" cases, lower --sites, or write {part} as the split of one in --sites-file"
            )
    if mistakes:
        raise SplitError("\n".join(mistakes))


def _is_dealt(case: StudyCase) -> bool:
    """Whether the folds decide what it is for."""
    return case.part == "labelled" and not case.fixed


def _groups_by_site(cases: Sequence[StudyCase]) -> dict[str, list[list[str]]]:
    """By site, names of the cases that the folds decide on, in groups that stay together."""
    by_site: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(dict)
    for case in cases:
        if _is_dealt(case):
            key = (case.group, "" if case.group else case.name)
            by_site[case.site].setdefault(key, []).append(case.name)
    return {site: list(groups.values()) for site, groups in by_site.items()}


def _dealt_to_folds(
    by_site: Mapping[str, Sequence[Sequence[str]]], rng: np.random.Generator
) -> list[list[Sequence[str]]]:
    """Groups by fold: each to the smallest fold, of equal ones to the next in turn."""
    folds: list[list[Sequence[str]]] = [[] for _ in range(FOLDS)]
    sizes = [0] * FOLDS
    turn = 0
    for site in sorted(by_site):
        for index in rng.permutation(len(by_site[site])):
            group = by_site[site][index]
            smallest = min(range(FOLDS), key=lambda f: (sizes[f], (f - turn) % FOLDS))
            folds[smallest].append(group)
            sizes[smallest] += len(group)
            turn = smallest + 1
    return folds


def parts_of_run(
    options: CommonOptions, cases: Sequence[StudyCase], fold: int, seed: int
) -> list[StudyCase]:
    """The fold's parts; which training cases keep their labels is drawn by the run's seed."""
    parts = choose_fold(cases, fold, options.protocol.seed)
    return keep_labels(parts, options.training_labels, fold, seed, options.label_free)


def keep_labels(
    cases: Sequence[StudyCase], count: int | None, fold: int, seed: int, label_free: int = 0
) -> list[StudyCase]:
    """Only `count` training cases stay labelled; the others of a site become unlabelled ones.

    Their references are withheld.  Sites keep labels in proportion to what they have, which may
    leave a small one without any; test and validation cases stay as they are.  What one seed
    keeps of a site, it keeps where the site has a larger share, too.

    Args:
        cases: With the parts of one fold.
        count: Labelled training cases of all sites; None: all but those of label-free sites.
        fold: Number of the fold; another fold draws anew.
        seed: Another seed draws other cases.
        label_free: So many sites keep no label: the last ones in name order.

    Raises:
        SplitError: If there are fewer training cases with labels, or no site is left that has any.
    """
    if count is None and not label_free:
        return list(cases)
    names = sorted({case.site for case in cases})
    with_labels = names[: max(0, len(names) - label_free)]
    by_site: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.part == "labelled" and case.site in with_labels:
            by_site[case.site].append(case.name)
    there = sum(len(names) for names in by_site.values())
    if not there:
        raise SplitError(
            f"--label-free {label_free}: leaves no labelled training case at"
            f" {counted(len(names), 'site')}; give a smaller number"
        )
    count = there if count is None else count
    if count > there:
        raise SplitError(
            f"fold {fold} has {counted(there, 'labelled training case')}"
            f"{' at sites that keep labels' if label_free else ''}, {count} are asked for;"
            " lower --labels"
        )
    rng = np.random.default_rng([seed, fold, 13])
    sites = sorted(by_site)
    shares = apportion(count, [len(by_site[site]) for site in sites])
    kept: set[str] = set()
    for site, share in zip(sites, shares, strict=True):
        kept.update(rng.permutation(sorted(by_site[site]))[:share].tolist())
    return [
        replace(case, part="unlabelled", label=None)
        if case.part == "labelled" and case.name not in kept
        else case
        for case in cases
    ]


def apportion(total: int, shares: Sequence[int]) -> list[int]:
    """Integers in proportion, largest remainders first (Hamilton's method)."""
    if not total:
        return [0] * len(shares)
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
