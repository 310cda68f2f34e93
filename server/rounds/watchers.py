"""Listeners to a study's progress: the terminal, MLflow, the disk."""

from collections.abc import Sequence

from server.rounds.record import StudyRecord


class Watcher:
    """Listens to a study's events; each overrides what it needs."""

    def sites_online(self, sites: Sequence[str], awaited: int) -> None:
        """These are there, before the study begins; so many are waited for."""

    def site_waits(self, site: str, why: str) -> None:
        """A site does not take part now: a person is waited for there, or it is refused."""

    def study_started(self, record: StudyRecord) -> None:
        """Enough sites have declared themselves; a resumed study holds its earlier rounds."""

    def sites_called(self, round_number: int, kind: str, sites: Sequence[str]) -> None:
        """These sites are asked for a declaration (round 0), an update or scores."""

    def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
        """One more reply of this round has come."""

    def round_finished(self, record: StudyRecord) -> None:
        """`record.rounds[-1]` is complete."""

    def study_finished(self, record: StudyRecord) -> None:
        """Every round is complete, or the study stopped early with what it has."""


class Watchers(Watcher):
    """Several watchers as one, in this order."""

    def __init__(self, each: Sequence[Watcher]) -> None:
        self._each = tuple(each)

    def sites_online(self, sites: Sequence[str], awaited: int) -> None:
        for watcher in self._each:
            watcher.sites_online(sites, awaited)

    def site_waits(self, site: str, why: str) -> None:
        for watcher in self._each:
            watcher.site_waits(site, why)

    def study_started(self, record: StudyRecord) -> None:
        for watcher in self._each:
            watcher.study_started(record)

    def sites_called(self, round_number: int, kind: str, sites: Sequence[str]) -> None:
        for watcher in self._each:
            watcher.sites_called(round_number, kind, sites)

    def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
        for watcher in self._each:
            watcher.site_answered(round_number, site, done, expected)

    def round_finished(self, record: StudyRecord) -> None:
        for watcher in self._each:
            watcher.round_finished(record)

    def study_finished(self, record: StudyRecord) -> None:
        for watcher in self._each:
            watcher.study_finished(record)
