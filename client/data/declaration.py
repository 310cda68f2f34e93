"""What a site declares of its data before round 1: counts, and nothing of a single case."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from asdnet_models.sums import SumCount
from client.data.errors import Problem
from protocol.config.rules import Rule
from protocol.config.site import SiteConfig
from protocol.wire.reports import SiteFacts


class Measured(Protocol):
    """A usable case: which organs are annotated in it, and where they are."""

    @property
    def annotated(self) -> frozenset[str]:
        """The study's organs that are annotated."""
        ...

    @property
    def organ_box(self) -> tuple[float, ...] | None:
        """Box around all organs, fractions of the scan."""
        ...


def count_annotated(cases: Sequence[Measured], organs: Collection[str]) -> dict[str, int]:
    """In how many of the cases each organ is annotated."""
    return {organ: sum(organ in case.annotated for case in cases) for organ in organs}


def is_boxed(case: Measured, organs: Collection[str]) -> bool:
    """Whether a case's organ box counts: one with an organ that is not annotated is too small."""
    return case.organ_box is not None and case.annotated >= set(organs)


def annotated_boxes(cases: Sequence[Measured], organs: Collection[str]) -> list[tuple[float, ...]]:
    """The organ boxes that count."""
    return [c.organ_box for c in cases if c.organ_box and is_boxed(c, organs)]


def declare(
    config: SiteConfig,
    organs: Collection[str],
    *,
    labelled: Sequence[Measured],
    unlabelled: int,
    validation: int,
    test: int,
    refused: Mapping[Rule, int],
    excluded: int,
    boxed: Iterable[Sequence[Measured]] | None = None,
) -> SiteFacts:
    """The declaration; a box is given only where enough cases are in its sum.

    Args:
        config: The site; its `min_cases_reported` holds.
        organs: The study's.
        labelled: Labelled training cases.
        unlabelled: Number of cases without labels.
        validation: Number of validation cases.
        test: Number of test cases.
        refused: How many cases are not used, by the rule that they break.
        excluded: How many cases the site's file leaves out.
        boxed: Labelled cases whose box may leave, in blocks that may be subtracted from each
            other; None: all of them.
    """
    facts = SiteFacts(
        labelled=len(labelled),
        unlabelled=unlabelled,
        validation=validation,
        test=test,
        excluded=excluded,
        refused=dict(refused),
        annotated=count_annotated(labelled, organs),
    )
    blocks = [annotated_boxes(block, organs) for block in ([labelled] if boxed is None else boxed)]
    boxes = [box for block in blocks if len(block) >= config.min_cases_reported for box in block]
    if not boxes:
        return facts
    edges = (SumCount(sum=sum(edge), count=len(boxes)) for edge in zip(*boxes, strict=True))
    return replace(facts, box=tuple(edges))


def count_rules(problems: Iterable[Problem]) -> dict[Rule, int]:
    """How many of the problems are of each rule, by name."""
    return dict(sorted(Counter(problem.rule for problem in problems).items()))
