"""How a study goes, for whoever sits before the terminal: one line a round."""

import time

from rich.console import Console
from rich.status import Status

from protocol.sums import SumCount
from server.record import StudyRecord


class TerminalWatcher:
    """A live line within a round where there is a terminal, a plain line after each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._rounds = 0
        self._status: Status | None = None

    def study_started(self, record: StudyRecord) -> None:
        """Say who takes part."""
        self._started = time.monotonic()
        self._rounds = record.protocol.training.rounds
        parts = [f"{s} {f.labelled}+{f.unlabelled}" for s, f in record.facts.items()]
        self._console.print(
            f"{len(record.facts)} sites (labelled+unlabelled cases): {', '.join(parts)}",
            highlight=False,
        )
        if self._console.is_terminal:
            self._status = self._console.status("round 1")
            self._status.start()

    def site_answered(self, number: int, done: int, expected: int) -> None:
        """Move the live line."""
        if self._status:
            self._status.update(f"round {number}/{self._rounds}  sites {done}/{expected}")

    def round_finished(self, record: StudyRecord) -> None:
        """The round's line: sites, losses, trusted share, validation DSC, time left."""
        finished = record.rounds[-1]
        number = finished.plan.round
        words = [f"round {number:>3}/{self._rounds}", f"sites {len(finished.reports)}"]
        for name in ("dice", "adversarial", "region", "confidence"):
            total = sum(
                (r.losses.get(name, SumCount()) for r in finished.reports.values()), SumCount()
            )
            if total.mean is not None:
                words.append(f"{name} {total.mean:.3f}")
        trusted = sum(
            (t for r in finished.reports.values() for t in r.trusted.values()), SumCount()
        )
        if trusted.mean is not None:
            words.append(f"trusted {trusted.mean:.0%}")
        if finished.validation_dsc is not None:
            words.append(f"validation DSC {finished.validation_dsc:.3f}")
        spent = time.monotonic() - self._started
        words.append(f"left {clock(spent / number * (self._rounds - number))}")
        if finished.left_out:
            words.append(
                "left out: " + ", ".join(f"{s} ({r})" for s, r in finished.left_out.items())
            )
        self._console.print("  ".join(words), highlight=False, soft_wrap=True)

    def study_finished(self, record: StudyRecord) -> None:
        """Take the live line down."""
        if self._status:
            self._status.stop()


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
