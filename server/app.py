"""The Flower ServerApp of the coordinating centre.

Run configuration: `study` (a YAML file of the protocol; without it the paper's), `out`,
`mlflow-uri`.
"""

import protocol.telemetry  # isort: skip

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from protocol.presets import preset
from protocol.study import StudyProtocol, read_yaml
from server.checkpoint import save_model
from server.progress import TerminalWatcher
from server.record import StudyRecord
from server.rounds import run_study
from server.tracking import MlflowWatcher
from server.watchers import Watchers


class ModelSaver:
    """Keeps model/best and model/final on disk after every evaluated round."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def study_started(self, record: StudyRecord) -> None:
        """Nothing is trained yet."""

    def site_answered(self, number: int, done: int, expected: int) -> None:
        """Nothing is aggregated yet."""

    def round_finished(self, record: StudyRecord) -> None:
        """Save what the round made: a study that dies later still has it."""
        number = record.rounds[-1].plan.round
        facts = {"round": number, "protocol_sha256": record.protocol.digest}
        save_model(
            self._out / "model" / "final",
            record.protocol,
            record.segmenter,
            record.confidence,
            facts,
        )
        if record.best_round == number and record.best_segmenter is not None:
            save_model(
                self._out / "model" / "best",
                record.protocol,
                record.best_segmenter,
                record.best_confidence,
                facts | {"validation_dsc": record.best_dsc},
            )

    def study_finished(self, record: StudyRecord) -> None:
        """All is saved already."""


def build_server_app(run: Callable[[Grid, Context], None]) -> ServerApp:
    """A ServerApp whose main is `run`."""
    server_app = ServerApp()
    server_app.main()(run)
    return server_app


def _main(grid: Grid, context: Context) -> None:
    """A study on a SuperLink, described by the run configuration."""
    config = context.run_config
    study = str(config.get("study", ""))
    protocol = read_yaml(Path(study), StudyProtocol) if study else preset("paper")
    out = Path(str(config.get("out", "runs/federation")))
    out.mkdir(parents=True, exist_ok=True)
    uri = str(config.get("mlflow-uri", "")) or f"sqlite:///{(out / 'mlflow.db').resolve()}"
    tracker = MlflowWatcher(uri, out / "mlartifacts", protocol.name)
    watchers = Watchers(each=[ModelSaver(out), tracker, TerminalWatcher(Console())])
    run_study(grid, protocol, watchers)


app = build_server_app(_main)
