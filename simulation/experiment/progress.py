"""Progress of an experiment in the terminal, and its table at the end."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from protocol.files import write_json
from server.monitoring.progress import clock
from simulation.errors import StudyFolderError
from simulation.experiment.store import (
    SETTINGS,
    CaseRow,
    Run,
    RunKey,
    read_experiment,
    read_rows,
)
from simulation.experiment.worker_pool import Failure, failures_json


def label(key: RunKey) -> str:
    """A run in words."""
    return f"{key.method} {key.setting}, fold {key.fold}, seed {key.seed}"


class Progress:
    """A live table in a terminal, a plain line for each run elsewhere; keeps failed.json.

    Args:
        folder: The experiment's.
        runs: All its runs.
        done: Those that were complete before.
        console: Where to print it.
    """

    def __init__(
        self, folder: Path, runs: Sequence[RunKey], done: Sequence[RunKey], console: Console
    ) -> None:
        self._folder, self._runs, self._console = folder, runs, console
        self._began = time.monotonic()
        self._before = len(done)
        self._done: list[RunKey] = []
        self._running: dict[RunKey, float] = {}
        self.failures: dict[RunKey, Failure] = {}
        self._test: dict[str, list[float]] = {}
        self._live: Live | None = None
        (folder / "failed.json").unlink(missing_ok=True)
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
        self._print(f"{label(key)}: {_figure('test DSC', dsc)}, {clock(spent)}{self._rest()}")

    def failed(self, key: RunKey, failure: Failure) -> None:
        """Say and keep why."""
        self._running.pop(key, None)
        self.failures[key] = failure
        write_json(self._folder / "failed.json", failures_json(self.failures.items()))
        self._print(f"{label(key)}: failed: {failure.error}: {failure.text}")

    def _add(self, key: RunKey) -> list[float]:
        rows = read_rows(self._folder / "runs" / key.folder / "cases.csv", CaseRow)
        dsc = [row.dsc for row in rows if row.part == "test"]
        self._test.setdefault(f"{key.method} {key.setting}", []).extend(dsc)
        return dsc

    def _print(self, line: str) -> None:
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
            table = Table("method and setting", "mean test DSC so far", box=None)
            for row, dsc in self._test.items():
                table.add_row(row, _figure("", _mean(dsc)).strip())
            parts.append(table)
        return Group(*parts)


def report(folder: Path, console: Console) -> None:
    """The summary, and the report with all tables and figures.

    Raises:
        StudyFolderError: If the folder holds no experiment.
    """
    try:
        info, runs = read_experiment(folder)
    except FileNotFoundError:
        raise StudyFolderError(f"{folder}: holds no experiment; name the folder of one") from None
    print_summary(info.methods, info.organs, runs, console)
    # Late: it draws.
    from simulation.experiment.report.page import write_report

    page = write_report(folder)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def print_summary(
    methods: Sequence[str], organs: Sequence[str], runs: Sequence[Run], console: Console
) -> None:
    """Mean DSC by method, setting and organ, over folds, seeds and test cases."""
    table = Table(title="DSC, mean over test cases, folds and seeds", title_justify="left")
    for name in ("method", "setting", "cases", *organs):
        table.add_column(name, justify="left" if name in ("method", "setting") else "right")
    keys = [(run.info.key.method, run.info.key.setting) for run in runs]
    for method in methods:
        shown = method
        for setting in SETTINGS:
            of_both = [run for run, key in zip(runs, keys, strict=True) if key == (method, setting)]
            if not of_both:
                continue
            tested = [case for run in of_both for case in run.cases if case.part == "test"]
            by_organ = {o: [case.dsc for case in tested if case.organ == o] for o in organs}
            count = str(max(map(len, by_organ.values()), default=0))
            cells = (_figure("", _mean(dsc)).strip() for dsc in by_organ.values())
            table.add_row(shown, setting, count, *cells)
            shown = ""
    console.print(table)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _figure(name: str, value: float | None) -> str:
    return f"{name} {'-' if value is None else f'{value:.3f}'}"
