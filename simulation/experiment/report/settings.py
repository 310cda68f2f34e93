"""Federated, pooled and local side by side, and what each site gains."""

from dataclasses import dataclass
from itertools import product

from reporting.blocks import Block, Section, Table, Text
from simulation.experiment.report.formatting import (
    groups,
    mean_sd,
    p_value,
    records,
    signed,
    signed_span,
)
from simulation.experiment.report.results import ALL_ORGANS, Results
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
    local: Summary
    gain: Difference


@dataclass(frozen=True, kw_only=True)
class WithheldLine:
    """DSC of one method on a site's unlabelled training scans."""

    method: str
    organ: str
    site: str
    setting: Setting
    dsc: Summary


def site_line(results: Results, method: str, organ: str, site: str = "") -> SiteLine:
    """The line of a site, or of all sites together."""
    return SiteLine(
        method=method,
        organ=organ,
        site=site or "all",
        **{way: results.summary("dsc", method, way, organ, site=site) for way in SETTINGS},
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
            "trained where the scans are; pooled: one model on all scans in one place; local: "
            "each site's own model, on its own scans. Gain: federated minus local on the same "
            "cases, with its 95% interval and Wilcoxon's p, not corrected."
        )
    ]
    for method in methods:
        organs = (ALL_ORGANS, *results.info.organs) if method == reference else (ALL_ORGANS,)
        blocks.append(_table(results, method, organs))
    withheld = _withheld(results, reference)
    blocks.append(withheld or Text(text="No withheld labels of unlabelled scans were scored."))
    return Section(title=TITLE, blocks=tuple(blocks))


def _table(results: Results, method: str, organs: tuple[str, ...]) -> Table:
    sites = (*results.sites(), "")
    lines = [site_line(results, method, organ, site) for organ, site in product(organs, sites)]
    return Table(
        name=f"sites_{method}",
        caption=f"{method}: DSC by site",
        header=("site", *SETTINGS, "gain", "interval", "p", "cases"),
        groups=groups(lines, "organ", _cells),
        records=records(lines),
    )


def _cells(line: SiteLine) -> tuple[str, ...]:
    summaries = (line.federated, line.pooled, line.local)
    return (
        line.site,
        *(mean_sd(summary) for summary in summaries),
        signed(line.gain.mean),
        signed_span(line.gain.interval),
        p_value(line.gain.p),
        str(max(summary.n for summary in summaries)),
    )


def _withheld(results: Results, method: str) -> Table | None:
    """Unlabelled training scans, whose labels the study alone knows."""
    settings = [way for way in SETTINGS if len(results.cases_of(method, way, part="withheld"))]
    if not settings:
        return None
    organs, sites = (ALL_ORGANS, *results.info.organs), results.sites("withheld")

    def line(organ: str, site: str, setting: Setting) -> WithheldLine:
        dsc = results.summary("dsc", method, setting, organ, site=site, part="withheld")
        return WithheldLine(method=method, organ=organ, site=site, setting=setting, dsc=dsc)

    lines = {key: line(*key) for key in product(organs, sites, settings)}

    def cells(first: WithheldLine) -> tuple[str, ...]:
        found = [lines[first.organ, first.site, setting].dsc for setting in settings]
        return (first.site, *map(mean_sd, found), str(max(summary.n for summary in found)))

    first = [line for line in lines.values() if line.setting == settings[0]]
    return Table(
        name="withheld",
        caption=f"{method}: DSC on unlabelled training scans, by site",
        header=("site", *settings, "scans"),
        groups=groups(first, "organ", cells),
        note="Labels that the study alone knows; no model was trained on them or chosen by them.",
        records=records(list(lines.values())),
    )
