"""Federated, pooled and local side by side, and what each site gains."""

from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict

from reporting.blocks import Block, Group, Section, Table, Text
from simulation.experiment.report.formatting import mean_sd, p_value, signed, signed_span
from simulation.experiment.report.published import difference_record, summary_record
from simulation.experiment.report.results import ALL_ORGANS, Book
from simulation.experiment.report.statistics import (
    Difference,
    Summary,
    case_means,
    difference,
    summarise,
)
from simulation.experiment.store import WAYS, Way

TITLE = "Federated, pooled and local by site"


class SiteLine(BaseModel):
    """DSC of one row at one site by way, and the federation's gain over the local model."""

    model_config = ConfigDict(frozen=True)

    row: str
    organ: str
    site: str
    by_way: dict[Way, Summary]
    gain: Difference


def site_line(book: Book, row: str, organ: str, site: str = "") -> SiteLine:
    """The line of a site, or of all sites together."""
    scores = {way: book.scores("dsc", row, way, organ, site=site) for way in WAYS}
    return SiteLine(
        row=row,
        organ=organ,
        site=site or "all",
        by_way={way: summarise(case_means(found)) for way, found in scores.items()},
        gain=difference(scores["federated"], scores["local"]),
    )


def gains(book: Book, row: str) -> list[SiteLine]:
    """Sites where the row has a federated and a local score."""
    lines = [site_line(book, row, ALL_ORGANS, site) for site in book.sites()]
    return [line for line in lines if line.gain.n]


def federation_section(book: Book, reference: str) -> Section:
    """One table a row that was run in more than one way; the reference by organ too."""
    rows = [row for row in book.rows if len(book.ways_of(row)) > 1]
    rows.sort(key=lambda row: row != reference)
    if not rows:
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
    for row in rows:
        organs = (ALL_ORGANS, *book.info.organs) if row == reference else (ALL_ORGANS,)
        blocks.append(_table(book, row, organs))
    withheld = _withheld(book, reference)
    blocks.append(withheld or Text(text="No withheld labels of unlabelled scans were scored."))
    return Section(title=TITLE, blocks=tuple(blocks))


def _table(book: Book, row: str, organs: tuple[str, ...]) -> Table:
    lines = [site_line(book, row, organ, site) for organ in organs for site in _sites(book)]
    return Table(
        name=f"sites_{row}",
        caption=f"{row}: DSC by site",
        header=("site", *WAYS, "gain", "interval", "p", "cases"),
        groups=tuple(
            Group(title=organ, rows=tuple(_cells(line) for line in lines if line.organ == organ))
            for organ in organs
        ),
        records=tuple(_record(line) for line in lines),
    )


def _sites(book: Book) -> tuple[str, ...]:
    return (*book.sites(), "")


def _cells(line: SiteLine) -> tuple[str, ...]:
    return (
        line.site,
        *(mean_sd(line.by_way[way]) for way in WAYS),
        signed(line.gain.mean),
        signed_span(line.gain.interval),
        p_value(line.gain.p),
        str(max(summary.n for summary in line.by_way.values())),
    )


def _record(line: SiteLine) -> dict[str, Any]:
    content: dict[str, Any] = {"row": line.row, "organ": line.organ, "site": line.site}
    for way in WAYS:
        content |= summary_record(line.by_way[way], way)
    return content | difference_record(line.gain, "gain")


def _withheld(book: Book, row: str) -> Table | None:
    """Unlabelled training scans, whose labels the study alone knows."""
    sites = book.sites("withheld")
    organs = (ALL_ORGANS, *book.info.organs)
    ways = [way for way in WAYS if any(book.cases(row, way, part="withheld"))]
    if not ways:
        return None
    found = {
        (organ, site, way): summarise(
            case_means(
                book.scores("dsc", row, way, organ, site=site, part="withheld"), over_folds=True
            )
        )
        for organ, site, way in product(organs, sites, ways)
    }
    return Table(
        name="withheld",
        caption=f"{row}: DSC on unlabelled training scans, by site",
        header=("site", *ways, "scans"),
        groups=tuple(
            Group(
                title=organ,
                rows=tuple(
                    (
                        site,
                        *(mean_sd(found[organ, site, way]) for way in ways),
                        str(max(found[organ, site, way].n for way in ways)),
                    )
                    for site in sites
                ),
            )
            for organ in organs
        ),
        note="Labels that the study alone knows; no model was trained on them or chosen by them.",
        records=tuple(
            {"row": row, "organ": organ, "site": site, "way": way, **summary_record(s, "dsc")}
            for (organ, site, way), s in found.items()
        ),
    )
