"""Names of structures: which are an organ, and what to do where one is there twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

from client.data.errors import ScanError

# The organ that a site's name of a structure means; None, where it is none that is looked for.
OrganOf = Callable[[str], str | None]


def any_structure(_: str) -> str | None:
    """An `OrganOf` that looks for every structure, and has no name for any in notes."""
    return "a structure"


def name_of(item: Dataset, keyword: str) -> str:
    """The name of a ROI or segment, without the blanks and zeros that it may be filled up with."""
    value = item.get(keyword)
    # A backslash in it parts values, for who follows the standard; here it is one name.
    name = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")
    return name.strip(" \t\r\n\0")


def drawn_once(
    structures: Iterable[tuple[str, NDArray[np.bool_]]], location: str, *, what: str
) -> dict[str, NDArray[np.bool_]]:
    """Masks by name; of several of one name the only one that is not empty.

    Args:
        structures: Names and masks.
        location: How a message begins.
        what: Words for a name, such as "ROI name".

    Raises:
        ScanError: Two of one name are drawn.
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    twice: set[str] = set()
    for name, mask in structures:
        if name not in masks or not masks[name].any():
            masks[name] = mask
        elif mask.any():
            twice.add(name)
    if twice:
        raise ScanError(
            location,
            f"has {len(twice)} {what}(s) more than once; rename or remove the doubles",
            rule="values",
            detail=", ".join(sorted(twice)),
        )
    return masks
