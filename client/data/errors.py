"""Why a site's file or case cannot be used: location, rule, value and hint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from protocol.config.rules import Rule


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a file or case cannot be used, in parts, so that one may be left away.

    Attributes:
        rule: The rule that it breaks.
        place: Where; holds names of the site's files.
        said: Rule, value and remedy, without a name of the site's; may begin with a colon.
        detail: Names that help the reader at the site; they may identify a patient.
    """

    rule: Rule
    place: str
    said: str
    detail: str = ""

    def __str__(self) -> str:
        """The whole line, for the site's own screen."""
        joint = "" if self.said.startswith(":") else " "
        return f"{self.place}{joint}{self.said}{f' ({self.detail})' if self.detail else ''}"

    @property
    def anonymous(self) -> str:
        """The line without any name of the site's."""
        return self.said.lstrip(": ")


class ScanError(ValueError):
    """A scan or label map that cannot be used; says place, rule, value and remedy.

    Attributes:
        problem: The same in parts.
    """

    def __init__(self, place: str, said: str, *, rule: Rule, detail: str = "") -> None:
        self.problem = Problem(rule=rule, place=place, said=said, detail=detail)
        super().__init__(str(self.problem))

    def __reduce__(self) -> tuple[Any, ...]:
        """Crosses a process border whole."""
        return partial(ScanError, **vars(self.problem)), ()
