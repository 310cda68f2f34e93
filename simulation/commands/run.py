"""`asdnet-sim run`: one federated study on one machine, from scans to a table."""

import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from protocol.config.presets import PresetName
from protocol.config.study import ProtocolError
from protocol.files import why_not_writable
from protocol.planning.rules import MEMORY, MINUTES_A_ROUND
from protocol.wording import counted
from reporting.terminal import make_console
from simulation.commands.options import PLANNED, SharedOptions, simulation_errors
from simulation.supervision import in_own_group

if TYPE_CHECKING:
    from protocol.planning.budget import Budget


@dataclass(frozen=True, kw_only=True)
class RunCommand(SharedOptions):
    """What `run` can be asked for."""

    preset: Annotated[
        PresetName | None,
        typer.Option(
            help="A study by name: smoke (a minute), quick (ten minutes), planned (quick's grid "
            "with a plan's recipe), paper (hours on a GPU). Where neither it nor --study is given: "
            "quick on phantoms, and a plan of its own for --data."
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder in the layout of the Medical Segmentation Decathlon or nnU-Net "
            "(imagesTr/, labelsTr/, optionally imagesUn/), with a dataset.json or --organs, or "
            "PROMISE12's as downloaded (CaseNN.mhd). Without it a cohort of pelvic phantoms is "
            "made."
        ),
    ] = None
    hide: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE=ORGAN,ORGAN",
            help="Organs that a site has not annotated; may be repeated. The study scores them all "
            "the same, with labels that no site is given.",
        ),
    ] = None
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE",
            help="A site that does not take part; may be repeated. Its test cases are scored.",
        ),
    ] = None
    fold: Annotated[int, typer.Option(min=1, max=5, help="Which fifth to test on.")] = 1
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 1
    out: Annotated[
        Path | None, typer.Option(help="Result folder, a new one; else runs/PRESET-TIME.")
    ] = None
    mlflow_uri: Annotated[
        str | None, typer.Option(help="MLflow store; else SQLite in the result folder.")
    ] = None
    sites_per_gpu: Annotated[
        int, typer.Option(min=1, help="Sites that share a GPU at once; goes with --device cuda.")
    ] = 1
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Of the plan that --data makes without --preset or --study: what a step may "
            f"take; else {MEMORY}.",
        ),
    ] = None
    minutes_a_round: Annotated[
        float | None,
        typer.Option(
            help="Of the plan: minutes that a round of all sites may take; else"
            f" {MINUTES_A_ROUND:g}."
        ),
    ] = None
    local_only: Annotated[
        bool,
        typer.Option(
            "--local-only/--no-local-only", help="Also train each site alone, for comparison."
        ),
    ] = True
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled/--no-pooled",
            help="Also train one model on all sites' cases, for as many optimiser steps as the "
            "sites took together.",
        ),
    ] = False

    def study_options(self, *, planned: bool) -> dict[str, Any]:
        """The cohort, the study or the recipe of one, and the machine."""
        if planned:
            from protocol.planning.yaml_writer import study_name

            kept_in = self.out or self.data or Path()
            return self.planned_on(
                self.data, seed=self.seed, name=study_name(kept_in.absolute().name)
            )
        return self.decided(self.data, "--data", seed=self.seed)

    def budget(self) -> "Budget":
        """Of the plan."""
        from protocol.planning.budget import Budget

        minutes = MINUTES_A_ROUND if self.minutes_a_round is None else self.minutes_a_round
        return Budget.given(self.memory or MEMORY, minutes, self.rounds)

    def refuse_contradictions(self, *, planned: bool) -> None:
        """Options that would have no effect beside others.

        Raises:
            ProtocolError: With all of them.
        """
        mistakes = []
        if self.pooled and self.hide:
            mistakes.append(
                "--pooled: does not go with --hide: in one place all cases have the same organs "
                "drawn; leave out one of the two"
            )
        given = {"--memory": self.memory, "--minutes-a-round": self.minutes_a_round}
        mistakes += [
            f"{name}: is of the plan that --data makes without --preset and --study, and has no"
            " effect here; leave it out"
            for name, value in given.items()
            if value is not None and not planned
        ]
        if mistakes:
            raise ProtocolError("\n".join(mistakes))


def run(given: RunCommand) -> None:
    """Train a study over simulated hospitals; print DSC and ASD by site and organ.

    A stopped run cannot be resumed. It keeps model/best and model/final of its complete rounds,
    whose test scans (sites/SITE/imagesTs) asdnet-site predict and score take.
    """
    planned = given.data is not None and given.preset is None and given.study is None
    name = PLANNED if planned else given.preset_name
    out = given.out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    status = in_own_group(partial(_stopped, out, new=not out.exists()))
    if status is not None:
        raise typer.Exit(status)
    console = make_console(soft_wrap=False, whole_tables=True)
    started = time.monotonic()
    with simulation_errors():
        from simulation.experiment.options import RunOptions
        from simulation.experiment.single import run_single
        from simulation.partial_labels import parse_hidden

        given.refuse_contradictions(planned=planned)
        if reason := why_not_writable(out):
            raise ProtocolError(
                f"--out: {out} cannot be made ({reason}); name one in a folder that you may write"
                " to"
            )
        options = RunOptions(
            **given.study_options(planned=planned),
            budget=given.budget() if planned else None,
            steps=given.steps,
            fold=given.fold,
            out=out,
            mlflow_uri=given.mlflow_uri,
            local_only=given.local_only,
            pooled=given.pooled,
            hidden=parse_hidden(given.hide or []),
            left_out=frozenset(given.leave_out or []),
            sites_per_gpu=given.sites_per_gpu,
        )
        run_single(options, console)
    minutes = round((time.monotonic() - started) / 60, 1)
    console.print(f"{counted(minutes, 'minute')} in all")


def _stopped(out: Path, *, new: bool) -> None:
    """Say what is left of a run that a signal has ended; without a complete round that is nothing.

    Args:
        out: The result folder.
        new: Whether it was not there before this run.
    """
    if (out / "checkpoint.safetensors").exists():
        best, final = out / "model" / "best", out / "model" / "final"
        model = best if best.exists() else final  # not every round is scored
        click.echo(
            f"stopped: {out} keeps what the complete rounds have left; a run is not resumed, but "
            f"asdnet-site predict --model {model} and asdnet-site score give its "
            "scores (docs/guides/researcher.md, Segment and score)",
            err=True,
        )
        return
    if new:
        shutil.rmtree(out, ignore_errors=True)
    click.echo("stopped: no round was complete, and nothing is kept", err=True)
