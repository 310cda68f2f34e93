"""Scores by site and organ, in the report of a real federation."""

from collections.abc import Sequence
from typing import Any

from reporting.blocks import Block, Group, Section, Table, Text
from server.monitoring.metrics import SCORED
from server.monitoring.tracked import TrackedSite, TrackedStudy

_NONE, _TOO_FEW = "-", "too few cases"


def scored_round(study: TrackedStudy) -> int | None:
    """The best round, or while there is none the last that any site scored."""
    if study.best_round is not None:
        return study.best_round
    scored = [
        round_number
        for site in study.sites
        for name, series in site.metrics.items()
        if name.startswith(("dsc/", "validation/dsc/"))
        for round_number in series
    ]
    return max(scored, default=None)


def scores_section(study: TrackedStudy) -> Section:
    """Means over each site's cases, a table for each part."""
    title = "Scores by site and organ"
    round_number = scored_round(study)
    if round_number is None:
        return Section(title=title, blocks=(Text(text="No site has scored the model yet."),))
    blocks: list[Block] = [
        Text(
            text=f"Means over a site's cases, as the site sent them, of the model of round "
            f"{round_number}. Scores of single cases never leave a site, so there are no intervals "
            "and no box plots here. Undefined ASD are in no mean; a failure is an organ that was "
            "missed, or found where there is none. A site tells no number that fewer cases stand "
            f"behind than its min_cases_reported: {_TOO_FEW}."
        )
    ]
    for part, prefix in (("test", ""), ("validation", "validation/")):
        records = [
            record
            for organ in study.organs
            for site in study.sites
            if (record := _score_record(site, organ, prefix, round_number)) is not None
        ]
        if records:
            blocks.append(_score_table(part, records))
        else:
            blocks.append(Text(text=f"No site has {part} scores of round {round_number}."))
    return Section(title=title, blocks=tuple(blocks))


def _score_record(
    site: TrackedSite, organ: str, prefix: str, round_number: int
) -> dict[str, Any] | None:
    """None where the site was not asked; without values where it has not drawn this organ."""
    part = "validation" if prefix else "test"
    names = ("dsc", "asd_mm", "failures")
    scores = {name: site.series(f"{prefix}{name}/{organ}").get(round_number) for name in names}
    of_part = tuple(f"{prefix}{name}/" for name in names)
    scored = site.series(f"{SCORED}{part}").get(round_number)
    if not (scored is not None and site.cases.get(part)) and not any(
        round_number in s for name, s in site.metrics.items() if name.startswith(of_part)
    ):
        return None
    failures = scores["failures"]
    return {
        "organ": organ,
        "site": site.site,
        "cases": int(scored) if scored else site.cases.get(part),
        "dsc": scores["dsc"],
        "asd_mm": scores["asd_mm"],
        "failures": None if failures is None else int(failures),
        "drawn": site.annotated.get(organ) != 0,
    }


def _score_table(part: str, records: Sequence[dict[str, Any]]) -> Table:
    organs = dict.fromkeys(record["organ"] for record in records)
    return Table(
        name=f"scores_{part}",
        caption=f"Scores of {part} cases",
        header=("site", "cases", "DSC", "ASD, mm", "failures"),
        groups=tuple(
            Group(
                title=organ,
                rows=tuple(
                    (
                        r["site"],
                        cell(r["cases"]),
                        _score_text(r, "dsc", 3),
                        _score_text(r, "asd_mm", 2),
                        _score_text(r, "failures"),
                    )
                    for r in records
                    if r["organ"] == organ
                ),
            )
            for organ in organs
        ),
        records=[{k: v for k, v in r.items() if k != "drawn"} for r in records],
    )


def _score_text(record: dict[str, Any], name: str, decimals: int = 1) -> str:
    """A dash only for what is not there: an organ that is not drawn, ASD where all failed."""
    if record[name] is not None or not record["drawn"]:
        return cell(record[name], decimals)
    return _NONE if name == "asd_mm" and record["failures"] is not None else _TOO_FEW


def cell(value: Any, decimals: int = 1) -> str:
    """A value in a table; a dash where there is none."""
    if value is None:
        return _NONE
    return f"{value:,.{decimals}f}" if isinstance(value, float) else str(value)
