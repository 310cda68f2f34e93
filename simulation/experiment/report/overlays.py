"""Contours of every method on a typical, a best and a worst case, in three planes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import ndimage

from client.data.errors import ScanError
from client.data.image_io import read_image, read_label_map
from reporting.blocks import Gallery, Picture, Section, Text
from reporting.figures import CARD_INCHES, new_figure, report_style, to_picture
from simulation.experiment.report.formatting import number
from simulation.experiment.report.results import Book
from simulation.experiment.report.statistics import Place
from simulation.experiment.store import CaseFiles, read_cases

log = logging.getLogger(__name__)

TITLE = "Contours"
# Bright on grey, and apart for the colour-blind.
_COLOURS = ("#56B4E9", "#F0E442", "#FF7F50", "#CC79A7", "#00C896")
_PLANES = ("axial", "coronal", "sagittal")
_MARGIN_MM = 15.0
_METHODS_A_PICTURE = 5

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A scan and its label maps on one grid, (Z, Y, X), patient axes LPS; spacing (z, y, x)."""

    image: Array
    reference: Array
    found: Mapping[str, Array]
    spacing_mm_zyx: tuple[float, ...]


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
    spacing = sitk.DICOMOrient(scan, "LPS").GetSpacing()[::-1]
    return Volume(
        image=_array(scan),
        reference=arrays.pop(""),
        found=arrays,
        spacing_mm_zyx=spacing,
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
    rows = [row for row in book.rows if row in volume.found]
    word = what.partition(" ")[0]
    made = []
    for start in range(0, len(rows), _METHODS_A_PICTURE):
        part = rows[start : start + _METHODS_A_PICTURE]
        figure = _figure(book, volume, part, scores)
        text = f"A {what} case, site {place.site}, fold {place.fold}"
        made.append(
            to_picture(
                figure,
                f"contours_{word}_{start // _METHODS_A_PICTURE + 1}",
                f"{text}: reference and automatic contours of {', '.join(part)} in three planes",
                f"{text}.",
            )
        )
    return made


def _figure(
    book: Book, volume: Volume, rows: Sequence[str], scores: Mapping[str, float | None]
) -> Any:
    """A line of three planes for each method."""
    cut, centre = _window(volume)
    shapes = [_in_plane(volume.image[cut], axis).shape for axis in range(3)]
    z, y, x = volume.spacing_mm_zyx
    height_mm = max(shapes[0][0] * y, shapes[1][0] * z, shapes[2][0] * z)
    width_mm = max(shapes[0][1] * x, shapes[1][1] * x, shapes[2][1] * y)
    panel = (CARD_INCHES / 3) * height_mm / width_mm + 0.22
    figure, axes = new_figure(len(rows), 3, (CARD_INCHES, panel * len(rows) + 0.75))
    with report_style():
        for line, row in zip(axes, rows, strict=True):
            for axis_number, axis in enumerate(line):
                _draw(axis, book, volume, row, cut, axis_number, centre[axis_number])
            line[0].set_title(f"{row}, DSC {number(scores.get(row))}")
        for axis, plane in zip(axes[-1], _PLANES, strict=True):
            axis.set_xlabel(plane)
        figure.legend(handles=_handles(book), loc="outside lower center", ncols=3)
    return figure


def _handles(book: Book) -> list[Line2D]:
    return [
        *(
            Line2D([], [], color=colour, linewidth=2.5, label=organ)
            for organ, colour in zip(_organs(book), _COLOURS, strict=False)
        ),
        Line2D([], [], color="#333333", label="reference"),
        Line2D([], [], color="#333333", linestyle="--", label="automatic"),
    ]


def _window(volume: Volume) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """The organs' box with a margin, and the organs' centre within it, in voxels (z, y, x)."""
    mask = volume.reference > 0
    if not mask.any():
        return tuple(slice(0, n) for n in mask.shape), tuple(n // 2 for n in mask.shape)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    margins = [int(np.ceil(_MARGIN_MM / step)) for step in volume.spacing_mm_zyx]
    cut = tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(box, margins, mask.shape, strict=True)
    )
    centre = ndimage.center_of_mass(mask[cut])
    return cut, tuple(round(value) for value in centre)


def _in_plane(volume: Array, axis: int, index: int = 0) -> Array:
    """A slice as it is looked at: axial from the feet, front up; the others head up."""
    plane: Array = np.take(volume, index, axis=axis)
    return plane if axis == 0 else plane[::-1]


def _draw(
    axis: Any,
    book: Book,
    volume: Volume,
    row: str,
    cut: tuple[slice, ...],
    number_: int,
    index: int,
) -> None:
    steps = [step for n, step in enumerate(volume.spacing_mm_zyx) if n != number_]
    image, truth, found = (
        _in_plane(array[cut], number_, index)
        for array in (volume.image, volume.reference, volume.found[row])
    )
    low, high = np.percentile(volume.image[cut], (0.5, 99.7))
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=steps[0] / steps[1])
    for value, colour in zip(_organs(book).values(), _COLOURS, strict=False):
        for label, style in ((truth, "-"), (found, "--")):
            mask = label == value
            if mask.any() and not mask.all():
                axis.contour(mask, [0.5], colors=colour, linestyles=style, linewidths=1.1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
