"""Keeps the studies of a centre going: starts again what has died, gives turns by priority.

A ServerApp is the SuperLink's child and goes on without this process.  What is decided follows
from the runs' folders, so a keeper that was killed is replaced by the next one; its own memory is
only how long to wait before a further attempt.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
from protocol.escaping import printable_lines
from protocol.keys import KeyFileError
from server.admin.centre import CentreError
from server.monitoring.follow import read_events
from server.monitoring.run_folder import RunError, RunFolder
from server.monitoring.wanted import Wanted, change_wanted, read_wanted
from server.service.standing import Standing, standing
from server.service.starting import NeedsPersonError

log = logging.getLogger(__name__)

NOT_SIGNED = "its study can no longer be verified here; the service's log says why"
# The SuperLink takes some seconds to start a ServerApp, and that some to import its libraries.
START_PATIENCE_S = 180.0
# Beyond what a round may take, for averaging and saving.
STUCK_S = 600.0
# Between attempts that brought no round: doubled each time, from the first to the last.
DIED_PAUSE_S, STOPPED_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0, 900.0


class Starter(Protocol):
    """Starts and ends ServerApps."""

    def start(self, folder: RunFolder) -> None:
        """See `start_again`."""

    def end(self, folder: RunFolder, kind: str, reason: str) -> bool:
        """See `end_run`."""


@dataclass(kw_only=True)
class _Attempts:
    """Of one run since its last complete round."""

    failed: int = 0
    not_before: float = 0.0
    begun_at: float | None = None  # a ServerApp was asked for and has not ended
    events: int = 0  # at that time
    was_at_work: bool = False
    rounds: int = 0
    died: str = ""  # what happens next, while its ServerApp has died and no round has come since
    needs_you: str = ""  # what a person has to do before it can go on
    moved_at: float = 0.0  # when an event came last
    seen_events: int = -1
    said_at: datetime | None = None  # when a person last said how the run is wanted


@dataclass(kw_only=True)
class _Run:
    folder: RunFolder
    wanted: Wanted
    now: Standing
    at_work: bool
    attempts: _Attempts

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def occupied(self) -> bool:
        """A ServerApp works on it, or has been asked for."""
        return self.at_work or self.attempts.begun_at is not None


@dataclass(kw_only=True)
class Keeper:
    """Looks at all runs of a centre, again and again.

    Attributes:
        runs: The runs, looked up at each look.
        starter: Starts and ends ServerApps.
        at_once: So many studies work at a time.
    """

    runs: Callable[[], list[RunFolder]]
    starter: Starter
    at_once: int = 1
    _attempts: dict[str, _Attempts] = field(default_factory=dict)

    def look(self, now: float) -> None:
        """One look: note what has ended, give the turns, start and end what they ask for.

        Args:
            now: Seconds of a clock that does not jump.
        """
        runs = [run for folder in self.runs() if (run := self._seen(folder, now)) is not None]
        going = [r for r in runs if r.wanted.state == "running" and not r.now.done]
        ready = [r for r in going if r.occupied or r.attempts.not_before <= now]
        turn = sorted(ready, key=lambda r: r.wanted.order)[: self.at_once]
        for run in runs:
            if run.at_work and run not in turn:
                self._rest(run)
        free = self.at_once - sum(run.occupied for run in runs)
        for run in turn:
            if run.occupied:
                self._turn(run, True)
            elif free > 0:
                free -= 1
                self._start(run, now)

    @property
    def died(self) -> dict[str, str]:
        """What happens next, by run whose ServerApp has died and that has not got on since."""
        return {run: a.died for run, a in self._attempts.items() if a.died}

    @property
    def needs_you(self) -> dict[str, str]:
        """What a person has to do, by run that cannot go on."""
        return {run: a.needs_you for run, a in self._attempts.items() if a.needs_you}

    def _seen(self, folder: RunFolder, now: float) -> _Run | None:
        """The run as it is; None: it is not kept, or cannot be read."""
        try:
            wanted = read_wanted(folder.path)
            if wanted is None:
                return None
            at_work, events = folder.at_work(), read_events(folder.events)
        except (RunError, OSError) as error:
            self._cannot_be_read(folder.path.name, error)
            return None
        attempts = self._attempts.setdefault(folder.path.name, _Attempts(events=len(events)))
        run = _Run(
            folder=folder,
            wanted=wanted,
            now=standing(events),
            at_work=at_work,
            attempts=attempts,
        )
        self._note(run, now)
        return run

    def _note(self, run: _Run, now: float) -> None:
        """Whether the ServerApp that was asked for is there, has ended, or never came."""
        attempts, stands = run.attempts, run.now
        if attempts.said_at != run.wanted.said:
            # Whoever says "resume" has mended something, and waits.
            attempts.said_at, attempts.failed, attempts.not_before = run.wanted.said, 0, 0.0
        if stands.rounds > attempts.rounds:
            attempts.rounds, attempts.failed, attempts.died = stands.rounds, 0, ""
        if run.wanted.state != "running" or stands.done:
            attempts.died = attempts.needs_you = ""
        if stands.count != attempts.seen_events:
            attempts.seen_events, attempts.moved_at = stands.count, now
        if run.at_work:
            attempts.was_at_work = True
            attempts.begun_at = now if attempts.begun_at is None else attempts.begun_at
            self._end_if_stuck(run, now)
            return
        if attempts.begun_at is None:
            return
        ended = stands.end and stands.count > attempts.events
        if not (ended or attempts.was_at_work or now > attempts.begun_at + START_PATIENCE_S):
            return
        attempts.begun_at, attempts.was_at_work = None, False
        if run.wanted.state != "running" or stands.done or stands.end == "paused":
            return
        self._failed(run, now)

    def _end_if_stuck(self, run: _Run, now: float) -> None:
        """A ServerApp that says nothing for longer than any round may take waits for nobody."""
        rules = run.folder.read()[1].aggregation
        most = rules.round_timeout_s + rules.join_timeout_s + STUCK_S
        if now > run.attempts.moved_at + most:
            run.attempts.moved_at = now
            self._end(run, "failed", f"nothing has happened for {most / 60:.0f} minutes")

    def _failed(self, run: _Run, now: float) -> None:
        """Have it wait before the next attempt, longer each time."""
        attempts, stands = run.attempts, run.now
        first = STOPPED_PAUSE_S if stands.end else DIED_PAUSE_S
        pause = min(LONGEST_PAUSE_S, first * 2**attempts.failed)
        attempts.failed += 1
        attempts.not_before = now + pause
        why = printable_lines(f"{stands.end or 'died'}: {_why(stands)}")
        log.warning("run %s: %s; started again in %.0f s", run.name, why, pause)
        if not stands.end:  # an end stands in the events, where alerts find it
            attempts.died = "it is started again by itself"

    def _start(self, run: _Run, now: float) -> None:
        attempts = run.attempts
        try:
            self._turn(run, True)
            self.starter.start(run.folder)
        except (NeedsPersonError, CentreError, KeyFileError) as error:
            attempts.not_before = now + STOPPED_PAUSE_S
            words = str(error) if isinstance(error, NeedsPersonError) else NOT_SIGNED
            if words != attempts.needs_you:
                log.warning("run %s: %s", run.name, printable_lines(str(error)))
            attempts.needs_you = words
        except (RunError, SuperLinkRefused, SuperLinkUnreachable, OSError) as error:
            pause = min(LONGEST_PAUSE_S, DIED_PAUSE_S * 2**attempts.failed)
            attempts.failed += 1
            attempts.not_before = now + pause
            attempts.died = "it cannot be started yet: the SuperLink does not answer, or refuses"
            words = printable_lines(str(error))
            log.warning("run %s: could not be started: %s", run.name, words)
        else:
            attempts.needs_you = ""
            again = run.now.count > 0
            if again:
                run.folder.add_event("resumed", after=run.now.rounds, why=_why(run.now))
            attempts.begun_at, attempts.was_at_work = now, False
            attempts.events = run.now.count + again
            log.info("run %s: %s", run.name, "resumed" if again else "started")

    def _rest(self, run: _Run) -> None:
        """Have a run rest that is not wanted now, or that has not the turn."""
        state = run.wanted.state
        if state == "running":
            run.wanted = self._turn(run, False)
        # A round at work is completed first: the ServerApp looks before it begins another.
        if state == "stopped" or not run.now.in_round:
            self._end(run, "stopped" if state == "stopped" else "paused", run.wanted.rests)

    def _end(self, run: _Run, kind: str, reason: str) -> None:
        try:
            self.starter.end(run.folder, kind, reason)
        except (RunError, SuperLinkRefused, SuperLinkUnreachable, OSError) as error:
            log.warning("run %s: could not be ended: %s", run.name, error)

    def _turn(self, run: _Run, turn: bool) -> Wanted:
        if run.wanted.turn == turn:
            return run.wanted
        return change_wanted(run.folder.path, lambda w: w.model_copy(update={"turn": turn}))

    def _cannot_be_read(self, run: str, error: Exception) -> None:
        attempts = self._attempts.setdefault(run, _Attempts())
        if not attempts.needs_you:
            log.warning("run %s: %s", run, printable_lines(str(error)))
        attempts.needs_you = (
            f"a file of its folder cannot be read; see what: asdnet-centre resume {run}"
        )


def _why(stands: Standing) -> str:
    return stands.reason or "its ServerApp ended without a last event"
