"""Contours of every method on a typical, a best and a worst case, in three planes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.errors import ScanError
from client.data.image_io import read_image, read_label_map
from reporting.blocks import Gallery, Picture, Section, Text
from reporting.figure_layout import stacked
from reporting.figures import small_png
from reporting.overlay import Contours, three_planes
from simulation.experiment.report.formatting import number
from simulation.experiment.report.results import Book
from simulation.experiment.report.statistics import Place
from simulation.experiment.store import CaseFiles, read_cases

log = logging.getLogger(__name__)

TITLE = "Contours"
_MARGIN_MM = 15.0
_HEIGHT_PX = 200
_METHODS_A_PICTURE = 5

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A scan and its label maps on one grid, (Z, Y, X), patient axes LPS."""

    image: Array
    reference: Array
    found: Mapping[str, Array]
    spacing_mm_xyz: tuple[float, ...]


def overlays_section(book: Book, study: Path, reference: str) -> Section:
    """Three cases of the reference row; a sentence where something is missing."""
    files = read_cases(study)
    if not files:
        return _only_text("cases.json is not there, so no scan can be drawn.")
    ranked = _ranked(book, files, reference)
    if not ranked:
        return _only_text(
            f"No test case of a complete federated run of {reference} has its scan, its label and "
            "a prediction on this machine."
        )
    chosen = {"best": ranked[-1], "typical (median)": ranked[len(ranked) // 2], "worst": ranked[0]}
    pictures: list[Picture] = []
    failed = 0
    for what in ("typical (median)", "best", "worst"):
        _, place = chosen[what]
        try:
            volume = _read(book, files[place.case], place)
        except ScanError as error:
            log.warning("contours of a %s case: %s", what, error)
            failed += 1
            continue
        scores = {row: book.scores("dsc", row, "federated").get(place) for row in volume.found}
        pictures += _pictures(book, volume, what, place, scores)
    seed = ranked[0][1].seed
    texts = [
        f"Cases by the mean DSC over organs of {reference}, federated, seed {seed}: slices "
        "through the centre of all organs. Solid: reference; dashed: automatic."
    ]
    if failed:
        texts.append(f"{failed} of 3 cases could not be read; the log says why.")
    blocks = tuple(Text(text=text) for text in texts)
    return Section(title=TITLE, blocks=(*blocks, Gallery(pictures=tuple(pictures))))


def _only_text(text: str) -> Section:
    return Section(title=TITLE, blocks=(Text(text=text),))


def _ranked(
    book: Book, files: Mapping[str, CaseFiles], reference: str
) -> list[tuple[float, Place]]:
    """Cases that can be drawn, of one seed, from the worst to the best."""
    scores = book.scores("dsc", reference, "federated")
    usable = [
        (value, place)
        for place, value in scores.items()
        if value is not None
        and place.case in files
        and files[place.case].image.exists()
        and files[place.case].reference.exists()
        and _prediction(book, reference, place) is not None
    ]
    first = min((place.seed for _, place in usable), default=0)
    return sorted(item for item in usable if item[1].seed == first)


def _prediction(book: Book, row: str, place: Place) -> Path | None:
    for run in book.runs_of(row, "federated"):
        if (run.info.key.fold, run.info.key.seed) == (place.fold, place.seed):
            path = run.folder / "predictions" / f"{place.case}.nii.gz"
            return path if path.exists() else None
    return None


def _read(book: Book, files: CaseFiles, place: Place) -> Volume:
    """Scan, reference and what each row predicted.

    Raises:
        ScanError: If a file cannot be read or is on another grid.
    """
    organs = _organs(book)
    scan = read_image(files.image, case=place.case)
    paths = {row: _prediction(book, row, place) for row in book.rows_of("federated")}
    labels = {
        row: read_label_map(path, scan, organs, case=place.case)
        for row, path in {"": files.reference, **paths}.items()
        if path is not None
    }
    arrays = {row: _array(label) for row, label in labels.items()}
    spacing = sitk.DICOMOrient(scan, "LPS").GetSpacing()
    return Volume(
        image=_array(scan),
        reference=arrays.pop(""),
        found=arrays,
        spacing_mm_xyz=spacing,
    )


def _array(image: sitk.Image) -> Array:
    array: Array = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    return array


def _organs(book: Book) -> dict[str, int]:
    return {name: int(value) for name, value in book.info.protocol["organs"].items()}


def _pictures(
    book: Book,
    volume: Volume,
    what: str,
    place: Place,
    scores: Mapping[str, float | None],
) -> list[Picture]:
    """Three planes a method, one method below the other."""
    rows = [row for row in book.rows if row in volume.found]
    word = what.partition(" ")[0]
    text = f"A {what} case, site {place.site}, fold {place.fold}"
    reference = Contours(label_zyx=volume.reference, name="reference")
    pictures = []
    for start in range(0, len(rows), _METHODS_A_PICTURE):
        part = rows[start : start + _METHODS_A_PICTURE]
        image = stacked(
            [
                three_planes(
                    volume.image,
                    volume.spacing_mm_xyz,
                    [
                        reference,
                        Contours(label_zyx=volume.found[row], style="dashed", name="automatic"),
                    ],
                    _organs(book),
                    height_px=_HEIGHT_PX,
                    title=f"{row}, DSC {number(scores.get(row))}",
                    margin_mm=_MARGIN_MM,
                    legend=row == part[-1],
                )
                for row in part
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
