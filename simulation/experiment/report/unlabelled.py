"""What unlabelled scans and the confidence network add to the supervised method, by setting."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from reporting.blocks import Section, Text
from simulation.experiment.methods import METHODS, SUPERVISED
from simulation.experiment.report.formatting import (
    Column,
    line_table,
    mean_sd,
    p_value,
    signed,
    signed_span,
)
from simulation.experiment.report.results import Part, Results
from simulation.experiment.report.statistics import Difference, Summary
from simulation.experiment.store import SETTINGS, Setting

TITLE = "What the unlabelled scans add"
_ATTENTION = "AttSVNet"
# Methods that differ from the supervised one in more than what they learn without labels.
_OTHER_NETWORKS = {"VNet", "SVNet", _ATTENTION}
_PARTS: dict[Part, str] = {
    "test": "test scans",
    "withheld": "unlabelled training scans",
}


@dataclass(frozen=True, kw_only=True)
class GainLine:
    """One method against the supervised one, trained in the same setting, on one part."""

    part: Part
    setting: Setting
    method: str
    dsc: Summary
    gain: Difference


def supervised_row(results: Results) -> str:
    """The row without unlabelled scans: the one of few labels where it was run, or the paper's."""
    return SUPERVISED if SUPERVISED in results.methods else _ATTENTION


def _columns(supervised: str) -> tuple[Column, ...]:
    return (
        ("method", lambda line: line.method),
        ("way", lambda line: line.setting),
        ("DSC", lambda line: mean_sd(line.dsc)),
        (f"minus {supervised}", lambda line: signed(line.gain.mean)),
        ("interval", lambda line: signed_span(line.gain.interval)),
        ("p", lambda line: p_value(line.gain.p)),
        ("scans", lambda line: str(line.gain.n)),
    )


def gain_lines(results: Results) -> Iterator[GainLine]:
    """Every method with a supervised counterpart; mean DSC over organs, one value a case."""
    supervised = supervised_row(results)
    methods = [
        method
        for method in results.methods
        if method not in (*_OTHER_NETWORKS, supervised)
        and (method not in METHODS or METHODS[method].tables != (1,))
    ]
    for part, setting, method in product(_PARTS, SETTINGS, methods):
        gain = results.difference("dsc", (method, setting), (supervised, setting), part=part)
        if gain.n:
            dsc = results.summary("dsc", method, setting, part=part)
            yield GainLine(part=part, setting=setting, method=method, dsc=dsc, gain=gain)


def unlabelled_section(results: Results) -> Section:
    """Gains over the supervised method, on test scans and on the unlabelled ones."""
    lines = list(gain_lines(results))
    supervised = supervised_row(results)
    if not lines:
        text = f"No setting has complete runs of {supervised} and of another method yet."
        return Section(title=TITLE, blocks=(Text(text=text),))
    table = line_table(
        "unlabelled",
        f"Mean DSC over organs against {supervised}, the same without unlabelled scans",
        lines,
        _columns(supervised),
        by="part",
        titles=_PARTS,
        note="Only the experiment knows the labels of unlabelled scans. Paired by case, seeds "
        "averaged; 95% interval by bootstrap over cases, Wilcoxon's p, not corrected.",
    )
    return Section(title=TITLE, blocks=(table,))
