"""Sites that answer no more: one that misses two deadlines in a row is not called until it asks.

Else it would hold up every round to its deadline.  A site asks again by being started anew, or by
coming back after it was offline.
"""

import logging
from collections.abc import Collection

from server.rounds.record import StudyRecord
from server.rounds.roster import Presence, Roster
from server.rounds.watchers import Watcher

log = logging.getLogger(__name__)

_DEADLINES = 2
NOT_CALLED = "not called: it missed two deadlines in a row"
IS_BACK = "is back, and is called again"
_SEEN_OFFLINE = ""


class Silence:
    """Who is not called; kept in the record, so that a resumed study goes on with it."""

    def __init__(self, record: StudyRecord, roster: Roster, watcher: Watcher) -> None:
        self._record, self._roster, self._watcher = record, roster, watcher

    def note(self, called: Collection[str], late: Collection[str]) -> None:
        """Of the sites that were called, these had not answered by the deadline."""
        missed, silent = self._record.missed, self._record.silent
        for site in sorted(called):
            missed[site] = missed.get(site, 0) + 1 if site in late else 0
            if missed[site] >= _DEADLINES:
                there = self._online().get(site)
                silent[site] = there.since if there else _SEEN_OFFLINE
                log.warning("%s is %s; start it anew", site, NOT_CALLED)
                self._watcher.site_waits(site, f"{NOT_CALLED}; start it anew")
            if not missed[site]:
                del missed[site]

    def sites(self) -> set[str]:
        """The sites that are not called now; those that have asked again are called again."""
        silent = self._record.silent
        online = self._online() if silent else {}
        for site, since in list(silent.items()):
            if site not in online:
                silent[site] = _SEEN_OFFLINE
            elif online[site].since != since:
                del silent[site]
                self._record.missed.pop(site, None)
                log.info("%s is back, and is called again", site)
                self._watcher.site_waits(site, IS_BACK)
        return set(silent)

    def _online(self) -> dict[str, Presence]:
        """By site; one that has not declared itself yet, by the name of its key."""
        return {self._roster.name_of(n): there for n, there in self._roster.online().items()}
