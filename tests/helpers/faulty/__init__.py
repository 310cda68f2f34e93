"""Inputs that are told, or used rightly, each with what a second reader says of it.

A module of this package holds those of one part of the reader as `INPUTS`, by names that are unique
over all modules.  `all_inputs` collects them, `tests/unit/client/commands/test_faulty_inputs.py`
gives all of them to the data check at once.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bad_cases import Place


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """One input, and what the data check must say of it.

    Attributes:
        kind: Of the list in docs/results/faulty-inputs.md: "1", "1b", "7b", ...
        what: Words for the table.
        make: Makes the case `place.name`, image and, where wanted, label, from nothing.
        truth: What a second reader (nibabel, pydicom, highdicom, plain bytes) computes of the file,
            as words: "nibabel: sform 1.5 x 1.5 x 8 mm, pixdim 1 x 1 x 1 mm".
        rule: Of the refusal; "" where the case is used.
        said: Words of the case's line, of the refusal or of a note; "" where nothing needs saying.
        volumes_ml: Where it is used, the right volumes by organ, within 1 %.
        site: What the site's file says besides.  What is said of this case alone, such as
            {"undrawn": {name: [...]}}, goes with the others; anything else has a folder of its own.
    """

    kind: str
    what: str
    make: Callable[[Place], None]
    truth: Callable[[Place], str]
    rule: str
    said: str
    volumes_ml: Mapping[str, float] | None = None
    site: Mapping[str, Any] = field(default_factory=dict)


def all_inputs() -> dict[str, Faulty]:
    """Those of every module of this package, by name.

    Raises:
        ValueError: Two have one name.
    """
    found: dict[str, Faulty] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        inputs = importlib.import_module(f"{__name__}.{module.name}").INPUTS
        if doubles := found.keys() & inputs.keys():
            raise ValueError(f"{module.name}: inputs of a name that is taken: {sorted(doubles)}")
        found |= inputs
    return found
