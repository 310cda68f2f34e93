"""Errors of a site's files and cases: location, rule, value and hint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from protocol.config.rules import Rule
from protocol.escaping import printable

# Of a link that leads nowhere, or round.
NOT_THERE = "is a link to what is not there; copy the scan itself, or mend the link"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a file or case cannot be used, in parts, so that one may be left away.

    Attributes:
        rule: The rule that it breaks.
        location: Where; holds names of the site's files.
        message: Rule, value and hint, without a name of the site's; may begin with a colon.
        detail: Names that help the reader at the site; they may identify a patient.
    """

    rule: Rule
    location: str
    message: str
    detail: str = ""

    def __str__(self) -> str:
        """The whole line, for the site's own screen; names are shown as `printable` has it."""
        joint = "" if self.message.startswith(":") else " "
        detail = f" ({printable(self.detail)})" if self.detail else ""
        return f"{printable(self.location)}{joint}{self.message}{detail}"

    @property
    def anonymous(self) -> str:
        """The line without any name of the site's."""
        return self.message.lstrip(": ")


class ScanError(ValueError):
    """A scan or label map that cannot be used, with location, rule, value and hint.

    Attributes:
        problem: The same in parts.
    """

    def __init__(self, location: str, message: str, *, rule: Rule, detail: str = "") -> None:
        self.problem = Problem(rule=rule, location=location, message=message, detail=detail)
        super().__init__(str(self.problem))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with every field."""
        return partial(ScanError, **vars(self.problem)), ()


def not_written(location: str, error: Exception) -> ScanError:
    """Of a file that could not be written: why, as the system says it, without a name."""
    reason = getattr(error, "strerror", None)
    why = f" ({reason.lower()})" if reason else ""
    return ScanError(
        location, f"cannot be written{why}; check its folder and the disk", rule="closed"
    )
