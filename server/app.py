"""The Flower ServerApp of the coordinating centre.

`asdnet-centre run` makes the run's folder and names it in the run configuration (`run`); the
centre's folder is in the environment, set by `asdnet-centre superlink`.
"""

import protocol.telemetry  # isort: skip

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flower_compat.chunks import send_large_chunks
from flower_compat.grid import PromptGrid
from flower_compat.polling import pull_objects_soon
from protocol.agreement.manifest import SignedManifest
from protocol.audit.log import AuditLog
from protocol.config.study import StudyProtocol
from protocol.files import write_json
from protocol.wire.weights import most_bytes
from reporting.logs import LogSettings, logging_to
from server.admin.centre import approved_cases
from server.admin.signing import read_public
from server.monitoring.metrics import COMMIT_TAG, STUDY_TAG
from server.monitoring.progress import LogWriter
from server.monitoring.run_folder import (
    CheckpointWatcher,
    EventWriter,
    RunError,
    RunFacts,
    RunFolder,
    StatementWriter,
)
from server.monitoring.tracking import MlflowWatcher
from server.monitoring.wanted import read_wanted
from server.rounds.channel import Channel
from server.rounds.checkpoint import CheckpointError, load_checkpoint
from server.rounds.errors import PausedError, QuorumError
from server.rounds.fingerprints import Survey
from server.rounds.loop import new_record, run_study
from server.rounds.roster import Roster
from server.rounds.watchers import Watchers

CENTRE_VARIABLE = "ASDNET_CENTRE"

# Of a reply with a fingerprint: numbers and their names.
_FINGERPRINT_BYTES = 2**22

log = logging.getLogger(__name__)


def build_server_app(run: Callable[[Grid, Context], None]) -> ServerApp:
    """A ServerApp whose main is `run`."""
    server_app = ServerApp()
    server_app.main()(run)
    return server_app


def serve(grid: Grid, centre: Path, run: str) -> None:
    """Begin or resume one run; the end, and the reason of an early one, is the last event.

    Raises:
        RunError: If the run is not there, or another ServerApp is at work on it.
    """
    pull_objects_soon()
    send_large_chunks()
    folder = RunFolder(centre / "runs" / run)
    facts, agreed = folder.read()
    work = survey if facts.asks == "fingerprint" else train
    with folder.lock():
        try:
            unsent = work(grid, centre, folder, facts, agreed)
        except PausedError as error:
            folder.add_event("paused", reason=str(error))
        except QuorumError as error:
            folder.add_event("stopped", reason=str(error))
        except Exception as error:
            folder.add_event("failed", reason=f"{type(error).__name__}: {error}")
            raise
        else:
            words = f"{unsent} rounds are not in MLflow yet: it could not be reached"
            folder.add_event("finished", unsent=unsent, reason=words if unsent else "")


def train(
    grid: Grid, centre: Path, folder: RunFolder, facts: RunFacts, agreed: StudyProtocol
) -> int:
    """All rounds of a run that are left; how many of them MLflow lacks.

    Raises:
        CheckpointError: If the run's checkpoint cannot be gone on with.
        QuorumError: If too few sites answer.
        PausedError: If it is to rest.
    """
    record = load_checkpoint(folder.path) or new_record(agreed, facts.name)
    if record.protocol.digest != agreed.digest:
        raise CheckpointError(f"run {facts.name}: its checkpoint is of another protocol")
    agreement = _agreement(folder, agreed)
    # A tracking server keeps the artifacts of its runs itself.
    remote = facts.mlflow_uri.startswith(("http://", "https://"))
    tracker = MlflowWatcher(
        facts.mlflow_uri,
        None if remote else centre / "mlartifacts",
        agreed.name,
        tags={STUDY_TAG: agreement.digest if agreement else "", COMMIT_TAG: facts.commit},
        run_name=facts.name,
    )
    watchers = Watchers(
        # A round may be in the statements twice, and is never missing in them.
        [
            LogWriter(facts.name),
            StatementWriter(folder),
            CheckpointWatcher(folder.path),
            EventWriter(folder, lambda: tracker.run_id),
            tracker,
        ]
    )
    run_study(
        PromptGrid(grid, most_bytes(record.segmenter) + most_bytes(record.confidence)),
        record,
        watchers,
        expected_sites=facts.expected_sites,
        audit=AuditLog(centre / "audit.jsonl"),
        updates=folder.updates,
        agreement=agreement,
        approved=partial(approved_cases, centre),
        rests=partial(_rests, folder.path),
        only=facts.sites,
    )
    return tracker.pending(record)


def survey(
    grid: Grid, centre: Path, folder: RunFolder, facts: RunFacts, agreed: StudyProtocol
) -> int:
    """Ask the sites of a run for their fingerprints, and keep them in its folder; 0: none is due.

    Raises:
        QuorumError: If a site does not answer.
    """
    rules = agreed.aggregation
    prompt = PromptGrid(grid, _FINGERPRINT_BYTES)
    channel = Channel(
        grid=prompt,
        run=facts.name,
        timeout_s=rules.join_timeout_s,
        absence_s=rules.absence_s,
        audit=AuditLog(centre / "audit.jsonl"),
        watcher=EventWriter(folder),
    )
    found = Survey(
        channel=channel,
        protocol=agreed,
        sites=facts.sites or (),
        agreement=_agreement(folder, agreed),
        approved=approved_cases(centre),
    ).ask()
    write_json(folder.fingerprints, {site: f.model_dump(mode="json") for site, f in found.items()})
    return 0


def _agreement(folder: RunFolder, agreed: StudyProtocol) -> SignedManifest | None:
    """What `asdnet-centre run` has signed; None in a run that it has not, which no site follows.

    Raises:
        RunError: If it is of another protocol or run.
    """
    file = folder.study()
    if file is None:
        return None
    manifest = file.signed.verified(read_public(folder.path.parents[1]))
    if (manifest.run, manifest.protocol_digest) != (folder.path.name, agreed.digest):
        raise RunError(
            f"run {folder.path.name}: its manifest is of another run or protocol; sign it anew:"
            f" asdnet-centre run --resume {folder.path.name}"
        )
    return file.signed


def _rests(run: Path) -> str:
    """Why the run is to rest before its next round; "": it goes on."""
    wanted = read_wanted(run)
    return "" if wanted is None else wanted.rests


def _main(grid: Grid, context: Context) -> None:
    """A run on this centre's SuperLink."""
    centre = os.environ.get(CENTRE_VARIABLE)
    if centre is None:
        raise RuntimeError(
            f"{CENTRE_VARIABLE} is not set; set it to the centre's folder, or start the SuperLink "
            "with asdnet-centre superlink"
        )
    run = str(context.run_config["run"])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each look at the sites
    with logging_to(Path(centre) / "logs" / f"study-{run}.log", LogSettings.from_environment()):
        serve(grid, Path(centre), run)


app = build_server_app(_main)
