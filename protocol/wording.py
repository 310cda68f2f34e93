"""Words that messages share."""

import math
from collections.abc import Iterable, Sequence

_HISSING = ("s", "x", "ch", "sh")


def figures(number: float, digits: int = 3) -> str:
    """A number as a reader writes it: 1,500 or 2.5; under a hundred to so many digits."""
    exact = isinstance(number, int) or abs(number) >= 99.5
    return f"{number:,.0f}" if exact else f"{number:.{digits}g}"


def counted(number: float, noun: str) -> str:
    """A number with its noun: 1 round, 20 rounds, 2.5 minutes, 1,500 patches."""
    shown = figures(number)
    return f"{shown} {noun}" + ("" if shown == "1" else "es" if noun.endswith(_HISSING) else "s")


def times(values: Iterable[str]) -> str:
    """Edges of a box, as 96 x 96 x 10."""
    return " x ".join(values)


def listed_names(names: Sequence[str]) -> str:
    """As "A, B and C"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def rounded_up(value: float) -> float:
    """A positive number to two digits, so that what is said to be needed is enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
