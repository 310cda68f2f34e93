"""`asdnet-sim plan`: a study planned from the scans of a folder, as a file to read and edit."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from protocol.config.study import ProtocolError
from protocol.planning.rules import MEMORY, MINUTES_A_ROUND, ROUNDS
from reporting.terminal import make_console
from simulation.commands.options import SharedOptions, simulation_errors


@dataclass(frozen=True, kw_only=True)
class PlanCommand(SharedOptions):
    """What `plan` can be asked for."""

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
    console = make_console(soft_wrap=False)
    started = time.monotonic()
    with simulation_errors():
        from protocol.planning.budget import Budget, parse_memory
        from simulation.options import CommonOptions
        from simulation.planning import cases_of, plan_cohort, write_plan

        if given.out.exists():
            raise ProtocolError(f"--out: {given.out} is there already; name a new file")
        options = CommonOptions(**given.planned_on(given.data, seed=given.seed), out=given.out)
        budget = Budget(
            memory_gib=parse_memory(given.memory),
            minutes_a_round=given.minutes_a_round,
            rounds=given.rounds or ROUNDS,
        )
        cases = cases_of(options, given.fold, console)
        planned = plan_cohort(cases, budget, options, console, steps=given.steps)
        write_plan(planned, options, given.out, console)
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all")
