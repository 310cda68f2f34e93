"""What a site's folder holds, as its names tell: the cases, and what is not used and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from client.data.case import Case, Part
from client.data.errors import Problem
from protocol.config.rules import Rule


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why something in a site's folder is not used.

    Attributes:
        case: The case's name; empty where it is about the folder.
        part: What the case would have been for; None where it is about the folder.
        problem: What is wrong, and what to do.
    """

    case: str
    part: Part | None
    problem: Problem


@dataclass(kw_only=True)
class Survey:
    """What a site's folder holds, by names alone; nothing of it is left unsaid.

    Attributes:
        cases: Those that may be used, by part in the order of `Part`, then by name.
        refused: What is not used, and why.
        excluded: Cases that the site's file leaves out.
        passed_over: Entries that are no scan and no label, by folder; "." is the data folder.
    """

    cases: list[Case] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    excluded: list[Case] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unused(self) -> set[str]:
        """Names of cases that are refused or left out."""
        return {refusal.case for refusal in self.refused} | {case.name for case in self.excluded}

    def refuse(
        self, rule: Rule, location: str, message: str, *, case: str = "", part: Part | None = None
    ) -> None:
        """Note what is not used."""
        problem = Problem(rule=rule, location=location, message=message)
        self.refused.append(Refusal(case=case, part=part, problem=problem))
