"""What a study may take: memory and time of the sites' weakest machines."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from protocol.planning.fingerprint import MAX_GIB, Fingerprint
from protocol.planning.rules import MINUTES_A_ROUND, ROUNDS, SPEED_OF_WIDTH
from protocol.wording import figures

_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(GiB|MiB|GB|MB)")
# Three times as long is the longest that a centre waits for a round.
_LONGEST_MINUTES = 10 * 24 * 60
_BYTES = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


class PlanError(ValueError):
    """No study can be planned; says why, and what would help."""


def parse_memory(text: str) -> float:
    """GiB of a text such as 4GiB or 800 MB.

    Raises:
        PlanError: It is none.
    """
    matched = _MEMORY.fullmatch(text.strip())
    if matched is None:
        raise PlanError(f"--memory: must be a number with GiB, MiB, GB or MB, not {text!r}")
    return float(matched[1]) * _BYTES[matched[2]] / 2**30


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a study may take.

    Attributes:
        memory_gib: Of a training step at the weakest site.
        minutes_a_round: Of the slowest site.
        rounds: Of the study.
        rounds_asked: Whether somebody has asked for so many.
    """

    memory_gib: float
    minutes_a_round: float = MINUTES_A_ROUND
    rounds: int = ROUNDS
    rounds_asked: bool = False

    @classmethod
    def given(cls, memory: str, minutes_a_round: float, rounds: int | None) -> "Budget":
        """As a command is given it; no rounds: the usual ones.

        Raises:
            PlanError: It is no budget.
        """
        return cls(
            memory_gib=parse_memory(memory),
            minutes_a_round=minutes_a_round,
            rounds=rounds or ROUNDS,
            rounds_asked=rounds is not None,
        )

    def __post_init__(self) -> None:
        if not (self.memory_gib > 0 and self.minutes_a_round > 0 and self.rounds > 0):
            raise PlanError(
                "budget: memory, minutes a round and rounds must be positive, not"
                f" {self.memory_gib:g} GiB, {self.minutes_a_round:g} and {self.rounds}"
            )
        if self.memory_gib > MAX_GIB:
            raise PlanError(
                f"budget: memory must be {MAX_GIB:,.0f} GiB at most, not"
                f" {figures(self.memory_gib)} GiB"
            )
        if self.minutes_a_round > _LONGEST_MINUTES:
            raise PlanError(
                f"budget: minutes a round must be {_LONGEST_MINUTES:,} (ten days) at most, not"
                f" {self.minutes_a_round:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The sites' machines, by their weakest.

    Attributes:
        slowest: The site of it.
        gigamacs_s: Speed there, 10^9 multiply-accumulates a second.
        memory_gib: What a step may take: of the budget, or of a site's device that has less.
        smallest: Whose memory that is; "": the budget's.
        unlabelled: Whether a step has unlabelled patches at any site.
    """

    slowest: str
    gigamacs_s: float
    memory_gib: float
    smallest: str
    unlabelled: bool

    def seconds(self, gigamacs: float, width: int) -> float:
        """Of so much work of a network that has `width` channels at full resolution."""
        return gigamacs / self.gigamacs_s / SPEED_OF_WIDTH.get(width, 1.0)


def machines_of(fingerprints: Mapping[str, Fingerprint], budget: Budget) -> Machines:
    """The slowest and the smallest site.

    Raises:
        PlanError: A site has not said how fast it is.
    """
    unknown = [s for s, f in fingerprints.items() if not f.step_seconds or not f.step_gigamacs]
    if unknown or not fingerprints:
        raise PlanError(
            f"fingerprints: {', '.join(unknown) or 'no site'} does not say how fast it trains;"
            " update the site's software"
        )
    speeds = {s: f.step_gigamacs / f.step_seconds for s, f in fingerprints.items()}
    slowest = min(speeds, key=lambda site: speeds[site])
    memory = {s: f.memory_gib for s, f in fingerprints.items() if f.memory_gib}
    smallest = min(memory, key=lambda site: memory[site], default="")
    least = memory.get(smallest, budget.memory_gib)
    return Machines(
        slowest=slowest,
        gigamacs_s=speeds[slowest],
        memory_gib=min(least, budget.memory_gib),
        smallest=smallest if least < budget.memory_gib else "",
        unlabelled=any(f.unlabelled for f in fingerprints.values()),
    )
