"""Sums that can be added over cases and sites.  An undefined value is not counted, never NaN."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

# The organ was not found; was found where there is none; lies far from where it is (metrics.py).
FailureKind = Literal["missed", "made_up", "far_off"]
FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
# Of several cases in words: what is beside the organ and touches it is not far off.
_IN_WORDS = {"missed": "missed", "made_up": "made up", "far_off": "misplaced"}


def failure_words(kind: str, dsc: float) -> str:
    """How one case failed: missed, made up, no overlap, or far off."""
    if kind == "far_off":
        return "far off" if dsc else "no overlap"
    return _IN_WORDS[kind]


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
    """One score of one organ over cases."""

    sum: float = 0.0
    sum_of_squares: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "ScoreSum":
        """The sum of the defined values."""
        defined = [value for value in values if value is not None]
        return cls(
            sum=math.fsum(defined),
            sum_of_squares=math.fsum(value * value for value in defined),
            count=len(defined),
        )

    def __add__(self, other: "ScoreSum") -> "ScoreSum":
        return ScoreSum(
            sum=self.sum + other.sum,
            sum_of_squares=self.sum_of_squares + other.sum_of_squares,
            count=self.count + other.count,
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


@dataclass(frozen=True, kw_only=True)
class FailureCount:
    """Failed cases of one organ by kind, of `cases`; of none: nothing is known of failures."""

    cases: int = 0
    missed: int = 0
    made_up: int = 0
    far_off: int = 0

    @classmethod
    def of(cls, kinds: Iterable[str | None]) -> "FailureCount":
        """The kinds of so many cases; None is no failure."""
        known = list(kinds)
        return cls(
            cases=len(known),
            missed=known.count("missed"),
            made_up=known.count("made_up"),
            far_off=known.count("far_off"),
        )

    def __add__(self, other: "FailureCount") -> "FailureCount":
        return FailureCount(
            cases=self.cases + other.cases,
            missed=self.missed + other.missed,
            made_up=self.made_up + other.made_up,
            far_off=self.far_off + other.far_off,
        )

    @property
    def one_empty(self) -> int:
        """Cases in which one mask alone is empty: they have no distances."""
        return self.missed + self.made_up

    @property
    def total(self) -> int:
        """Cases that failed in any way."""
        return self.one_empty + self.far_off

    def __str__(self) -> str:
        """As "2 missed, 1 misplaced"; empty where none failed."""
        numbers = ((getattr(self, kind), _IN_WORDS[kind]) for kind in FAILURE_KINDS)
        return ", ".join(f"{number} {kind}" for number, kind in numbers if number)


class Score(Protocol):
    """One organ's scores in one case, as `metrics.OrganScore` has them."""

    @property
    def dsc(self) -> float:
        """In [0, 1]."""

    @property
    def asd_mm(self) -> float | None:
        """None where either mask is empty."""

    @property
    def hd95_mm(self) -> float | None:
        """None where either mask is empty."""

    @property
    def nsd(self) -> float | None:
        """In [0, 1]; None where it was not measured."""

    @property
    def failure(self) -> str | None:
        """How the case failed, if it did."""


@dataclass(frozen=True, kw_only=True)
class OrganSums:
    """All scores of one organ over cases."""

    dsc: ScoreSum = field(default_factory=ScoreSum)
    asd_mm: ScoreSum = field(default_factory=ScoreSum)
    hd95_mm: ScoreSum = field(default_factory=ScoreSum)
    nsd: ScoreSum = field(default_factory=ScoreSum)
    failures: FailureCount = field(default_factory=FailureCount)

    @classmethod
    def of(cls, scores: Iterable[Score]) -> "OrganSums":
        """Over these cases, with nothing withheld."""
        cases = list(scores)
        return cls(
            dsc=ScoreSum.of(case.dsc for case in cases),
            asd_mm=ScoreSum.of(case.asd_mm for case in cases),
            hd95_mm=ScoreSum.of(case.hd95_mm for case in cases),
            nsd=ScoreSum.of(case.nsd for case in cases),
            failures=FailureCount.of(case.failure for case in cases),
        )

    def __add__(self, other: "OrganSums") -> "OrganSums":
        return OrganSums(
            dsc=self.dsc + other.dsc,
            asd_mm=self.asd_mm + other.asd_mm,
            hd95_mm=self.hd95_mm + other.hd95_mm,
            nsd=self.nsd + other.nsd,
            failures=self.failures + other.failures,
        )
