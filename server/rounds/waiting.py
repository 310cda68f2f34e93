"""Sites at which a person, or an hour of the day, is waited for."""

from collections.abc import Iterable, Mapping

from protocol.wire.error_words import NOT_APPROVED, OUTSIDE_HOURS, STUDY_NOT_APPROVED
from server.rounds.roster import Roster
from server.rounds.watchers import Watcher

# Such a site is asked again, ever less often.
ASK_AGAIN_S, ASK_AGAIN_AT_MOST_S = 5.0, 30.0
WAITS = {
    STUDY_NOT_APPROVED: "the study awaits approval at the site",
    NOT_APPROVED: "the code awaits approval at the site",
    OUTSIDE_HOURS: "the site works at other hours",
}


class WaitingSites:
    """When each may be asked again; why it does not take part is told once.

    Args:
        roster: Who is who.
        watcher: Is told.
    """

    def __init__(self, roster: Roster, watcher: Watcher) -> None:
        self._roster = roster
        self._watcher = watcher
        self._not_before: dict[int, float] = {}
        self._told: dict[str, str] = {}

    def may_be_asked(self, node: int, now: float) -> bool:
        return self._not_before.get(node, 0.0) <= now

    def note(self, failures: Mapping[str, str], nodes: Iterable[int], again: float) -> set[str]:
        """The sites among these that wait for a person or an hour; every site is told of once.

        Args:
            failures: Why sites did not declare themselves, by name.
            nodes: That have not declared themselves.
            again: Those that wait are not to be asked before, monotonic time, s.
        """
        waiting = {site for site, why in failures.items() if why in WAITS}
        for site, why in sorted(failures.items()):
            if self._told.get(site) != why:
                self._told[site] = why
                self._watcher.site_waits(site, WAITS.get(why, why))
        named = {node: self._roster.name_of(node) for node in nodes} if waiting else {}
        self._not_before |= {node: again for node, site in named.items() if site in waiting}
        return waiting
