"""`asdnet-sim tables`: every method of the paper's tables on one cohort, and a report."""

import os
import signal
import sys
import time
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from protocol.config.presets import PresetName, as_paper
from protocol.config.study import StudyProtocol
from simulation.experiment.methods import read_own_methods
from simulation.experiment.options import ExperimentOptions
from simulation.experiment.plan import (
    COMPARED_METHODS,
    choose_folds,
    choose_methods,
    choose_seeds,
    choose_settings,
    named_methods,
)
from simulation.options import TOLD, Device, Preset, base_protocol, fail, organs_of

_ENDING = (signal.SIGINT, signal.SIGTERM)


class Attention(StrEnum):
    """Forms of Eq. 2, for the command line."""

    LITERAL = "literal"
    NORMALISED = "normalised"
    OFF = "off"


class _Stopped(BaseException):
    """A signal has come that ends the study."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number


def tables(
    tables_wanted: Annotated[
        str | None, typer.Option("--tables", help="Tables of the paper, of 1,2. Default: both.")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Rows by name instead, as SVNet,ASDNet.")] = None,
    own_rows: Annotated[
        Path | None,
        typer.Option(
            help="YAML of further rows, as 'ASDNet g.2: {method: {gamma: 0.2}}'; alone, or beside "
            "--rows or --tables."
        ),
    ] = None,
    cohort: Annotated[
        str, typer.Option(help="phantom, or a folder as --data of asdnet-sim run takes.")
    ] = "phantom",
    organs: Annotated[
        str | None,
        typer.Option(help="Label values, as anterior=1,posterior=2. Goes with a folder."),
    ] = None,
    labelled: Annotated[
        int | None,
        typer.Option(min=1, help="Labelled cases, in name order. Default: 50; PROMISE12: all."),
    ] = None,
    unlabelled: Annotated[
        int | None, typer.Option(min=0, help="Unlabelled cases. Default: 20; PROMISE12: none.")
    ] = None,
    training_labels: Annotated[
        int | None,
        typer.Option(
            min=1, help="Only so many training cases stay labelled, the others are withheld."
        ),
    ] = None,
    sites: Annotated[int, typer.Option(min=1, max=26, help="Hospitals, of a folder.")] = 6,
    settings: Annotated[
        str,
        typer.Option(
            "--settings", "--ways", help="Settings to train in, of federated,pooled,local."
        ),
    ] = "federated,pooled,local",
    settings_rows: Annotated[
        str,
        typer.Option(
            "--settings-rows",
            "--ways-rows",
            help="Rows that are trained in all settings; the others federated only.",
        ),
    ] = ",".join(COMPARED_METHODS),
    folds: Annotated[int, typer.Option(help="The first so many of five folds.")] = 5,
    seeds: Annotated[int, typer.Option(help="Repetitions of everything.")] = 3,
    preset_name: Annotated[
        Preset, typer.Option("--preset", help="smoke, quick, or paper: a GPU.")
    ] = Preset.QUICK,
    study: Annotated[
        Path | None, typer.Option(help="YAML of a study protocol; replaces the preset whole.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Local steps a round, instead of the preset's.")
    ] = None,
    attention: Annotated[
        Attention | None,
        typer.Option(
            help="Sample attention of the rows that have it. Default: literal for paper, "
            "normalised else; a --study file's own."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Result folder; that of a study goes on. Default: runs/study-TIME."),
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = (
        Device.AUTO
    ),
    workers: Annotated[
        int, typer.Option(min=0, help="Sites or runs that train at once; 0: one a core.")
    ] = 0,
    cache: Annotated[
        Path, typer.Option(help="Made cohorts and preprocessed scans; kept between runs.")
    ] = Path("runs/cache"),
    plan: Annotated[bool, typer.Option("--plan", help="List the runs; train nothing.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report what --out holds; train nothing.")
    ] = False,
) -> None:
    """Every row of the paper's tables, over folds and seeds; stop and resume at any time."""
    console = Console()
    started = time.monotonic()
    for number in _ENDING:
        signal.signal(number, _on_signal)
    # Said of processes that were ended at once; what they leaked has been given back by then.
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ.setdefault("PYTHONWARNINGS", quiet)
    name: PresetName = preset_name.value
    complete = True
    folder = out or Path("runs") / f"study-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        # Late: they take seconds, which --help has not.
        from simulation.experiment.progress import report
        from simulation.experiment.runner import list_runs, run_experiment

        if report_only:
            report(folder, console)
            return
        data = None if cohort == "phantom" else Path(cohort)
        base = base_protocol(
            name,
            study,
            organs_of(data, organs, "--cohort"),
            rounds=rounds,
            steps=steps,
            seed=None,
            start=as_paper,
        )
        own = read_own_methods(own_rows) if own_rows else {}
        options = ExperimentOptions(
            preset=name,
            protocol=_with_attention(base, attention, name, own=study is not None),
            fixed_grid=study is not None,
            data=data,
            labelled=labelled,
            unlabelled=unlabelled,
            training_labels=training_labels,
            sites=sites,
            methods=choose_methods(tables_wanted, rows, own),
            settings=choose_settings(settings),
            compared=named_methods(settings_rows, "--settings-rows", own),
            folds=choose_folds(folds),
            seeds=choose_seeds(seeds),
            out=folder,
            device=device.value,
            workers=workers or os.cpu_count() or 1,
            cache=cache,
        )
        if plan:
            list_runs(options, console)
            return
        complete = run_experiment(options, console)
    except TOLD as error:
        fail(str(error))
    except _Stopped as stop:
        _end(folder, stop.status)
    console.print(f"study: {folder}", highlight=False, soft_wrap=True)
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all", highlight=False)
    if not complete:
        raise typer.Exit(1)


def _with_attention(
    base: StudyProtocol, attention: Attention | None, preset: PresetName, *, own: bool
) -> StudyProtocol:
    """The form of Eq. 2 in the rows that have it; a study's own file keeps its own."""
    if attention is None and own:
        return base
    usual = Attention.LITERAL if preset == "paper" else Attention.NORMALISED
    method = base.method.model_copy(update={"sample_attention": (attention or usual).value})
    return base.model_copy(update={"method": method})


def _on_signal(number: int, frame: FrameType | None) -> None:
    # Impatience must not interrupt the end of the processes.
    for ending in _ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise _Stopped(number)


def _end(folder: Path, status: int) -> None:
    """Say how to go on; what is complete is on the disk, what was running is begun anew."""
    complete = len(list((folder / "runs").glob("[!.]*/done.json")))
    sys.stderr.write(
        f"stopped: {complete} runs are complete; the same command with --out {folder} goes on\n"
    )
    raise typer.Exit(status)
