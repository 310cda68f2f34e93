"""What a site says of its training data so that a study can be planned: no value of a single case.

Values of cases are sorted, cut into one, three or five equal parts of at least `min_cases_reported`
cases, and the mean of each part leaves.  An order statistic, as a median or a tenth percentile is,
would be one patient's value, or the mean of two.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from asdnet_models.fields import Frozen
from asdnet_models.organs import MAX_ORGANS

AXES = ("x", "y", "z")  # to the left, to the back, to the head (LPS)
LEVELS = ("low", "median", "high")
# Percentiles of one scan's body, of which LEVELS are the names.
INTENSITY_PERCENTILES = (1.0, 50.0, 99.5)
PARTS = (5, 3, 1)
MAX_CASES = 100_000
# What no scan of a patient has.
MAX_SPACING_MM, MAX_VOXELS, MAX_MM, MAX_ML, MAX_INTENSITY = 100.0, 1e5, 3000.0, 2e5, 1e9
MAX_STEP_S, MAX_GIGAMACS, MAX_GIB = 3600.0, 1e6, 1e5

Cases = Annotated[int, Field(ge=0, le=MAX_CASES)]


class Spread(Frozen):
    """How a quantity spreads over cases: the means of equal parts of the sorted values.

    With five parts the means stand for the 10th, 30th, 50th, 70th and 90th percentile.
    """

    cases: Cases = Field(0, description="that the values are of; 0: too few for any number")
    means: tuple[float, ...] = Field((), max_length=PARTS[0], description="of the parts, ascending")

    @model_validator(mode="after")
    def _parts_are_possible(self) -> Self:
        count = len(self.means)
        if count not in (0, *PARTS) or self.cases < count or (self.cases > 0) != (count > 0):
            raise ValueError(f"{count} parts of {self.cases} cases cannot be")
        if list(self.means) != sorted(self.means):
            raise ValueError("the means of the parts must ascend")
        return self

    @property
    def smallest_part(self) -> int:
        """Cases behind the mean that stands on the fewest."""
        return self.cases // len(self.means) if self.means else 0


class Share(Frozen):
    """In how many of so many cases something holds; a group of too few counts as none of it."""

    cases: Cases = 0
    holding: Cases = 0

    @model_validator(mode="after")
    def _part_of_the_whole(self) -> Self:
        if self.holding > self.cases:
            raise ValueError(f"{self.holding} of {self.cases} cases cannot be")
        return self


class OrganFingerprint(Frozen):
    """One organ over the labelled cases in which it is drawn and present."""

    volume_ml: Spread = Spread()
    extent_mm: tuple[Spread, Spread, Spread] = (Spread(), Spread(), Spread())
    one_component: Share = Field(Share(), description="cases in which it is in one piece")


class Fingerprint(Frozen):
    """A site's training data and machine in numbers.  Axes are x, y, z of the patient (LPS)."""

    labelled: Cases = 0
    unlabelled: Cases = 0
    spacing_mm: tuple[Spread, Spread, Spread] = (Spread(), Spread(), Spread())
    size_voxels: tuple[Spread, Spread, Spread] = (Spread(), Spread(), Spread())
    extent_mm: tuple[Spread, Spread, Spread] = (Spread(), Spread(), Spread())
    intensity: tuple[Spread, Spread, Spread] = Field(
        (Spread(), Spread(), Spread()), description="1st, 50th and 99.5th percentile of the body"
    )
    wider_than_body: Share = Field(
        Share(), description="scans of which much is air around the body"
    )
    organs: dict[str, OrganFingerprint] = Field({}, max_length=MAX_ORGANS)
    step_seconds: float = Field(0.0, ge=0, le=MAX_STEP_S, description="of the reference step")
    step_gigamacs: float = Field(
        0.0, ge=0, le=MAX_GIGAMACS, description="multiplications of the reference step, 10^9"
    )
    memory_gib: float = Field(0.0, ge=0, le=MAX_GIB, description="of the device; 0: not known")

    def spreads(self) -> Iterator[tuple[str, Spread, float]]:
        """Name, spread and largest possible value of everything that spreads over cases."""
        for axis, *of_axis in zip(
            AXES, self.spacing_mm, self.size_voxels, self.extent_mm, strict=True
        ):
            limits = (MAX_SPACING_MM, MAX_VOXELS, MAX_MM)
            names = ("spacing_mm", "size_voxels", "extent_mm")
            for name, spread, most in zip(names, of_axis, limits, strict=True):
                yield f"{name}/{axis}", spread, most
        for level, spread in zip(LEVELS, self.intensity, strict=True):
            yield f"intensity/{level}", spread, MAX_INTENSITY
        for organ, found in self.organs.items():
            yield f"organ/{organ}/volume_ml", found.volume_ml, MAX_ML
            for axis, spread in zip(AXES, found.extent_mm, strict=True):
                yield f"organ/{organ}/extent_mm/{axis}", spread, MAX_MM

    def shares(self) -> Iterator[tuple[str, Share]]:
        """Name and value of everything that is a share of cases."""
        yield "wider_than_body", self.wider_than_body
        for organ, found in self.organs.items():
            yield f"organ/{organ}/one_component", found.one_component


def spread_names(name: str) -> tuple[str, ...]:
    """The numbers of a spread: cases, parts, and the mean of each."""
    return (f"{name}/cases", f"{name}/parts", *(f"{name}/{i}" for i in range(PARTS[0])))


def share_names(name: str) -> tuple[str, str]:
    """The numbers of a share."""
    return f"{name}/cases", f"{name}/holding"


def no_fingerprint(organs: Iterable[str]) -> Fingerprint:
    """Of a site that says nothing: it has the names of all that could be said."""
    return Fingerprint(organs=dict.fromkeys(organs, OrganFingerprint()))


def spread_of(values: Iterable[float], fewest: int) -> Spread:
    """The values as they may leave.

    Args:
        values: One a case.
        fewest: Cases that must stand behind each number.
    """
    known = np.sort(np.fromiter(values, np.float64))
    parts = next((parts for parts in PARTS if len(known) // parts >= fewest), 0)
    if not parts:
        return Spread()
    means = [float(part.mean()) for part in np.array_split(known, parts)]
    # Rounding may not disturb the order.
    return Spread(cases=len(known), means=tuple(np.maximum.accumulate(means).tolist()))


def share_of(holds: Sequence[bool], fewest: int) -> Share:
    """The share as it may leave: a few that it does not hold for are told as `fewest`.

    So a share of all says that it holds for every case, and no number is of 1 to `fewest` - 1.
    """
    cases, holding = len(holds), sum(holds)
    if cases < fewest:
        return Share()
    if 0 < cases - holding < fewest:
        holding = cases - fewest
    return Share(cases=cases, holding=holding if holding >= fewest else 0)


def pooled(spreads: Iterable[Spread], level: float) -> float | None:
    """A quantile over the cases of several sites; None of none.

    Each part stands for its cases by their mean; between parts it is interpolated.

    Args:
        spreads: One a site.
        level: In [0, 1].
    """
    parts = sorted(
        (mean, spread.cases / len(spread.means)) for spread in spreads for mean in spread.means
    )
    if not parts:
        return None
    means, weights = np.array(parts).T
    centres = np.cumsum(weights) - weights / 2
    return float(np.interp(level * weights.sum(), centres, means))


def quantile_over(
    fingerprints: Mapping[str, Fingerprint], field: str, level: float
) -> tuple[float, float, float] | None:
    """A quantile of `spacing_mm`, `size_voxels` or `extent_mm` by axis, over all sites' cases."""
    found = [
        pooled((getattr(f, field)[axis] for f in fingerprints.values()), level) for axis in range(3)
    ]
    x, y, z = found
    return None if x is None or y is None or z is None else (x, y, z)
