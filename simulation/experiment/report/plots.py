"""Box plots of scores and the curves of training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from reporting.blocks import Gallery, Picture, Section, Text
from reporting.figures import (
    CARD_INCHES,
    Lines,
    line_panels,
    new_figure,
    report_style,
    to_picture,
)
from reporting.palette import HIGHLIGHT, PALE
from simulation.experiment.report.formatting import NONE
from simulation.experiment.report.results import SCORE_NAMES, Book, Score
from simulation.experiment.report.statistics import case_means
from simulation.experiment.store import RoundRow

_LOSSES = {
    "loss_total": "total (Eq. 7)",
    "loss_dice": "Dice (Eq. 1)",
    "loss_adversarial": "adversarial (Eq. 5)",
    "loss_region": "region attention (Eq. 6)",
    "loss_confidence": "confidence network (Eq. 3)",
}
_PANELS = 5
_Points = dict[str, list[tuple[float, float]]]


def boxes_section(book: Book, reference: str) -> Section:
    """DSC and ASD: a picture for each organ, a panel for each site, a box for each row."""
    title = "Scores by site and organ"
    rows = book.rows_of("federated")
    if not rows:
        return Section(title=title, blocks=(Text(text="No federated run is complete yet."),))
    pictures = [
        _boxes(book, rows, organ, score, reference)
        for score in ("dsc", "asd_mm")
        for organ in book.info.organs
    ]
    text = Text(
        text="Federated rows; each value is one test case, its seeds averaged. Box: quartiles and "
        "median; whiskers: 1.5 times the quartiles' distance; dots beyond. The number beside a "
        "site is its test cases. Undefined ASD are not drawn."
    )
    return Section(title=title, blocks=(text, Gallery(pictures=tuple(pictures))))


def _boxes(book: Book, rows: Sequence[str], organ: str, score: Score, reference: str) -> Picture:
    sites = book.sites()
    height = (0.19 * len(rows) + 0.6) * len(sites) + 0.3
    figure, axes = new_figure(len(sites), 1, (CARD_INCHES, height), sharex=True)
    unit = "" if score == "dsc" else ", mm"
    with report_style():
        for axis, site in zip(axes[:, 0], sites, strict=True):
            values = [
                case_means(book.scores(score, row, "federated", organ, site=site)) for row in rows
            ]
            count = max(len(item) for item in values)
            axis.set_title(f"site {site} ({count})")
            _draw_boxes(axis, values, rows, reference)
        axes[-1, 0].set_xlabel(f"{SCORE_NAMES[score]} of the {organ}{unit}")
    name = SCORE_NAMES[score]
    return to_picture(
        figure,
        f"boxes_{score}_{organ}",
        f"Box plots of {name} of the {organ} by method, one panel for each site",
        f"{name}{unit}, {organ}.",
    )


def _draw_boxes(
    axis: Any, values: Sequence[Sequence[float]], rows: Sequence[str], reference: str
) -> None:
    drawn = axis.boxplot(
        [list(item) for item in values],
        orientation="horizontal",
        widths=0.65,
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 4},
        medianprops={"color": "#000000"},
    )
    for box, row in zip(drawn["boxes"], rows, strict=True):
        box.set_facecolor(HIGHLIGHT if row == reference else PALE)
    for place, item in enumerate(values, 1):
        if not item:
            axis.text(0.01, place, NONE, transform=axis.get_yaxis_transform(), va="center")
    axis.set_yticks(range(1, len(rows) + 1), rows)
    axis.invert_yaxis()
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(labelbottom=True)
    axis.grid(axis="y", visible=False)


def curves_section(book: Book, reference: str) -> Section:
    """Validation DSC by row; losses of the reference; trusted fraction of all who have one."""
    others = (_losses(book, reference), _trusted(book))
    pictures = [*_validation(book), *(picture for picture in others if picture is not None)]
    text = Text(
        text="Federated runs; means over folds and seeds. The trusted fraction is the share, "
        "of the voxels of unlabelled scans that are predicted as an organ, where M > gamma: near 0 "
        "or near 1, the map did not choose."
        if pictures
        else "No complete federated run has figures by round."
    )
    blocks = (text, Gallery(pictures=tuple(pictures))) if pictures else (text,)
    return Section(title="Learning curves", blocks=blocks)


def _validation(book: Book) -> list[Picture]:
    """A panel a row, with all other rows in grey: one panel would need thirteen colours."""
    found = {
        row: points[""]
        for row in book.rows_of("federated")
        if (points := _by_round(book, row, "validation_dsc", by_site=False))
    }
    rows = list(found)
    return [
        line_panels(
            {row: {"this method": found[row]} for row in rows[start : start + _PANELS]},
            background=found,
            name=f"curves_validation_{start // _PANELS + 1}",
            alt="Validation DSC by round, one panel for each method",
            caption="Validation DSC by round, mean over sites and organs; grey: other methods.",
            y_limits=(0, 1),
        )
        for start in range(0, len(rows), _PANELS)
    ]


def _losses(book: Book, reference: str) -> Picture | None:
    panels: dict[str, Lines] = {}
    for field, title in _LOSSES.items():
        points = _by_round(book, reference, field, by_site=True)
        if points:
            panels[title] = points
    if not panels:
        return None
    return line_panels(
        panels,
        name="curves_losses",
        order=_sites(book),
        alt=f"Losses of {reference} by round, one line for each site",
        caption=f"Losses of {reference} by round and site.",
    )


def _trusted(book: Book) -> Picture | None:
    panels: dict[str, Lines] = {}
    for row in book.rows_of("federated"):
        points = _by_round(book, row, "trusted_fraction", by_site=True)
        if points:
            panels[row] = points
    if not panels:
        return None
    return line_panels(
        panels,
        name="curves_trusted",
        order=_sites(book),
        alt="Trusted fraction by round, one panel for each method, one line for each site",
        caption="Trusted fraction by round and site.",
        y_limits=(-0.02, 1.02),
    )


def _sites(book: Book) -> list[str]:
    return sorted({f"site {item.site}" for run in book.runs for item in run.rounds})


def _by_round(book: Book, row: str, field: str, *, by_site: bool) -> _Points:
    """Means over folds and seeds (and sites) of what is there."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in book.runs_of(row, "federated"):
        for item in run.rounds:
            value = _value(item, field)
            if value is not None:
                line = f"site {item.site}" if by_site else ""
                found.setdefault(line, {}).setdefault(item.round, []).append(value)
    return {
        line: [(float(number), float(np.mean(v))) for number, v in sorted(rounds.items())]
        for line, rounds in sorted(found.items())
    }


def _value(item: RoundRow, field: str) -> float | None:
    value: float | None = getattr(item, field)
    return value
