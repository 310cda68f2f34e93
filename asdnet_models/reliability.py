"""How well a score separates right from wrong voxels, as counts that can be added over sites."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

# Bins of the score's log-odds: fine where a softmax crowds, near 0 and 1.
LOWEST, HIGHEST, STEP = -8.0, 8.0, 0.5
BINS = round((HIGHEST - LOWEST) / STEP)
# What is judged: M of the confidence network, and the softmax that it has to beat.
TrustScore = Literal["confidence", "softmax"]
SCORES: tuple[TrustScore, ...] = get_args(TrustScore)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Voxels that were predicted as an organ, by bin of their score, right and wrong."""

    right: tuple[int, ...] = (0,) * BINS
    wrong: tuple[int, ...] = (0,) * BINS

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            right=_added(self.right, other.right), wrong=_added(self.wrong, other.wrong)
        )


def _added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
