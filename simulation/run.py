"""`python simulation/run.py`: one federated study on one machine, from scans to a table."""

import protocol.telemetry  # isort: skip

import os
import sys
import time
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.contract import ContractError
from client.intact import ScanError
from protocol.organs import parse_organs
from protocol.presets import PresetName, preset
from protocol.study import ProtocolError, StudyProtocol, read_yaml
from server.stopped import QuorumError
from simulation.phantom.cohort import CohortError
from simulation.pipeline import Options, StudyFolderError, run_pipeline
from simulation.split import SplitError

# What a user can mend: told in a line each, without a traceback.
_TOLD = (
    CohortError,
    ContractError,
    OSError,
    ProtocolError,
    QuorumError,
    ScanError,
    SplitError,
    StudyFolderError,
)


class Preset(StrEnum):
    """Presets by name, for the command line."""

    SMOKE = "smoke"
    QUICK = "quick"
    PAPER = "paper"


class Device(StrEnum):
    """Devices by name, for the command line."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def main(
    preset_name: Annotated[
        Preset, typer.Option("--preset", help="smoke: a minute; quick: minutes; paper: a GPU.")
    ] = Preset.QUICK,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder in the Medical Segmentation Decathlon's layout (imagesTr/, labelsTr/, "
            "optionally imagesUn/). Without it a cohort of pelvic phantoms is made."
        ),
    ] = None,
    organs: Annotated[
        str | None, typer.Option(help="Label values, as anterior=1,posterior=2. Goes with --data.")
    ] = None,
    labelled: Annotated[int, typer.Option(min=1, help="Labelled cases, in name order.")] = 50,
    unlabelled: Annotated[int, typer.Option(min=0, help="Unlabelled cases.")] = 20,
    sites: Annotated[int, typer.Option(min=1, max=26, help="Hospitals to simulate.")] = 6,
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
        options = Options(
            preset=name,
            protocol=_protocol(name, study, organs if data else None, rounds, steps, seed),
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
        )
        _refuse_mismatch(data, organs)
        run_pipeline(options, console)
    except _TOLD as error:
        _fail(str(error))
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all", highlight=False)


def _protocol(
    name: PresetName,
    study: Path | None,
    organs: str | None,
    rounds: int | None,
    steps: int | None,
    seed: int,
) -> StudyProtocol:
    """The preset or the study's file, with what the command line says instead."""
    base = read_yaml(study, StudyProtocol) if study else preset(name)
    content = base.model_dump()
    content["seed"] = seed
    if organs:
        try:
            content["organs"] = parse_organs(organs)
        except ValueError as error:
            raise ProtocolError(f"--organs: {error}") from None
    if rounds:
        content["training"]["rounds"] = rounds
    if steps:
        content["training"]["local_steps"] = steps
    return StudyProtocol.model_validate(content)


def _refuse_mismatch(data: Path | None, organs: str | None) -> None:
    if data is None and organs is not None:
        raise ProtocolError("--organs: goes with --data; the phantom's organs are fixed")
    if data is not None and organs is None:
        raise ProtocolError(
            "--data: needs --organs with the label values of that folder, as anterior=1,posterior=2"
        )


def _fail(message: str) -> None:
    for line in message.splitlines():
        sys.stderr.write(f"error: {line}\n")
    raise typer.Exit(2)


def entry() -> None:
    """The console script."""
    typer.run(main)


if __name__ == "__main__":
    entry()
