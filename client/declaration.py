"""What a site says of its data before round 1: counts, and nothing of any one case."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from client.intact import Problem
from protocol.messages import SiteFacts
from protocol.sites import SiteConfig
from protocol.sums import SumCount


class Measured(Protocol):
    """A usable case of which the organs' box is known."""

    @property
    def organ_box(self) -> tuple[float, ...] | None:
        """Box around all organs, fractions of the scan."""
        ...


def declare(
    config: SiteConfig,
    *,
    labelled: Sequence[Measured],
    unlabelled: int,
    validation: int,
    test: int,
    refused: Sequence[Problem],
    excluded: int,
) -> SiteFacts:
    """The declaration; a box is told only where enough cases are in its sum.

    Args:
        config: The site; its `min_cases_reported` holds.
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
    )
    boxes = [case.organ_box for case in labelled if case.organ_box]
    if len(boxes) < config.min_cases_reported:
        return facts
    edges = (SumCount(sum=sum(edge), count=len(boxes)) for edge in zip(*boxes, strict=True))
    return replace(facts, box=tuple(edges))
