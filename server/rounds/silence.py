"""Sites that answer no more: one that misses two deadlines in a row is not called for a while.

Else it would hold up every round to its deadline.  A site asks again by being started anew, or by
coming back after it was offline; one that does neither, because nobody watches it, is called again
after 8 rounds, then 16, 32, and from then on every 64.
"""

import logging
from collections.abc import Collection

from server.rounds.record import StudyRecord
from server.rounds.roster import Presence, Roster
from server.rounds.watchers import Watcher

log = logging.getLogger(__name__)

_DEADLINES = 2
_FIRST_REST, _LONGEST_REST = 8, 64  # rounds
NOT_CALLED = "not called: it missed two deadlines in a row"
IS_BACK = "is back, and is called again"
HAS_RESTED = "has rested, and is called again"
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
                rest = min(_LONGEST_REST, _FIRST_REST * 2 ** (missed[site] - _DEADLINES))
                self._record.again[site] = len(self._record.rounds) + 1 + rest
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
                self._record.missed.pop(site, None)
                self._call(site, IS_BACK)
            elif self._record.again.get(site, 0) <= len(self._record.rounds):
                # What it has missed is not forgotten: one more deadline, and it rests longer.
                self._call(site, HAS_RESTED)
        return set(silent)

    def _call(self, site: str, why: str) -> None:
        del self._record.silent[site]
        self._record.again.pop(site, None)
        log.info("%s %s", site, why)
        self._watcher.site_waits(site, why)

    def _online(self) -> dict[str, Presence]:
        """By site; one that has not declared itself yet, by the name of its key."""
        return {self._roster.name_of(n): there for n, there in self._roster.online().items()}
