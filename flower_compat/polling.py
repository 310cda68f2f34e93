"""Shorter polling pauses of Flower's own loops.

Flower 1.41 has no setting for it: a SuperNode asks for a message every 3 s and looks for its site's
answer every 0.5 s; pulls of an object that is not there yet are repeated after 1 s, 2 s, 4 s.
Where a round's training is short, these pauses are most of the round.  Here they are a share of
what was waited for so far: short after a message, as long as Flower's own where nothing comes.
"""

import time

from flwr.supercore.inflatable.inflatable_utils import pull_objects

# A wait is lengthened by no more than this share of itself.
SHARE = 0.1
SHORTEST_S = 0.05
# For objects that are on their way.  Flower ends a pull after 500 tries, up to 10 s apart; here
# after the same 7,200 s, however many tries these are.
# A SuperLink of ours holds its answer back for a while where an object is not there yet.
_OBJECTS = {"initial_backoff": SHORTEST_S, "backoff_cap": 0.4, "max_tries_per_object": None}


def pause_s(waited_s: float, longest_s: float) -> float:
    """How long to wait before the next look, after so long a wait."""
    return min(longest_s, max(SHORTEST_S, SHARE * waited_s))


def pull_objects_soon() -> None:
    """In this process, Flower looks for objects that are on their way at short intervals."""
    defaults = pull_objects.__kwdefaults__ or {}
    missing = _OBJECTS.keys() - defaults.keys()
    if missing:
        raise RuntimeError(f"this version of Flower pulls without {', '.join(sorted(missing))}")
    defaults.update(_OBJECTS)


class SuperNodePolling:
    """Stands where a SuperNode's loop has the module `time`, of which it uses `sleep` alone.

    It sleeps shortly (0.5 s) while its site answers a message, and long (3 s) while there is none.
    What a look took is part of the pause: a SuperLink of ours holds back that there is nothing.
    """

    def __init__(self) -> None:
        self._since = self._woke = time.monotonic()
        self._answering = False

    def sleep(self, seconds: float) -> None:
        """Sleep as long as the wait so far allows, and no longer than asked."""
        answering = seconds < 1
        now = time.monotonic()
        if answering != self._answering:
            self._answering, self._since = answering, now
        pause = pause_s(now - self._since, seconds)
        time.sleep(max(SHORTEST_S, pause - (now - self._woke)))
        self._woke = time.monotonic()
