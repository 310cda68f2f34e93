"""How long sites take for an answer, and so how long one that is missing is waited for."""

from collections import deque
from collections.abc import Collection

# Of a site's answers of a kind, the slowest of so many counts.
_REMEMBERED = 5
# A site that has always been fast may have a slow hour.
LEAST_S = 300.0


class Pace:
    """What the sites of one study have taken since its ServerApp was started."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], deque[float]] = {}

    def note(self, site: str, kind: str, seconds: float) -> None:
        """An answer of this kind, counted from when it was asked for."""
        self._taken.setdefault((site, kind), deque(maxlen=_REMEMBERED)).append(seconds)

    def patience_s(self, sites: Collection[str], kind: str, factor: float, most: float) -> float:
        """How long to wait for these sites once enough others have answered.

        Args:
            sites: That have not answered.
            kind: Of the message.
            factor: So many times the slowest of them, by its last answers; 0: always `most`.
            most: Never longer, and so long where one has not answered such a message before.

        Returns:
            Seconds since they were asked.
        """
        taken = [self._taken.get((site, kind)) for site in sites]
        if not factor or not all(taken):
            return most
        slowest = max((max(each) for each in taken if each), default=most)
        return min(most, max(LEAST_S, factor * slowest))
