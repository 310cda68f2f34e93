"""Score a label against its reference: `asdnet-site score PREDICTION REFERENCE ...`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asdnet_models.organs import parse_organs
from asdnet_models.sums import failure_words
from client.data.notes import Note, unheard
from protocol.config.site import SITE_CONFIGS, SiteConfig, read_site
from protocol.config.study import EvaluationConfig
from protocol.escaping import printable
from reporting.terminal import make_console, user_errors

TOLERANCE_MM = EvaluationConfig().nsd_tolerance_mm
_MOST_MM = 1000

if TYPE_CHECKING:
    from rich.table import Table

    from asdnet_models.metrics import OrganScore


def score(
    prediction: Annotated[
        Path, typer.Argument(help="Label map, RTSTRUCT or DICOM-SEG to be scored.")
    ],
    reference: Annotated[
        Path, typer.Argument(help="Label map, RTSTRUCT or DICOM-SEG that is taken as true.")
    ],
    organs: Annotated[
        str,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Every organ of the labels, as bladder=1,prostate=2,rectum=3.",
        ),
    ],
    scan: Annotated[
        Path | None,
        typer.Option(help="What both were drawn on; contours need it where no label map is given."),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Site whose file says what the reference's names and numbers mean."),
    ] = None,
    both: Annotated[
        bool,
        typer.Option("--both", help="The prediction has the names and numbers of --site too."),
    ] = False,
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
    tolerance: Annotated[
        float, typer.Option(metavar="MM", help="Of the normalised surface Dice, mm.")
    ] = TOLERANCE_MM,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Print DSC, ASD and HD95 (mm) and surface Dice of every organ of two labels of one scan."""
    with user_errors(ValueError):  # ScanError, and mistakes in --organs and the site's file
        if not 0 < tolerance <= _MOST_MM:
            raise ValueError(
                f"--tolerance: must be over 0 and {_MOST_MM} mm at most, not {tolerance}"
            )
        if both and not site:
            raise ValueError("--both: needs --site; give the site whose names and numbers they are")
        config = read_site(configs / f"{site}.yaml") if site else None
        scores = score_files(
            prediction,
            reference,
            parse_organs(organs),
            scan=scan,
            config=config,
            both=both,
            tolerance_mm=tolerance,
            note=lambda line: typer.echo(f"note: {printable(line)}", err=True),
        )
    if all(map(_in_neither, scores.values())):
        typer.echo("note: no organ is in either label; do --organs give their values?", err=True)
    if as_json:
        typer.echo(json.dumps({organ: dataclasses.asdict(scores[organ]) for organ in scores}))
    else:
        make_console(soft_wrap=False, whole_tables=True).print(_table(scores, tolerance))


def score_files(
    prediction: Path,
    reference: Path,
    organs: Mapping[str, int],
    *,
    scan: Path | None = None,
    config: SiteConfig | None = None,
    both: bool = False,
    tolerance_mm: float = TOLERANCE_MM,
    note: Note = unheard,
) -> "dict[str, OrganScore]":
    """Scores of every organ, distances in mm; of those that the reference's site annotates.

    Args:
        prediction: A label map, RTSTRUCT or DICOM-SEG in the names and values of `organs`; of
            `config` too where `both` says so.
        reference: The same, in those of `config` where it is given.
        organs: Value of each organ in label maps.
        scan: The image that both were drawn on.
        config: The site's file.
        tolerance_mm: Of the normalised surface Dice.
        both: Whether the prediction is in the site's names and numbers, as the reference is.
        note: Called with what is valid but seldom meant, a line each.

    Raises:
        ScanError: A file cannot be read, holds other values or names than the organs', or the two
            are of different grids or scans.
        ProtocolError: The site's file contradicts itself or the organs.
    """
    import SimpleITK as sitk

    from asdnet_models.metrics import score_label_maps
    from client.data.labels.label_map import prediction_mapping, site_mapping, study_mapping
    from client.data.labels.label_pair import Side, read_pair

    mapping = site_mapping(config, organs) if config else study_mapping(organs)
    drawn = prediction_mapping(organs, config if both else None)
    annotated = {organ: value for organ, value in organs.items() if organ in mapping.annotated}
    predicted, true = read_pair(
        Side(role="prediction", path=prediction, mapping=drawn),
        Side(role="reference", path=reference, mapping=mapping),
        scan=scan,
        note=note,
    )
    return score_label_maps(
        sitk.GetArrayViewFromImage(predicted),
        sitk.GetArrayViewFromImage(true),
        true.GetSpacing()[::-1],
        annotated,
        tolerance_mm=tolerance_mm,
    )


def _table(scores: "Mapping[str, OrganScore]", tolerance_mm: float) -> "Table":
    from rich.table import Table

    table = Table("organ", "DSC", "ASD (mm)", "HD95 (mm)", f"NSD at {tolerance_mm:g} mm", "remark")
    for organ, score in scores.items():
        if _in_neither(score):  # 1 by convention: nothing was measured
            table.add_row(organ, *["-"] * 4, "in neither label")
            continue
        asd, hd95 = (
            "undefined" if mm is None else f"{mm:.3f}" for mm in (score.asd_mm, score.hd95_mm)
        )
        words = f"failure: {failure_words(score.failure, score.dsc)}" if score.failure else ""
        table.add_row(organ, f"{score.dsc:.4f}", asd, hd95, f"{score.nsd:.4f}", words)
    return table


def _in_neither(score: "OrganScore") -> bool:
    return score.asd_mm is None and score.failure is None
