"""`asdnet-sim run`: one federated study on one machine, from scans to a table."""

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from protocol.config.presets import PresetName
from simulation.experiment.options import RunOptions
from simulation.options import TOLD, Device, Preset, base_protocol, fail, organs_of
from simulation.partial_labels import parse_hidden


def run(
    preset_name: Annotated[
        Preset, typer.Option("--preset", help="smoke: a minute; quick: minutes; paper: a GPU.")
    ] = Preset.QUICK,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder in the Medical Segmentation Decathlon's layout (imagesTr/, labelsTr/, "
            "optionally imagesUn/), or PROMISE12's as downloaded (CaseNN.mhd). Without it a cohort "
            "of pelvic phantoms is made."
        ),
    ] = None,
    organs: Annotated[
        str | None, typer.Option(help="Label values, as anterior=1,posterior=2. Goes with --data.")
    ] = None,
    labelled: Annotated[
        int | None,
        typer.Option(min=1, help="Labelled cases, in name order. Default: 50; PROMISE12: all."),
    ] = None,
    unlabelled: Annotated[
        int | None, typer.Option(min=0, help="Unlabelled cases. Default: 20; PROMISE12: none.")
    ] = None,
    sites: Annotated[int, typer.Option(min=1, max=26, help="Hospitals to simulate.")] = 6,
    hide: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE=ORGAN,ORGAN",
            help="Organs that a site has not drawn; may be repeated. The study scores them all the "
            "same, with labels that no site is given.",
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE",
            help="A site that does not take part; may be repeated. Its test cases are scored.",
        ),
    ] = None,
    fold: Annotated[int, typer.Option(min=1, max=5, help="Which fifth to test on.")] = 1,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Local steps a round, instead of the preset's.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="YAML of a study protocol; replaces the preset whole.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Result folder; must be new. Default: runs/PRESET-TIME.")
    ] = None,
    mlflow_uri: Annotated[
        str | None, typer.Option(help="MLflow store. Default: SQLite in the result folder.")
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = (
        Device.AUTO
    ),
    workers: Annotated[
        int, typer.Option(min=0, help="Sites that train at once; 0: one a core (one a GPU).")
    ] = 0,
    sites_per_gpu: Annotated[
        int, typer.Option(min=1, help="Sites that share a GPU at once; goes with --device cuda.")
    ] = 1,
    local_only: Annotated[
        bool, typer.Option(help="Also train each site alone, for comparison.")
    ] = True,
    cache: Annotated[
        Path, typer.Option(help="Made cohorts and preprocessed scans; kept between runs.")
    ] = Path("runs/cache"),
) -> None:
    """Train ASDNet over simulated hospitals; print DSC and ASD by site and organ."""
    console = Console()
    started = time.monotonic()
    name: PresetName = preset_name.value
    try:
        options = RunOptions(
            preset=name,
            protocol=base_protocol(
                name,
                study,
                organs_of(data, organs, "--data"),
                rounds=rounds,
                steps=steps,
                seed=seed,
            ),
            fixed_grid=study is not None,
            data=data,
            labelled=labelled,
            unlabelled=unlabelled,
            sites=sites,
            fold=fold,
            out=out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}",
            mlflow_uri=mlflow_uri,
            device=device.value,
            workers=workers or os.cpu_count() or 1,
            local_only=local_only,
            cache=cache,
            hidden=parse_hidden(hide or []),
            left_out=frozenset(leave_out or []),
            sites_per_gpu=sites_per_gpu,
        )
        # Late: it takes seconds, which --help has not.
        from simulation.experiment.single import run_single

        run_single(options, console)
    except TOLD as error:
        fail(str(error))
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all", highlight=False)
