"""What is printed while an experiment goes, and the table at its end."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from simulation.errors import StudyFolderError
from simulation.experiment.progress import Progress, print_summary, report
from simulation.experiment.store import CaseRow, Run, RunInfo, RunKey, Setting, write_rows
from simulation.experiment.worker_pool import Failure

SHOWN: tuple[Setting, ...] = ("federated", "pooled", "local")
RUNS = [RunKey(method="SVNet", setting=setting, fold=1, seed=1) for setting in SHOWN]


def row(dsc: float, organ: str = "ball", part: str = "test") -> CaseRow:
    return CaseRow.model_validate(
        {
            "site": "A", "case": "x", "part": part, "organ": organ, "dsc": dsc, "asd_mm": None,
            "failure": False,
        }
    )  # fmt: skip


def write_run(experiment: Path, key: RunKey, *rows: CaseRow) -> None:
    folder = experiment / "runs" / key.folder
    folder.mkdir(parents=True)
    write_rows(folder / "cases.csv", rows, CaseRow)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def printed(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    screen = console(terminal=False)
    write_run(tmp_path, RUNS[0], row(0.5))
    write_run(tmp_path, RUNS[1], row(0.6), row(0.8), row(0.1, part="withheld"))
    (tmp_path / "failed.json").write_text("of the last command")
    with Progress(tmp_path, RUNS, RUNS[:1], screen) as progress:
        assert not (tmp_path / "failed.json").exists()
        progress.started(RUNS[1])
        progress.finished(RUNS[1])
        progress.started(RUNS[2])
        progress.failed(RUNS[2], Failure(error="OSError", text="disk [full]"))
    first, second = printed(screen).splitlines()
    assert first.startswith("   2/3  SVNet pooled, fold 1, seed 1: test DSC 0.700, 0:00, left 0:0")
    assert second == "   2/3  SVNet local, fold 1, seed 1: failed: OSError: disk [full]"
    assert json.loads((tmp_path / "failed.json").read_text()) == {
        "SVNet.local.fold1.seed1": {"error": "OSError", "text": "disk [full]"}
    }


def test_a_terminal_shows_what_runs_and_the_means_so_far(tmp_path: Path) -> None:
    screen = console(terminal=True)
    write_run(tmp_path, RUNS[0], row(0.25), row(0.75))
    with Progress(tmp_path, RUNS, RUNS[:1], screen) as progress:
        progress.started(RUNS[1])
    shown = printed(screen)
    assert "1 of 3 runs complete" in shown and "1 waiting" in shown
    assert "running SVNet pooled, fold 1, seed 1" in shown
    assert "SVNet federated" in shown and "0.500" in shown


def complete(key: RunKey, *rows: CaseRow) -> Run:
    info = RunInfo(key=key, seconds=1.0, best_round=1, finished="today")
    return Run(folder=Path("unused"), info=info, cases=rows, confidence=(), rounds=())


def test_the_summary_is_by_method_setting_and_organ() -> None:
    screen = console(terminal=False)
    runs = [
        complete(RUNS[2], row(0.2), row(0.4), row(0.9, "rod")),
        complete(RUNS[0], row(0.5), row(0.8, "rod"), row(0.0, part="withheld")),
        complete(RUNS[0].model_copy(update={"fold": 2}), row(0.7)),
    ]
    print_summary(["ASDNet", "SVNet"], ("ball", "rod"), runs, screen)
    lines = [line for line in printed(screen).splitlines() if "│" in line]
    assert [line.strip("│ ").split() for line in (item.replace("│", " ") for item in lines)] == [
        ["SVNet", "federated", "2", "0.600", "0.800"],
        ["local", "2", "0.300", "0.900"],
    ]


def test_a_folder_without_an_experiment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudyFolderError, match="holds no experiment"):
        report(tmp_path, console(terminal=False))
