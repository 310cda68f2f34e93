"""Sums that can be added over cases and sites.  An undefined value is not counted, never NaN."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SumCount:
    """A sum and how many values are in it."""

    sum: float = 0.0
    count: float = 0.0

    def __add__(self, other: "SumCount") -> "SumCount":
        return SumCount(sum=self.sum + other.sum, count=self.count + other.count)

    @property
    def mean(self) -> float | None:
        """Sum over count; None where nothing was counted."""
        return self.sum / self.count if self.count else None


@dataclass(frozen=True, kw_only=True)
class ScoreSum:
    """One score of one organ over cases; `failures` are cases where one mask only is empty."""

    sum: float = 0.0
    sum_of_squares: float = 0.0
    count: int = 0
    failures: int = 0

    @classmethod
    def of(cls, values: Iterable[float | None], failures: int = 0) -> "ScoreSum":
        """The sum of the defined values."""
        defined = [value for value in values if value is not None]
        return cls(
            sum=math.fsum(defined),
            sum_of_squares=math.fsum(value * value for value in defined),
            count=len(defined),
            failures=failures,
        )

    def __add__(self, other: "ScoreSum") -> "ScoreSum":
        return ScoreSum(
            sum=self.sum + other.sum,
            sum_of_squares=self.sum_of_squares + other.sum_of_squares,
            count=self.count + other.count,
            failures=self.failures + other.failures,
        )

    @property
    def mean(self) -> float | None:
        """None where nothing was counted."""
        return self.sum / self.count if self.count else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1); None for fewer than two values."""
        if self.count < 2:
            return None
        variance = (self.sum_of_squares - self.sum**2 / self.count) / (self.count - 1)
        return math.sqrt(max(0.0, variance))
