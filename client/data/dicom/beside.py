"""Files beside the slices of a case: which of them may be a slice, by its name alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from client.data.folder.unread import is_beside_scans

# What operating systems, viewers and exports put beside slices, and is none.
_CLUTTER = re.compile(
    r"readme.*|(lockfile|autorun)(\..*)?"
    r"|.*\.(exe|dll|inf|ico|css|js|jar|bat|cmd|chm|cfg|so|dylib|jsonl|jfif|webp|ttf|woff2?|url|lnk)",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"\d+(\.\d+)*")  # UIDs differ in how many numbers they have
_HEX = re.compile(r"[0-9a-f]{4,}([-_.]?[0-9a-f]+)*")
_RANDOM = 0.5  # of the names with a pattern of their own: no counting is behind them


def is_clutter(file: Path) -> bool:
    """Whether by its name a file is plainly no image."""
    return is_beside_scans(file.name) or bool(_CLUTTER.fullmatch(file.name))


class SliceNames:
    """How the slices of a case are named."""

    def __init__(self, slices: Iterable[Path]) -> None:
        names = [file.name for file in slices]
        self._suffixes = {_suffix(name) for name in names} - {""}
        bare = [name for name in names if not _suffix(name)]
        self._patterns = {_pattern(name) for name in bare}
        random = len(bare) > 2 and len(self._patterns) > _RANDOM * len(bare)
        self._lengths = {len(name) for name in bare} if random else set()

    def fit(self, file: Path) -> bool:
        """Whether a file has a name as the slices have.

        It has a suffix of theirs, or none where they have none and the pattern of one of theirs,
        the numbers left aside: `IM0007` and `IM0012`, two UIDs. Of names without a pattern, a
        digit and the length tell.
        """
        suffix = _suffix(file.name)
        if suffix:
            return suffix in self._suffixes
        drawn = len(file.name) in self._lengths and any(map(str.isdigit, file.name))
        return drawn or _pattern(file.name) in self._patterns


def _suffix(name: str) -> str:
    """In lower case; names that end in a number or a UID have none."""
    suffix = Path(name).suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _pattern(name: str) -> str:
    """A name without its numbers."""
    lower = name.lower()
    return "#" if _HEX.fullmatch(lower) else _NUMBER.sub("#", lower)
