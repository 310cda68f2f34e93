"""`asdnet-sim tables`: every method of the paper's tables on one cohort, and a report."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import click
import typer

from protocol.config.presets import PresetName, as_paper
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.wording import counted
from reporting.terminal import make_console
from simulation.commands.options import SharedOptions, simulation_errors
from simulation.commands.organs import as_text
from simulation.experiment.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from simulation.experiment.methods import SUPERVISED, Method
from simulation.experiment.plan import (
    COMPARED_METHODS,
    choose_folds,
    choose_methods,
    choose_seeds,
    choose_settings,
    named_methods,
)
from simulation.experiment.store import SETTINGS
from simulation.folds import FOLDS
from simulation.supervision import Stopped, stop_on_signals

if TYPE_CHECKING:
    from simulation.experiment.options import ExperimentOptions

_LABELS = "; ".join(f"{b.name}: {', '.join(map(str, b.labels))}" for b in BENCHMARKS.values())

Attention = Literal["literal", "normalised", "off"]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TablesCommand(SharedOptions):
    """What `tables` can be asked for."""

    tables: Annotated[
        str | None,
        typer.Option(
            metavar="1,2",
            help="Tables of the paper; else both. Rows that the study does not allow are left out.",
        ),
    ] = None
    rows: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Rows by name instead, as SVNet,ASDNet.")
    ] = None
    own_rows: Annotated[
        Path | None,
        typer.Option(
            help="YAML of further rows, as 'ASDNet g.2: {method: {gamma: 0.2}}'; alone, or besides "
            "--rows or --tables."
        ),
    ] = None
    cohort: Annotated[
        str,
        typer.Option(metavar="phantom|FOLDER", help="As --data of run; or phantoms."),
    ] = "phantom"
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(BENCHMARKS),
            help="A published split of that data set, in --cohort FOLDER, and the study that "
            "trains on it; the last round's model is judged. Goes with --labels "
            f"({_LABELS}; else all), --sites and --label-free.",
        ),
    ] = None
    settings: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Settings to train in: federated; pooled: all cases together, for as many steps "
            "as one site takes; pooled-equal-steps: for as many as all sites take; local.",
        ),
    ] = ",".join(SETTINGS)
    settings_rows: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Rows that are trained in all settings; the others federated only. Else "
            f"{', '.join(COMPARED_METHODS)}; with --benchmark {SUPERVISED}.",
        ),
    ] = None
    folds: Annotated[
        int | None,
        typer.Option(help="The first so many of five folds; else all. A benchmark has one."),
    ] = None
    seeds: Annotated[int, typer.Option(help="Repetitions of everything.")] = 3
    attention: Annotated[
        Attention | None,
        typer.Option(
            help="Sample attention of the rows that have it; else literal for paper, normalised "
            "for other presets, and a --study file's own."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(help="Result folder; that of an experiment goes on. Else runs/study-TIME."),
    ] = None
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Check all that a run checks and list the runs; train nothing."
        ),
    ] = False
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report what --out holds; train nothing.")
    ] = False


def tables(given: TablesCommand) -> None:
    """Train every row of the paper's tables, over folds and seeds; stop and resume at any time."""
    console = make_console(soft_wrap=False, whole_tables=True)
    started = time.monotonic()
    stop_on_signals()
    # Python warns of resources leaked by killed processes; they are released by then.
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ.setdefault("PYTHONWARNINGS", quiet)
    folder = given.out or Path("runs") / f"study-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        with simulation_errors():
            from simulation.experiment.progress import report
            from simulation.experiment.runner import list_runs, run_experiment

            if given.report_only:
                report(folder, console)
                return
            options = _options(given, folder)
            if given.plan:
                list_runs(options, console)
                return
            complete = run_experiment(options, console)
    except Stopped as stop:
        _end(folder, stop.status)
    console.print(f"experiment: {folder}", soft_wrap=True)
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all")
    if not complete:
        raise typer.Exit(1)


def _options(given: TablesCommand, folder: Path) -> "ExperimentOptions":
    from simulation.experiment.methods import read_own_methods
    from simulation.experiment.options import ExperimentOptions

    data = None if given.cohort == "phantom" else Path(given.cohort)
    mistakes: list[str] = []

    def valid(choose: Callable[..., _T], *arguments: Any, **named: Any) -> _T | None:
        """What was asked for, or None: every mistake is kept, to be told with the others."""
        try:
            return choose(*arguments, **named)
        except ProtocolError as error:
            mistakes.append(str(error))
            return None

    decided = valid(_decided, given, data)
    read = valid(read_own_methods, given.own_rows) if given.own_rows else {}
    own: Mapping[str, Method] = read or {}
    methods = valid(choose_methods, given.tables, given.rows, own)
    settings = valid(choose_settings, given.settings)
    compared = (
        None if read is None else valid(named_methods, _in_all(given), "--settings-rows", own)
    )
    number = given.folds if given.folds is not None else 1 if given.benchmark else FOLDS
    folds, seeds = valid(choose_folds, number), valid(choose_seeds, given.seeds)
    if mistakes:
        raise ProtocolError("\n".join(mistakes))
    assert decided is not None and methods is not None and settings is not None
    assert compared is not None and folds is not None and seeds is not None
    decided["protocol"] = _with_attention(
        decided["protocol"],
        given.attention,
        given.preset_name,
        own=bool(given.study or given.benchmark),
    )
    return ExperimentOptions(
        **decided,
        methods=_as_asked(methods, given.attention),
        optional=frozenset(methods.keys() - own.keys() if given.rows is None else ()),
        settings=settings,
        compared=compared,
        folds=folds,
        seeds=seeds,
        out=folder,
    )


def _in_all(given: TablesCommand) -> str:
    """Rows that are trained in all settings, as text."""
    if given.settings_rows is not None:
        return given.settings_rows
    return SUPERVISED if given.benchmark else ",".join(COMPARED_METHODS)


def _benchmark(given: TablesCommand) -> Benchmark | None:
    """The benchmark that was asked for.

    Raises:
        ProtocolError: There is none of that name, or it says what other options say; all of them.
    """
    if given.benchmark is None:
        return None
    benchmark = find_benchmark(given.benchmark)
    mistakes = [
        f"--{name.replace('_', '-')}: has no effect beside --benchmark, which says it; give one of"
        " the two"
        for name in ("preset", "organs", "sites_file", "labelled", "unlabelled")
        if getattr(given, name) is not None
    ]
    if given.folds not in (None, 1):
        mistakes.append(f"--folds {given.folds}: a benchmark has one fold; leave it out")
    if given.cohort == "phantom":
        mistakes.append(f"--benchmark {benchmark.name}: needs --cohort with that data set's folder")
    if mistakes:
        raise ProtocolError("\n".join(mistakes))
    return benchmark


def _decided(given: TablesCommand, data: Path | None) -> dict[str, Any]:
    """The options that all simulations share, of a benchmark where there is one."""
    benchmark = _benchmark(given)
    if benchmark is None:
        return given.decided(data, "--cohort", start=as_paper)
    named = replace(given, organs=as_text(benchmark.organs))
    own = given.study is not None
    decided = named.decided(
        data, "--cohort", start=as_paper if own else lambda _: benchmark.protocol
    )
    return decided | {"fixed_grid": True, "benchmark": benchmark}


def _as_asked(methods: Mapping[str, Method], attention: Attention | None) -> dict[str, Method]:
    """No row insists on Eq. 2 where it is switched off by an option."""
    if attention != "off":
        return dict(methods)
    return {
        name: replace(method, needs=tuple(n for n in method.needs if n != "sample_attention"))
        for name, method in methods.items()
    }


def _with_attention(
    base: StudyProtocol, attention: Attention | None, preset: PresetName, *, own: bool
) -> StudyProtocol:
    """The form of Eq. 2 in the rows that have it; a study's file or a benchmark keeps its own."""
    if attention is None and own:
        return base
    usual: Attention = "literal" if preset == "paper" else "normalised"
    method = base.method.model_copy(update={"sample_attention": attention or usual})
    return base.model_copy(update={"method": method})


def _end(folder: Path, status: int) -> NoReturn:
    """Say how to go on; what is complete is on the disk, what was running is begun anew."""
    complete = len(list((folder / "runs").glob("[!.]*/done.json")))
    click.echo(
        f"stopped: {counted(complete, 'run')} complete; the same command with --out {folder} goes "
        "on",
        err=True,
    )
    raise typer.Exit(status)
