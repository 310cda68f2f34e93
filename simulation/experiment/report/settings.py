"""Compares federated, pooled and local training, and what each site gains."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from reporting.blocks import Block, Group, Section, Table, Text
from simulation.experiment.report.formatting import (
    Column,
    csv_columns,
    line_table,
    mean_sd,
    number,
    p_value,
    signed,
    signed_span,
)
from simulation.experiment.report.results import ALL_ORGANS, Results, chosen
from simulation.experiment.report.statistics import Difference, Summary
from simulation.experiment.store import SETTINGS, Setting

TITLE = "Federated, pooled and local by site"


@dataclass(frozen=True, kw_only=True)
class SiteLine:
    """DSC of one method at one site by setting, and the federation's gain over the local model."""

    method: str
    organ: str
    site: str
    federated: Summary
    pooled: Summary
    pooled_equal_steps: Summary
    local: Summary
    gain: Difference


_COLUMNS: tuple[Column, ...] = (
    ("site", lambda line: line.site),
    ("federated", lambda line: mean_sd(line.federated)),
    ("pooled", lambda line: mean_sd(line.pooled)),
    ("pooled-equal-steps", lambda line: mean_sd(line.pooled_equal_steps)),
    ("local", lambda line: mean_sd(line.local)),
    ("gain", lambda line: signed(line.gain.mean)),
    ("interval", lambda line: signed_span(line.gain.interval)),
    ("p", lambda line: p_value(line.gain.p)),
    ("cases", lambda line: str(_cases(line))),
)
# Said wherever both stand.
POOLED_TWICE = (
    "pooled: one model on all scans, for as many optimiser steps as one site takes; "
    "pooled-equal-steps: the same, in each round for as many as all its sites together"
)


@dataclass(frozen=True, kw_only=True)
class WithheldLine:
    """DSC of one organ on a site's unlabelled training scans, by setting."""

    organ: str
    site: str
    dsc: dict[Setting, Summary]


def _cases(line: SiteLine) -> int:
    return max(s.n for s in (line.federated, line.pooled, line.pooled_equal_steps, line.local))


def site_line(results: Results, method: str, organ: str, site: str = "") -> SiteLine:
    """The line of a site, or of all sites."""
    return SiteLine(
        method=method,
        organ=organ,
        site=site or "all",
        **{
            setting.replace("-", "_"): results.summary("dsc", method, setting, organ, site=site)
            for setting in SETTINGS
        },
        gain=results.difference("dsc", (method, "federated"), (method, "local"), organ, site=site),
    )


def gains(results: Results, method: str) -> list[SiteLine]:
    """Sites where the method has a federated and a local score."""
    lines = [site_line(results, method, ALL_ORGANS, site) for site in results.sites()]
    return [line for line in lines if line.gain.n]


def federation_section(results: Results, reference: str) -> Section:
    """One table a method that was run in several settings; the reference by organ too."""
    methods = [method for method in results.methods if len(results.settings_of(method)) > 1]
    methods.sort(key=lambda method: method != reference)
    if not methods:
        text = "No row has complete runs of more than one way yet."
        return Section(title=TITLE, blocks=(Text(text=text),))
    blocks: list[Block] = [
        Text(
            text="DSC, mean (SD) over a site's test cases. Federated: one model for all sites, "
            f"trained where the scans are; {POOLED_TWICE}; local: "
            "each site's own model, on its own scans. Gain: federated minus local on the same "
            "cases, with its 95% interval and Wilcoxon's p, not corrected."
        )
    ]
    if taken := _steps(results, methods):
        blocks.append(taken)
    for method in methods:
        organs = (ALL_ORGANS, *results.info.organs) if method == reference else (ALL_ORGANS,)
        blocks.append(_table(results, method, organs))
    withheld = _withheld(results, reference)
    blocks.append(withheld or Text(text="No withheld labels of unlabelled scans were scored."))
    return Section(title=TITLE, blocks=tuple(blocks))


def steps_taken(results: Results, method: str, setting: Setting) -> float | None:
    """Optimiser steps of S in one run of a method, all sites together; None where not recorded."""
    rounds = chosen(results.rounds, method=method, setting=setting).dropna(subset="steps")
    by_run = rounds.groupby(["fold", "seed"]).steps.sum()
    return float(by_run.mean()) if len(by_run) else None


def _steps(results: Results, methods: Sequence[str]) -> Table | None:
    """Optimiser steps as the sites reported them: of all sites together, the mean over runs."""
    taken = {
        (method, setting): steps_taken(results, method, setting)
        for method in methods
        for setting in results.settings_of(method)
    }
    if all(steps is None for steps in taken.values()):
        return None
    return Table(
        name="steps",
        caption="Optimiser steps of a run, all sites together",
        header=("method", *SETTINGS),
        groups=(
            Group(
                title="",
                rows=tuple((m, *(number(taken.get((m, s)), 0) for s in SETTINGS)) for m in methods),
            ),
        ),
        records=tuple(
            {"row": method, "way": setting, "steps": steps}
            for (method, setting), steps in taken.items()
        ),
    )


def _table(results: Results, method: str, organs: tuple[str, ...]) -> Table:
    sites = (*results.sites(), "")
    lines = [site_line(results, method, organ, site) for organ, site in product(organs, sites)]
    return line_table(f"sites_{method}", f"{method}: DSC by site", lines, _COLUMNS, by="organ")


def _withheld(results: Results, method: str) -> Table | None:
    """Unlabelled training scans, whose labels only the experiment knows."""
    settings = [way for way in SETTINGS if len(results.cases_of(method, way, part="withheld"))]
    if not settings:
        return None
    lines = [
        WithheldLine(
            organ=organ,
            site=site,
            dsc={
                way: results.summary("dsc", method, way, organ, site=site, part="withheld")
                for way in settings
            },
        )
        for organ in (ALL_ORGANS, *results.info.organs)
        for site in results.sites("withheld")
    ]
    columns: list[Column] = [
        ("site", lambda line: line.site),
        *((setting, partial(_dsc_in, setting)) for setting in settings),
        ("scans", lambda line: str(max(summary.n for summary in line.dsc.values()))),
    ]
    return line_table(
        "withheld",
        f"{method}: DSC on unlabelled training scans, by site",
        lines,
        columns,
        by="organ",
        note="Labels that only the experiment knows: no model was trained or chosen by them.",
        csv=[
            {"row": method, "organ": line.organ, "site": line.site, "way": setting}
            | csv_columns("dsc", summary)
            for line in lines
            for setting, summary in line.dsc.items()
        ],
    )


def _dsc_in(setting: Setting, line: WithheldLine) -> str:
    return mean_sd(line.dsc[setting])
