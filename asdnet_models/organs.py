"""The organs of a study: names and the values that they have in label maps."""

import re
from collections.abc import Mapping

MAX_ORGANS = 255  # values of a label map but for the background
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_EXAMPLE = "bladder=1,prostate=2,rectum=3"


def check_organs(organs: Mapping[str, int]) -> dict[str, int]:
    """The organs unchanged, where their names and values are valid.

    Raises:
        ValueError: No organ, a name outside `[a-z][a-z0-9_]{0,63}`, a value outside 1 to 255, or
            one value of two organs; all mistakes at once.
    """
    mistakes: list[str] = []
    first_with: dict[int, str] = {}
    for name, value in organs.items():
        if not _NAME.fullmatch(name):
            mistakes.append(
                f"organ name {name[:80]!r}: must be lower-case letters, digits and underscores,"
                " beginning with a letter, 64 at most"
            )
        if not 1 <= value <= 255:
            mistakes.append(f"organ {name}: value {value} is not from 1 to 255; 0 is background")
        other = first_with.setdefault(value, name)
        if other != name:
            mistakes.append(f"organs {other} and {name}: both have the value {value}")
    if not organs:
        mistakes.append(f"organs: none is given; give at least one, such as {_EXAMPLE}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return dict(organs)


def parse_organs(text: str) -> dict[str, int]:
    """Organs from the form `bladder=1,prostate=2,rectum=3`.

    Raises:
        ValueError: An entry is not `name=value`, a name is given twice, or as `check_organs`.
    """
    organs: dict[str, int] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (part.strip() for part in entry.partition("="))
        if not re.fullmatch(r"[0-9]+", value):
            raise ValueError(f"organ {entry!r}: is not name=value; write them as {_EXAMPLE}")
        if name in organs:
            raise ValueError(f"organ {name}: is given twice; give each organ once")
        organs[name] = int(value)
    return check_organs(organs)
