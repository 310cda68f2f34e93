"""Asks the SuperLink for its nodes, again and again, and notes since when it does not answer."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from flower_compat.control import Node, SuperLinkRefused, SuperLinkUnreachable, connect
from server.admin.centre import Centre, CentreError
from server.admin.owner import read_owner_token
from server.service.overview import Nodes

# A site gives a sign of life every 30 s, and each question is a line in the SuperLink's log.
_ASK_S = 10.0
# A question may hang for 30 s.
_OLD = timedelta(seconds=60)
_ERRORS = (SuperLinkUnreachable, SuperLinkRefused, CentreError, OSError)


def ask_nodes(centre: Centre) -> list[Node]:
    """All nodes that this centre's SuperLink has ever known.

    Raises:
        CentreError: If the owner's token cannot be read.
        SuperLinkUnreachable: If it does not answer.
        SuperLinkRefused: If it refuses the question.
    """
    with connect(centre.port, centre.ca_file, read_owner_token(centre)) as control:
        return control.all_nodes()


class SuperLinkWatch:
    """The SuperLink's last answer, and how old it is.

    Args:
        ask: Asks it once.
        clock: The time.
    """

    def __init__(
        self,
        ask: Callable[[], Sequence[Node]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ask, self._clock = ask, clock
        self._answered = clock()
        self._asked = False
        self._nodes: Sequence[Node] | None = None
        self._silence = ""
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Ask in a thread of its own."""
        threading.Thread(target=self._ask_on, name="superlink-watch", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        """Ask once."""
        try:
            nodes = self._ask()
        except _ERRORS as error:
            with self._lock:
                self._nodes, self._silence = None, str(error) or type(error).__name__
                self._asked = True
        else:
            with self._lock:
                self._nodes, self._silence, self._answered = nodes, "", self._clock()
                self._asked = True

    def nodes(self) -> Nodes:
        """The answer; one that is too old is none."""
        with self._lock:
            if self._nodes is not None and self._clock() - self._answered <= _OLD:
                return Nodes(nodes=self._nodes)
            if not self._asked and self._clock() - self._answered <= _OLD:
                return Nodes()
            silence = self._silence or "it has taken a question and not answered"
            return Nodes(silent_since=self._answered, silence=silence)

    def _ask_on(self) -> None:
        while True:
            self.look()
            if self._stop.wait(_ASK_S):
                return
