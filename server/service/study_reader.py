"""One run's folder as a study to show; only what is new in it is read."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from protocol.config.explanation import explain
from server.monitoring.run_folder import RunError, RunFacts, RunFolder
from server.monitoring.wanted import Wanted
from server.service.files import NewLines, Watched
from server.service.history import History
from server.service.views import Study, StudySite, StudyState

# The SuperLink takes some seconds to start a ServerApp, and that some to import its libraries.
_START_PATIENCE_S = 180.0
_LEFT_OUTS = 10
# By whether it has answered; None: it was not called.
_NOW = {True: "answered", False: "at work", None: "not called"}
Model = TypeVar("Model", bound=BaseModel)


class _Protocol(BaseModel):
    """What matters here of protocol.json, of whatever version it is."""

    class Training(BaseModel):
        rounds: int

    name: str
    organs: dict[str, int]
    training: Training


class StudyReader:
    """Looks at one run again and again."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._events = NewLines(folder.events)
        self._facts = Watched(folder.path / "run.json", partial(_read, RunFacts))
        self._protocol = Watched(folder.path / "protocol.json", partial(_read, _Protocol))
        self._wanted = Watched(folder.path / "wanted.json", partial(_read, Wanted))
        self.history = History(run=folder.path.name)
        self._version: object = None
        self._study: Study | None = None

    def read(self, now: datetime) -> Study | None:
        """None: the folder is no run.

        Raises:
            RunError: One of its files is damaged.
        """
        # Before the events are read: its last event is among them then.
        at_work = self._folder.at_work()
        history = self._read_events()
        facts, protocol, wanted = self._facts.get(), self._protocol.get(), self._wanted.get()
        if facts is None or protocol is None:
            return None
        state, reason = self._state(at_work, facts, wanted, now)
        report = (self._folder.path / "report.html").is_file()
        version = (history.count, state, reason, facts, protocol, wanted, report)
        if self._study is None or version != self._version:
            self._version = version
            self._study = self._made(state, reason, facts, protocol, wanted, report)
        return self._study

    def _made(
        self,
        state: StudyState,
        reason: str,
        facts: RunFacts,
        protocol: _Protocol,
        wanted: Wanted | None,
        report: bool,
    ) -> Study:
        history = self.history
        mlflow, link = _mlflow(facts.mlflow_uri, history.mlflow_run)
        trains = facts.asks == "training"
        rounds = (history.rounds or protocol.training.rounds) if trains else 0
        working = state == "at work"
        called = history.called if working else {}
        seconds_left = None
        if history.round_seconds is not None and state != "finished":
            seconds_left = history.round_seconds * max(0, rounds - history.rounds_done)
        return Study(
            name=self._folder.path.name,
            study=protocol.name,
            asks=facts.asks,
            state=state,
            reason=reason,
            wanted=wanted.state if wanted else None,
            priority=wanted.priority if wanted else None,
            round=history.round if working else history.rounds_done,
            rounds_done=history.rounds_done,
            rounds=rounds,
            doing=history.doing if working else "",
            begun=history.first,
            last_event=history.last,
            last_event_kind=history.kind,
            round_seconds=history.round_seconds,
            seconds_left=seconds_left,
            called=tuple(called),
            answered=tuple(site for site, answered in called.items() if answered),
            sites=tuple(self._sites(called, working=working)),
            left_out=history.last_left_out(_LEFT_OUTS),
            words=tuple(history.words.values()),
            hints=tuple(dict.fromkeys(history.hints)),
            organs=tuple(sorted(protocol.organs, key=lambda organ: protocol.organs[organ])),
            dsc=history.curves(),
            losses=history.loss_curves(),
            mean_dsc=next(reversed(history.mean_dsc.values()), None),
            mlflow=mlflow,
            mlflow_link=link,
            report=report,
        )

    def _read_events(self) -> History:
        events, anew = self._events.read()
        if anew:
            self.history, self._version = History(run=self._folder.path.name), None
        for event in events:
            try:
                self.history.apply(event)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.history = History(run=self._folder.path.name)
                self._events = NewLines(self._folder.events)
                raise RunError(
                    f"run {self._folder.path.name}: {self._folder.events}: an event cannot be read"
                    f" ({type(error).__name__}); take its line out"
                ) from None
        return self.history

    def _state(
        self, at_work: bool, facts: RunFacts, wanted: Wanted | None, now: datetime
    ) -> tuple[StudyState, str]:
        """How the run stands, and why."""
        history = self.history
        if at_work:
            return self._at_work()
        kind, reason = history.ended or ("", "")
        if kind == "finished":
            return "finished", reason
        if self._was_just_started(facts, now):
            return "starting", ""
        if wanted is not None and wanted.state != "running":
            return ("paused" if wanted.state == "paused" else "stopped"), reason
        if kind == "failed":
            return "failed", reason
        if wanted is not None and (kind or history.last is None):
            return "waiting for its turn", reason
        if kind:
            return ("paused" if kind == "paused" else "stopped"), reason
        if history.last is None and facts.flower_run_id is None:
            return "prepared", "not started yet"
        return "died", "its ServerApp ended without a last event"

    def _at_work(self) -> tuple[StudyState, str]:
        history = self.history
        if history.ended:
            # A new ServerApp holds the run, and has not said anything yet.
            return "starting", ""
        if history.awaited:
            there, awaited = history.awaited
            return "waiting for sites", f"{there} online, {awaited} awaited"
        if history.declaring and history.waits_for_approval:
            return "waiting for approval", ""
        return "at work", ""

    def _was_just_started(self, facts: RunFacts, now: datetime) -> bool:
        """Its ServerApp is on the way: run.json got its number after the last event."""
        if facts.flower_run_id is None:
            return False
        started = (self._folder.path / "run.json").stat().st_mtime
        last = self.history.last
        return (last is None or started > last.timestamp() + 1) and (
            now.timestamp() - started < _START_PATIENCE_S
        )

    def _sites(self, called: dict[str, bool], *, working: bool) -> Iterator[StudySite]:
        history = self.history
        for site in sorted({*history.sites, *called, *history.words}):
            now = ""
            if site in history.words:
                now = history.words[site].why
            elif working:
                now = _NOW[called.get(site)]
            yield StudySite(
                name=site,
                now=now,
                cases=history.cases.get(site),
                rounds_trained=len(history.trained.get(site, {})),
                rounds_left_out=history.rounds_left_out(site),
                seconds=history.site_seconds(site),
                dsc={
                    organ: list(series.values())[-1]
                    for (named, organ), series in history.dsc.items()
                    if named == site
                },
                estimated_dsc=history.estimated.get(site, {}),
            )


def _read(kind: type[Model], path: Path) -> Model:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(explain(error, str(path))) from None


def _mlflow(uri: str, run: str) -> tuple[str, str | None]:
    """Where the numbers are, for people; a link where it is a server.  Neither has a password."""
    scheme, there, rest = uri.partition("://")
    if scheme == "sqlite" or not there:
        return uri, None
    if scheme not in ("http", "https"):
        return f"{scheme}://...", None
    address, _, _ = rest.partition("?")
    host, slash, path = address.partition("/")
    plain = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")
    return plain, f"{plain}/#/runs/{run}" if run else plain
