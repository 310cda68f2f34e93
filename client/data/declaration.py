"""What a site declares of its data before round 1: counts, and nothing of a single case."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from asdnet_models.sums import SumCount
from client.data.errors import Problem
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


def annotated_boxes(cases: Sequence[Measured], organs: Collection[str]) -> list[tuple[float, ...]]:
    """The organ boxes of the cases in which every organ is annotated: the others' are too small."""
    return [c.organ_box for c in cases if c.organ_box and c.annotated >= set(organs)]


def declare(
    config: SiteConfig,
    organs: Collection[str],
    *,
    labelled: Sequence[Measured],
    unlabelled: int,
    validation: int,
    test: int,
    refused: Sequence[Problem],
    excluded: int,
) -> SiteFacts:
    """The declaration; a box is given only where enough cases are in its sum.

    Args:
        config: The site; its `min_cases_reported` holds.
        organs: The study's.
        labelled: Labelled training cases.
        unlabelled: Number of cases without labels.
        validation: Number of validation cases.
        test: Number of test cases.
        refused: Why what is not used isn't.
        excluded: How many cases the site's file leaves out.
    """
    facts = SiteFacts(
        labelled=len(labelled),
        unlabelled=unlabelled,
        validation=validation,
        test=test,
        excluded=excluded,
        refused=dict(sorted(Counter(problem.rule for problem in refused).items())),
        annotated=count_annotated(labelled, organs),
    )
    boxes = annotated_boxes(labelled, organs)
    if len(boxes) < config.min_cases_reported:
        return facts
    edges = (SumCount(sum=sum(edge), count=len(boxes)) for edge in zip(*boxes, strict=True))
    return replace(facts, box=tuple(edges))
