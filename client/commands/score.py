"""Score a label map against its reference: `asdnet-site score PREDICTION REFERENCE ...`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asdnet_models.organs import parse_organs
from client.data.errors import ScanError
from reporting.terminal import make_console, user_errors

if TYPE_CHECKING:
    from rich.table import Table

    from asdnet_models.metrics import OrganScore


def score(
    prediction: Annotated[Path, typer.Argument(help="Label map to be scored.")],
    reference: Annotated[Path, typer.Argument(help="Label map that is taken as true.")],
    organs: Annotated[
        str,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Every organ of the label maps, as bladder=1,prostate=2,rectum=3.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Print DSC and ASD (mm) of every organ; both files must be on one grid."""
    with user_errors(ValueError):  # ScanError, and mistakes in --organs
        scores = score_files(prediction, reference, parse_organs(organs))
    if as_json:
        typer.echo(json.dumps({organ: dataclasses.asdict(scores[organ]) for organ in scores}))
    else:
        make_console(soft_wrap=False).print(_table(scores))


def score_files(
    prediction: Path, reference: Path, organs: Mapping[str, int]
) -> "dict[str, OrganScore]":
    """Scores of every organ, distances in mm of the reference's grid.

    Raises:
        ScanError: A file cannot be read, holds other values than the organs', or the two are
            on different grids.
    """
    import SimpleITK as sitk

    from asdnet_models.metrics import score_label_maps
    from client.data.geometry import same_grid_error
    from client.data.label_file import load_label_map

    true = load_label_map(reference, organs, case="reference")
    predicted = load_label_map(prediction, organs, case="prediction")
    difference = same_grid_error(predicted, true)
    if difference is not None:
        raise ScanError(
            "case prediction: label map",
            f"is not on the reference's grid: {difference}; resample it with nearest neighbour",
            rule="grid",
        )
    return score_label_maps(
        sitk.GetArrayViewFromImage(predicted),
        sitk.GetArrayViewFromImage(true),
        true.GetSpacing()[::-1],
        organs,
    )


def _table(scores: "Mapping[str, OrganScore]") -> "Table":
    from rich.table import Table

    table = Table("organ", "DSC", "ASD (mm)", "")
    for organ, score in scores.items():
        asd = "undefined" if score.asd_mm is None else f"{score.asd_mm:.3f}"
        note = "failure: one mask is empty" if score.failure else ""
        table.add_row(organ, f"{score.dsc:.4f}", asd, note)
    return table
