"""Box plots of scores and the curves of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
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
from simulation.experiment.report.results import SCORE_NAMES, Results, Score, chosen
from simulation.experiment.report.statistics import means

_LOSSES = {
    "loss_total": "total (Eq. 7)",
    "loss_dice": "Dice (Eq. 1)",
    "loss_adversarial": "adversarial (Eq. 5)",
    "loss_region": "region attention (Eq. 6)",
    "loss_confidence": "confidence network (Eq. 3)",
}
_PANELS = 5


def boxes_section(results: Results, reference: str) -> Section:
    """DSC and ASD: a picture for each organ, a panel for each site, a box for each method."""
    title = "Scores by site and organ"
    methods = results.methods_of("federated")
    if not methods:
        return Section(title=title, blocks=(Text(text="No federated run is complete yet."),))
    pictures = [
        _boxes(results, methods, organ, score, reference)
        for score in ("dsc", "asd_mm")
        for organ in results.info.organs
    ]
    text = Text(
        text="Federated rows; each value is one test case, its seeds averaged. Box: quartiles and "
        "median; whiskers: 1.5 times the quartiles' distance; dots beyond. The number next to a "
        "site is its test cases. Undefined ASD are not drawn."
    )
    return Section(title=title, blocks=(text, Gallery(pictures=tuple(pictures))))


def _boxes(
    results: Results, methods: Sequence[str], organ: str, score: Score, reference: str
) -> Picture:
    sites = results.sites()
    height = (0.19 * len(methods) + 0.6) * len(sites) + 0.3
    figure, axes = new_figure(len(sites), 1, (CARD_INCHES, height), sharex=True)
    unit = "" if score == "dsc" else ", mm"
    with report_style():
        for axis, site in zip(axes[:, 0], sites, strict=True):
            values = [
                results.case_means(score, method, "federated", organ, site=site)
                for method in methods
            ]
            count = max(len(item) for item in values)
            axis.set_title(f"site {site} ({count})")
            _draw_boxes(axis, values, methods, reference)
        axes[-1, 0].set_xlabel(f"{SCORE_NAMES[score]} of the {organ}{unit}")
    name = SCORE_NAMES[score]
    return to_picture(
        figure,
        f"boxes_{score}_{organ}",
        f"Box plots of {name} of the {organ} by method, one panel for each site",
        f"{name}{unit}, {organ}.",
    )


def _draw_boxes(
    axis: Any, values: Sequence[Sequence[float]], methods: Sequence[str], reference: str
) -> None:
    drawn = axis.boxplot(
        [list(item) for item in values],
        orientation="horizontal",
        widths=0.65,
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 4},
        medianprops={"color": "#000000"},
    )
    for box, method in zip(drawn["boxes"], methods, strict=True):
        box.set_facecolor(HIGHLIGHT if method == reference else PALE)
    for row, item in enumerate(values, 1):
        if not item:
            axis.text(0.01, row, NONE, transform=axis.get_yaxis_transform(), va="center")
    axis.set_yticks(range(1, len(methods) + 1), methods)
    axis.invert_yaxis()
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(labelbottom=True)
    axis.grid(axis="y", visible=False)


def curves_section(results: Results, reference: str) -> Section:
    """Validation DSC by method; losses of the reference; trusted fraction of all who have one."""
    others = (_losses(results, reference), _trusted(results))
    pictures = [*_validation(results), *(picture for picture in others if picture is not None)]
    text = Text(
        text="Federated runs; means over folds and seeds. The trusted fraction is the share, "
        "of the voxels of unlabelled scans that are predicted as an organ, where M > gamma: near 0 "
        "or near 1, the map did not choose."
        if pictures
        else "No complete federated run has figures by round."
    )
    blocks = (text, Gallery(pictures=tuple(pictures))) if pictures else (text,)
    return Section(title="Learning curves", blocks=blocks)


def _validation(results: Results) -> list[Picture]:
    """A panel a method, with all others in grey: one panel would need thirteen colours."""
    curves = _curves(results.rounds, "validation_dsc", ["method"])
    shown = {method: curves[method] for method in results.methods if method in curves}
    methods = list(shown)
    return [
        line_panels(
            {m: {"this method": shown[m]} for m in methods[start : start + _PANELS]},
            background=shown,
            name=f"curves_validation_{start // _PANELS + 1}",
            alt="Validation DSC by round, one panel for each method",
            caption="Validation DSC by round, mean over sites and organs; grey: other methods.",
            y_limits=(0, 1),
        )
        for start in range(0, len(methods), _PANELS)
    ]


def _losses(results: Results, reference: str) -> Picture | None:
    rounds = chosen(results.rounds, method=reference)
    curves = {title: _curves(rounds, field, ["site"]) for field, title in _LOSSES.items()}
    return _by_site(
        results,
        {title: lines for title, lines in curves.items() if lines},
        name="curves_losses",
        alt=f"Losses of {reference} by round, one line for each site",
        caption=f"Losses of {reference} by round and site.",
    )


def _trusted(results: Results) -> Picture | None:
    curves = {
        method: _curves(chosen(results.rounds, method=method), "trusted_fraction", ["site"])
        for method in results.methods
    }
    return _by_site(
        results,
        {method: lines for method, lines in curves.items() if lines},
        name="curves_trusted",
        alt="Trusted fraction by round, one panel for each method, one line for each site",
        caption="Trusted fraction by round and site.",
        y_limits=(-0.02, 1.02),
    )


def _by_site(results: Results, panels: Mapping[str, Lines], **options: Any) -> Picture | None:
    """A line for each site, in the same colour in all pictures."""
    order = [f"site {site}" for site in sorted(results.rounds.site.unique())]
    named = {
        title: {f"site {site}": points for site, points in lines.items()}
        for title, lines in panels.items()
    }
    return line_panels(named, order=order, **options) if named else None


def _curves(rounds: pd.DataFrame, field: str, by: list[str]) -> Lines:
    """Points (round, mean) by site or method, of federated runs, where there is a value."""
    federated = chosen(rounds, setting="federated").dropna(subset=field)
    federated = federated.sort_values("round", kind="stable")
    points = means(federated.set_index([*by, "round"])[field], [*by, "round"])
    curves: dict[str, list[tuple[float, float]]] = {}
    for (line, number), mean in points.items():
        curves.setdefault(str(line), []).append((float(number), mean))
    return dict(sorted(curves.items()))
