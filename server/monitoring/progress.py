"""Progress of a study in the terminal: one line a round."""

import logging
from collections.abc import Sequence

from rich.console import Console
from rich.status import Status
from rich.text import Text

from asdnet_models.sums import SumCount
from protocol.wording import counted
from reporting.logs import say_about
from server.rounds.clipping import shortened
from server.rounds.estimates import estimates_of, mean_words
from server.rounds.harm import comparison_of
from server.rounds.membership import listed
from server.rounds.record import StudyRecord, worst_site
from server.rounds.watchers import Watcher

log = logging.getLogger(__name__)


class TerminalWatcher(Watcher):
    """A live line within a round where there is a terminal, a plain line after each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rounds = 0
        self._status: Status | None = None

    def study_started(self, record: StudyRecord) -> None:
        self._rounds = record.protocol.training.rounds
        self._console.print(Text(sites_line(record)))
        if self._console.is_terminal:
            self._status = self._console.status("round 1")
            self._status.start()

    def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
        if self._status:
            self._status.update(f"round {round_number}/{self._rounds}  sites {done}/{expected}")

    def round_finished(self, record: StudyRecord) -> None:
        self._console.print(Text(round_line(record)), soft_wrap=True)

    def study_finished(self, record: StudyRecord) -> None:
        if self._status:
            self._status.stop()


class LogWriter(Watcher):
    """A line of the log after each round; every line of this process says run and round."""

    def __init__(self, run: str) -> None:
        self._run = run
        say_about(run=run)

    def study_started(self, record: StudyRecord) -> None:
        log.info("%s", sites_line(record))

    def sites_called(self, round_number: int, kind: str, sites: Sequence[str]) -> None:
        say_about(run=self._run, **({"round": round_number} if round_number else {}))

    def round_finished(self, record: StudyRecord) -> None:
        log.info("%s", round_line(record))

    def study_finished(self, record: StudyRecord) -> None:
        log.info("%d of %d rounds", len(record.rounds), record.protocol.training.rounds)


def sites_line(record: StudyRecord) -> str:
    """Who takes part, with which cases."""
    parts = [f"{s} {f.labelled}+{f.unlabelled}" for s, f in record.facts.items()]
    sites = counted(len(record.facts), "site")
    return f"{sites} (labelled+unlabelled cases): {', '.join(parts)}"


def round_line(record: StudyRecord) -> str:
    """The last round: sites, losses, trusted share, validation DSC, time left, what went wrong."""
    finished = record.rounds[-1]
    round_number, rounds = finished.plan.round, record.protocol.training.rounds
    words = [f"round {round_number:>3}/{rounds}", f"sites {len(finished.reports)}"]
    for name in ("dice", "adversarial", "region", "confidence"):
        total = sum((r.losses.get(name, SumCount()) for r in finished.reports.values()), SumCount())
        if total.mean is not None:
            words.append(f"{name} {total.mean:.3f}")
    trusted = sum((r.trusted_organs for r in finished.reports.values()), SumCount())
    if trusted.mean is not None:
        words.append(f"trusted {trusted.mean:.0%}")
    if finished.validation_dsc is not None:
        worst = worst_site(finished.evaluation or {})
        at_worst = f" (lowest {worst[1]:.3f}, {worst[0]})" if worst else ""
        words.append(f"validation DSC {finished.validation_dsc:.3f}{at_worst}")
    if estimated := mean_words(estimates_of(finished.evaluation or {})):
        words.append(f"estimated DSC {estimated}")
    if (compared := comparison_of(record)) is not None and compared.harmful:
        words.append(f"unlabelled scans harm: validation DSC {compared}")
    spent = sum(done.seconds for done in record.rounds)
    words.append(f"left {clock(spent / round_number * (rounds - round_number))}")
    if finished.left_out:
        words.append("left out: " + ", ".join(f"{s} ({r})" for s, r in finished.left_out.items()))
    if finished.clipped:
        words.append("shortened: " + listed(shortened(finished.clipped)))
    return "  ".join(words)


def clock(seconds: float) -> str:
    """Minutes and seconds as 3:07; from an hour on 2:03:07."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
