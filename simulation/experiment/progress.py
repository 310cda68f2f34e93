"""How a study goes, for whoever sits before the terminal, and its table at the end."""

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from protocol.files import write_json
from server.monitoring.progress import clock
from simulation.errors import StudyFolderError
from simulation.experiment.store import WAYS, CaseRow, RunKey, Way, read_rows, read_study
from simulation.experiment.worker_pool import Failure, failures_json

Scores = Mapping[tuple[str, Way], Sequence[CaseRow]]


def label(key: RunKey) -> str:
    """A run in words."""
    return f"{key.row} {key.way}, fold {key.fold}, seed {key.seed}"


class Progress:
    """A live table in a terminal, a plain line for each run elsewhere; keeps failed.json.

    Args:
        study: The study's folder.
        runs: All its runs.
        done: Those that were complete before.
        console: Where to say it.
    """

    def __init__(
        self, study: Path, runs: Sequence[RunKey], done: Sequence[RunKey], console: Console
    ) -> None:
        self._study, self._runs, self._console = study, runs, console
        self._began = time.monotonic()
        self._before = len(done)
        self._done: list[RunKey] = []
        self._running: dict[RunKey, float] = {}
        self.failures: dict[RunKey, Failure] = {}
        self._test: dict[str, list[float]] = {}
        self._live: Live | None = None
        (study / "failed.json").unlink(missing_ok=True)
        for key in done:
            self._add(key)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._view, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def started(self, key: RunKey) -> None:
        """Show it among the running ones."""
        self._running[key] = time.monotonic()

    def finished(self, key: RunKey) -> None:
        """Count it and its scores."""
        spent = time.monotonic() - self._running.pop(key)
        self._done.append(key)
        dsc = _mean(self._add(key))
        self._say(f"{label(key)}: {_figure('test DSC', dsc)}, {clock(spent)}{self._rest()}")

    def failed(self, key: RunKey, failure: Failure) -> None:
        """Say and keep why."""
        self._running.pop(key, None)
        self.failures[key] = failure
        write_json(self._study / "failed.json", failures_json(self.failures.items()))
        self._say(f"{label(key)}: failed: {failure.error}: {failure.text}")

    def _add(self, key: RunKey) -> list[float]:
        rows = read_rows(self._study / "runs" / key.folder / "cases.csv", CaseRow)
        dsc = [row.dsc for row in rows if row.part == "test"]
        self._test.setdefault(f"{key.row} {key.way}", []).extend(dsc)
        return dsc

    def _say(self, line: str) -> None:
        complete = self._before + len(self._done)
        self._console.print(
            f"{complete:>4}/{len(self._runs)}  {line}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )

    def _left(self) -> int:
        return len(self._runs) - self._before - len(self._done) - len(self.failures)

    def _rest(self) -> str:
        """Time left, by the mean of the runs that this command has finished."""
        ended = len(self._done) + len(self.failures)
        if not self._left() or not ended:
            return ""
        return f", left {clock((time.monotonic() - self._began) / ended * self._left())}"

    def _view(self) -> RenderableType:
        complete = self._before + len(self._done)
        words = [f"{complete} of {len(self._runs)} runs complete"]
        words += [f"{len(self.failures)} failed"] if self.failures else []
        words += [f"{self._left() - len(self._running)} waiting{self._rest()}"]
        parts: list[RenderableType] = [Text("  ".join(words))]
        now = time.monotonic()
        parts += [
            Text(f"  running {label(k)} ({clock(now - t)})") for k, t in self._running.items()
        ]
        if self._test:
            table = Table("row and way", "mean test DSC so far", box=None)
            for row, dsc in self._test.items():
                table.add_row(row, _figure("", _mean(dsc)).strip())
            parts.append(table)
        return Group(*parts)


def report(study: Path, console: Console) -> None:
    """The summary, and the report with all tables and figures.

    Raises:
        StudyFolderError: If the folder holds no study.
    """
    try:
        info, runs = read_study(study)
    except FileNotFoundError:
        raise StudyFolderError(f"{study}: holds no study; name the folder of one") from None
    scores: dict[tuple[str, Way], list[CaseRow]] = {}
    for key in sorted((run.info.key for run in runs), key=lambda key: info.rows.index(key.row)):
        scores.setdefault((key.row, key.way), [])
    for run in runs:
        scores[run.info.key.row, run.info.key.way] += run.cases
    print_summary(scores, info.organs, console)
    try:
        import_module("simulation.experiment.report.page").write_report(study)
    except ModuleNotFoundError as error:
        if error.name != "simulation.experiment.report.page":
            raise
        return
    page = study / "report" / "report.html"
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def print_summary(scores: Scores, organs: Sequence[str], console: Console) -> None:
    """Mean DSC by row, way and organ, over folds, seeds and test cases."""
    table = Table(title="DSC, mean over test cases, folds and seeds", title_justify="left")
    for name in ("row", "way", "cases", *organs):
        table.add_column(name, justify="left" if name in ("row", "way") else "right")
    last = ""
    for row, way in sorted(scores, key=lambda key: _place(scores, key)):
        tested = [item for item in scores[row, way] if item.part == "test"]
        by_organ = {o: [item.dsc for item in tested if item.organ == o] for o in organs}
        cases = str(max(map(len, by_organ.values()), default=0))
        cells = (_figure("", _mean(by_organ[organ])).strip() for organ in organs)
        table.add_row(row if row != last else "", way, cases, *cells)
        last = row
    console.print(table)


def _place(scores: Scores, key: tuple[str, Way]) -> tuple[int, int]:
    rows = list(dict.fromkeys(row for row, _ in scores))
    return rows.index(key[0]), WAYS.index(key[1])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _figure(name: str, value: float | None) -> str:
    return f"{name} {'-' if value is None else f'{value:.3f}'}"
