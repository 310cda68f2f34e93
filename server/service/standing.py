"""Where a run stands, by its events alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Events = Sequence[Mapping[str, Any]]
# The last event of a ServerApp that has ended by itself, or been ended on purpose.
ENDS = ("finished", "stopped", "failed", "paused")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A run as its events tell it.

    Attributes:
        rounds: Complete ones.
        end: How the last ServerApp ended; "": it did not say.
        reason: Of the end.
        unsent: Rounds that MLflow lacks.
        in_round: Sites are at work on a round.
        count: Of events.
    """

    rounds: int
    end: str
    reason: str
    unsent: int
    in_round: bool
    count: int

    @property
    def done(self) -> bool:
        """Nothing is left to do."""
        return self.end == "finished" and not self.unsent


def standing(events: Events) -> Standing:
    """Where the run stands after these events."""
    last = events[-1] if events else {}
    end = str(last.get("kind", ""))
    return Standing(
        rounds=max((int(e["round"]) for e in events if e["kind"] == "round"), default=0),
        end=end if end in ENDS else "",
        reason=str(last.get("reason", "")) if end in ENDS else "",
        unsent=int(last.get("unsent", 0)) if end == "finished" else 0,
        in_round=in_round(events),
        count=len(events),
    )


def in_round(events: Events) -> bool:
    """Whether sites have been called for a round that is not complete."""
    for event in reversed(events):
        if event["kind"] == "called":
            return int(event["round"]) > 0
        if event["kind"] in ("round", "started", "online", "resumed", *ENDS):
            return False
    return False
