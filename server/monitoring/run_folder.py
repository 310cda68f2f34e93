"""One run's folder at the centre: protocol, progress, and which process works on it.

The ServerApp, started by Flower, writes; `asdnet-centre run`, at the same machine, follows it.  A
lock that the kernel releases when its holder dies shows whether a ServerApp is at work.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asdnet_models.fields import Frozen
from protocol.agreement.manifest import MANIFEST_FILE, Asks, StudyFile
from protocol.agreement.statement_store import STATEMENTS_FILE, append_statements
from protocol.config.explanation import explain
from protocol.config.study import StudyProtocol
from protocol.files import LockedError, append_line, is_locked, locked, write_json, write_text
from protocol.model_io import save_model
from protocol.wire.reports import CASE_PARTS
from server.monitoring.hints import hints_of
from server.monitoring.progress import round_line, sites_line
from server.rounds.checkpoint import save_checkpoint
from server.rounds.estimates import estimates_of
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher

# A process that only asks who is at work holds the lock for less.
_LOOKERS_S = 1.0


class RunError(RuntimeError):
    """A run that is not there, is damaged, or is being worked on already."""


class RunFacts(Frozen):
    """What `asdnet-centre run` decided when it started the run; in run.json."""

    name: str
    mlflow_uri: str
    expected_sites: int | None = None
    flower_run_id: int | None = None
    asks: Asks = "training"
    sites: tuple[str, ...] | None = None  # that are asked; null: all admitted ones
    study_file: Path | None = None  # that the study was read from
    commit: str = ""  # of the checkout that made the run


class RunFolder:
    """Layout and state of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def events(self) -> Path:
        """One JSON object a line, in order of time."""
        return self.path / "events.jsonl"

    @property
    def updates(self) -> Path:
        """What the sites sent in the round at work."""
        return self.path / "updates"

    @property
    def statements(self) -> Path:
        """What the sites have signed about each round."""
        return self.path / STATEMENTS_FILE

    @property
    def fingerprints(self) -> Path:
        """What the sites have said for a plan, by site."""
        return self.path / "fingerprints.json"

    @property
    def manifest(self) -> Path:
        """The signed study, as it is mailed to hospitals."""
        return self.path / MANIFEST_FILE

    def study(self) -> StudyFile | None:
        """The signed study, not verified; None where none has been signed.

        Raises:
            RunError: If the file is damaged.
        """
        try:
            return StudyFile.model_validate_json(self.manifest.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise RunError(
                f"run {self.path.name}: {self.manifest} is damaged; delete it, and go on with"
                f" --resume {self.path.name}: it is signed anew"
            ) from None

    def write_study(self, file: StudyFile) -> None:
        """Replace the signed study atomically."""
        write_text(self.manifest, file.model_dump_json(indent=2) + "\n")

    def create(self, facts: RunFacts, protocol: StudyProtocol) -> None:
        """A new run.

        Raises:
            RunError: If there is one of this name.
        """
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise RunError(
                f"run {facts.name}: is there already; give another --name, or --resume it"
            ) from None
        write_json(self.path / "protocol.json", protocol.model_dump(mode="json"))
        self.write(facts)

    def write(self, facts: RunFacts) -> None:
        write_json(self.path / "run.json", facts.model_dump(mode="json"))

    def read(self) -> tuple[RunFacts, StudyProtocol]:
        """What was decided and agreed.

        Raises:
            RunError: If the folder is no run.
        """
        try:
            facts = RunFacts.model_validate_json((self.path / "run.json").read_bytes())
            text = (self.path / "protocol.json").read_bytes()
            return facts, StudyProtocol.model_validate_json(text)
        except FileNotFoundError as error:
            there = sorted(p.parent.name for p in self.path.parent.glob("*/run.json"))
            raise RunError(
                f"run {self.path.name}: has no {Path(str(error.filename)).name}; "
                f"runs of this centre: {', '.join(there) or 'none'}"
            ) from None
        except ValidationError as error:
            raise RunError(explain(error, str(self.path))) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run while working on it.

        Raises:
            RunError: If somebody else does.
        """
        try:
            with locked(self.path / "lock", timeout_s=_LOOKERS_S):
                yield
        except LockedError:
            raise RunError(
                f"run {self.path.name}: a ServerApp is at work on it; follow it with --follow, or "
                "end it with --stop"
            ) from None

    def at_work(self) -> bool:
        """Whether a ServerApp holds the run; who asks holds it, with others, for an instant."""
        return is_locked(self.path / "lock")

    def add_event(self, kind: str, **facts: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        event = {"time": now, "kind": kind, **facts}
        append_line(self.events, json.dumps(event, sort_keys=True))


class CheckpointWatcher(Watcher):
    """Brings every finished round to the disk: the checkpoint first, then the models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def round_finished(self, record: StudyRecord) -> None:
        """A study that dies later still has this round."""
        save_checkpoint(self._folder, record)
        save_models(self._folder, record)


class StatementWriter(Watcher):
    """Appends what the sites have signed in each round to the run's statements."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def round_finished(self, record: StudyRecord) -> None:
        append_statements(self._folder.statements, record.statements)


class EventWriter(Watcher):
    """Writes what happens to the run's events.

    Args:
        folder: The run's.
        tracked: Its id in MLflow; "" while there is none.
    """

    def __init__(self, folder: RunFolder, tracked: Callable[[], str] = str) -> None:
        self._folder, self._tracked = folder, tracked
        self._declared: dict[str, dict[str, Any]] = {}

    def sites_online(self, sites: Sequence[str], awaited: int) -> None:
        self._folder.add_event("online", sites=list(sites), awaited=awaited)

    def site_waits(self, site: str, why: str) -> None:
        self._folder.add_event("waits", site=site, why=why)

    def study_started(self, record: StudyRecord) -> None:
        self._folder.add_event(
            "started",
            round=len(record.rounds),
            rounds=record.protocol.training.rounds,
            sites=list(record.facts),
            line=sites_line(record),
            cases=self._newly_declared(record),
        )

    def sites_called(self, round_number: int, kind: str, sites: Sequence[str]) -> None:
        self._folder.add_event("called", round=round_number, what=kind, sites=list(sites))

    def site_answered(self, round_number: int, site: str, done: int, expected: int) -> None:
        self._folder.add_event(
            "answered", round=round_number, site=site, done=done, expected=expected
        )

    def round_finished(self, record: StudyRecord) -> None:
        finished = record.rounds[-1]
        scores = {
            site: {
                organ: sums.dsc.mean
                for organ, sums in report.scores["validation"].items()
                if sums.dsc.mean is not None
            }
            for site, report in (finished.evaluation or {}).items()
        }
        self._folder.add_event(
            "round",
            round=finished.plan.round,
            line=round_line(record),
            left_out=dict(finished.left_out),
            clipped={site: dict(of_site) for site, of_site in finished.clipped.items()},
            validation_dsc=scores,
            estimated_dsc={
                site: {o: {"dsc": e.dsc, "error": e.error} for o, e in of_organ.items()}
                for site, of_organ in estimates_of(finished.evaluation or {}).items()
            },
            mean_validation_dsc=finished.validation_dsc,
            seconds=finished.seconds,
            seconds_by_site={site: report.seconds for site, report in finished.reports.items()},
            losses={
                site: {n: s.mean for n, s in report.losses.items() if s.mean is not None}
                for site, report in finished.reports.items()
            },
            cases=self._newly_declared(record),
            mlflow_run=self._tracked(),
        )

    def _newly_declared(self, record: StudyRecord) -> dict[str, dict[str, Any]]:
        """What sites have declared since the last event that has it."""
        declared = {
            site: {
                **{part: getattr(facts, part) for part in CASE_PARTS},
                "refused": dict(facts.refused),
            }
            for site, facts in record.facts.items()
        }
        new = {site: d for site, d in declared.items() if self._declared.get(site) != d}
        self._declared = declared
        return new

    def study_finished(self, record: StudyRecord) -> None:
        for line in hints_of(record):
            self._folder.add_event("hint", line=line)


def save_models(folder: Path, record: StudyRecord) -> None:
    """model/final, and model/best where the last round is the best."""
    save_final(folder / "model" / "final", record)
    if record.best_round == record.rounds[-1].plan.round:
        save_best(folder / "model" / "best", record)


def save_final(folder: Path, record: StudyRecord) -> None:
    """The model after the last round."""
    facts = {"run": record.run, "round": record.rounds[-1].plan.round}
    save_model(folder, record.protocol, record.judged, record.confidence, facts)


def save_best(folder: Path, record: StudyRecord) -> None:
    """The model of the best validation DSC; nothing where none was scored."""
    if record.best_segmenter is not None:
        facts = {
            "run": record.run,
            "round": record.best_round,
            "validation_dsc": record.best_dsc,
        }
        save_model(folder, record.protocol, record.best_segmenter, record.best_confidence, facts)
