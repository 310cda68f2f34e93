"""`asdnet-sim plan`: a study planned from the scans of a folder, as a file to read and edit."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from protocol.config.presets import PresetName
from protocol.config.training import MOST
from protocol.planning.rules import MEMORY, MINUTES_A_ROUND, ROUNDS
from protocol.wording import counted
from reporting.terminal import make_console
from simulation.commands.options import SharedOptions, simulation_errors


@dataclass(frozen=True, kw_only=True)
class PlanCommand(SharedOptions):
    """What `plan` can be asked for."""

    preset: Annotated[
        PresetName | None,
        typer.Option(
            help="A study by name whose recipe is kept (network, loss, rates, views); else planned."
        ),
    ] = None
    study: Annotated[
        Path | None, typer.Option(help="YAML file of a study whose recipe is kept, instead.")
    ] = None
    rounds: Annotated[
        int | None, typer.Option(min=1, max=MOST, help=f"Rounds of the study; else {ROUNDS}.")
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="Local steps a round, instead of what there is time for."
        ),
    ] = None
    data: Annotated[
        Path | None, typer.Option(help="As --data of run; without it the pelvic phantoms.")
    ] = None
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="What a training step may take, as 4GiB.")
    ] = MEMORY
    minutes_a_round: Annotated[
        float, typer.Option(help="Minutes that a round of all sites may take on this machine.")
    ] = MINUTES_A_ROUND
    fold: Annotated[int, typer.Option(min=1, max=5, help="Whose training cases are read.")] = 1
    seed: Annotated[int, typer.Option(min=0, help="As --seed of run: deals cases to folds.")] = 1
    out: Annotated[Path, typer.Option(help="The study file that is written; none is replaced.")] = (
        Path("study.yaml")
    )


def plan(given: PlanCommand) -> None:
    """Plan a study from a folder's scans, and write it with the reason for every value."""
    console = make_console(soft_wrap=False, whole_tables=True)
    started = time.monotonic()
    with simulation_errors():
        from protocol.planning.budget import Budget
        from protocol.planning.yaml_writer import check_out, study_name
        from simulation.options import CommonOptions
        from simulation.planning import cases_of, plan_cohort, write_plan

        check_out(given.out)
        decided = given.planned_on(given.data, seed=given.seed, name=study_name(given.out.stem))
        options = CommonOptions(**decided, out=given.out)
        budget = Budget.given(given.memory, given.minutes_a_round, given.rounds)
        cases = cases_of(options, given.fold, console)
        planned = plan_cohort(cases, budget, options, console, steps=given.steps)
        write_plan(planned, options, given.out, console)
    minutes = round((time.monotonic() - started) / 60, 1)
    console.print(f"{counted(minutes, 'minute')} in all")
