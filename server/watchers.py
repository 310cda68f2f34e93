"""Who is told how a study goes: the terminal, MLflow, the disk."""

from dataclasses import dataclass, field
from typing import Protocol

from server.record import StudyRecord


class Watcher(Protocol):
    """Who wants to know how the study goes: the terminal, MLflow, the disk."""

    def study_started(self, record: StudyRecord) -> None:
        """All sites have declared themselves."""

    def site_answered(self, number: int, done: int, expected: int) -> None:
        """One more reply of this round has come."""

    def round_finished(self, record: StudyRecord) -> None:
        """`record.rounds[-1]` is complete."""

    def study_finished(self, record: StudyRecord) -> None:
        """Every round is complete, or the study stopped early with what it has."""


@dataclass(kw_only=True)
class Watchers:
    """Several watchers as one."""

    each: list[Watcher] = field(default_factory=list)

    def study_started(self, record: StudyRecord) -> None:
        """Tell all."""
        for watcher in self.each:
            watcher.study_started(record)

    def site_answered(self, number: int, done: int, expected: int) -> None:
        """Tell all."""
        for watcher in self.each:
            watcher.site_answered(number, done, expected)

    def round_finished(self, record: StudyRecord) -> None:
        """Tell all."""
        for watcher in self.each:
            watcher.round_finished(record)

    def study_finished(self, record: StudyRecord) -> None:
        """Tell all."""
        for watcher in self.each:
            watcher.study_finished(record)
