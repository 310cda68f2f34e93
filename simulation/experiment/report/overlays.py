"""Contours of every method on a typical, a best and a worst case, in three planes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from client.data.case import Case
from client.data.errors import ScanError
from client.data.files.geometry import upright_view
from reporting.blocks import Gallery, Picture, Section, Text
from reporting.figure_layout import stacked
from reporting.figures import small_png
from reporting.overlay import Contours, three_planes
from simulation.experiment.report.formatting import number
from simulation.experiment.report.results import Results
from simulation.experiment.store import CaseFiles, read_cases

log = logging.getLogger(__name__)

TITLE = "Contours"
_MARGIN_MM = 15.0
_HEIGHT_PX = 200
_METHODS_A_PICTURE = 5

Array = NDArray[Any]


class CaseKey(NamedTuple):
    fold: int
    seed: int
    site: str
    case: str


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A scan and its label maps on one grid, (Z, Y, X), patient axes LPS."""

    image: Array
    reference: Array
    predictions: Mapping[str, Array]
    spacing_mm_xyz: tuple[float, ...]


def overlays_section(results: Results, study: Path, reference: str) -> Section:
    """Three cases of the reference method; a sentence where something is missing."""
    files = read_cases(study)
    if not files:
        return _only_text("cases.json is not there, so no scan can be drawn.")
    ranked = _ranked(results, files, reference)
    if not ranked:
        return _only_text(
            f"No test case of a complete federated run of {reference} has its scan, its label and "
            "a prediction on this machine."
        )
    chosen = {"best": ranked[-1], "typical (median)": ranked[len(ranked) // 2], "worst": ranked[0]}
    pictures: list[Picture] = []
    failed = 0
    for what in ("typical (median)", "best", "worst"):
        _, key = chosen[what]
        try:
            volume = _read(results, files[key.case], key)
        except ScanError as error:
            log.warning("contours of a %s case: %s", what, error)
            failed += 1
            continue
        scores = {m: results.scores("dsc", m, "federated").dropna() for m in volume.predictions}
        dsc = {method: by_case.get(tuple(key)) for method, by_case in scores.items()}
        pictures += _pictures(results, volume, what, key, dsc)
    seed = ranked[0][1].seed
    texts = [
        f"Cases by the mean DSC over organs of {reference}, federated, seed {seed}: slices "
        "through the centre of all organs. Solid: reference; dashed: automatic."
    ]
    if failed:
        texts.append(f"{failed} of 3 cases could not be read; the log has the reasons.")
    blocks = tuple(Text(text=text) for text in texts)
    return Section(title=TITLE, blocks=(*blocks, Gallery(pictures=tuple(pictures))))


def _only_text(text: str) -> Section:
    return Section(title=TITLE, blocks=(Text(text=text),))


def _ranked(
    results: Results, files: Mapping[str, CaseFiles], reference: str
) -> list[tuple[float, CaseKey]]:
    """Cases that can be drawn, of one seed, from the worst to the best."""
    scores = results.scores("dsc", reference, "federated").dropna()
    usable = [
        (value, key)
        for value, key in zip(scores, (CaseKey(*index) for index in scores.index), strict=True)
        if key.case in files
        and files[key.case].image.exists()
        and files[key.case].reference.exists()
        and _prediction(results, reference, key) is not None
    ]
    first = min((key.seed for _, key in usable), default=0)
    return sorted(item for item in usable if item[1].seed == first)


def _prediction(results: Results, method: str, key: CaseKey) -> Path | None:
    for run in results.runs_of(method, "federated"):
        if (run.info.key.fold, run.info.key.seed) == (key.fold, key.seed):
            path = run.folder / "predictions" / f"{key.case}.nii.gz"
            return path if path.exists() else None
    return None


def _read(results: Results, files: CaseFiles, key: CaseKey) -> Volume:
    """Scan, reference and what each method predicted.

    Raises:
        ScanError: If a file cannot be read or is on another grid.
    """
    organs = _organs(results)
    case = Case(name=key.case, part="test", image=files.image, label=files.reference)
    scan = case.read_scan()
    paths = {m: _prediction(results, m, key) for m in results.methods_of("federated")}
    labels = {
        method: replace(case, label=path).read_label(scan, organs)
        for method, path in {"": files.reference, **paths}.items()
        if path is not None
    }
    # Copies, because a view does not keep its image.
    arrays = {method: upright_view(label)[0].copy() for method, label in labels.items()}
    image, spacing = upright_view(scan)
    return Volume(
        image=image.copy(),
        reference=arrays.pop(""),
        predictions=arrays,
        spacing_mm_xyz=spacing,
    )


def _organs(results: Results) -> dict[str, int]:
    return {name: int(value) for name, value in results.info.protocol["organs"].items()}


def _pictures(
    results: Results,
    volume: Volume,
    what: str,
    key: CaseKey,
    dsc: Mapping[str, float | None],
) -> list[Picture]:
    """Three planes a method, one method below the other."""
    methods = [method for method in results.methods if method in volume.predictions]
    word = what.partition(" ")[0]
    text = f"A {what} case, site {key.site}, fold {key.fold}"
    reference = Contours(label_zyx=volume.reference, name="reference")
    pictures = []
    for start in range(0, len(methods), _METHODS_A_PICTURE):
        part = methods[start : start + _METHODS_A_PICTURE]
        image = stacked(
            [
                three_planes(
                    volume.image,
                    volume.spacing_mm_xyz,
                    [
                        reference,
                        Contours(
                            label_zyx=volume.predictions[method], style="dashed", name="automatic"
                        ),
                    ],
                    _organs(results),
                    height_px=_HEIGHT_PX,
                    title=f"{method}, DSC {number(dsc.get(method))}",
                    margin_mm=_MARGIN_MM,
                    legend=method == part[-1],
                )
                for method in part
            ]
        )
        pictures.append(
            Picture(
                name=f"contours_{word}_{start // _METHODS_A_PICTURE + 1}",
                alt=f"{text}: reference and automatic contours of {', '.join(part)} in three "
                "planes: axial, coronal, sagittal",
                caption=f"{text}.",
                png=small_png(image),
                width_px=image.width,
            )
        )
    return pictures
