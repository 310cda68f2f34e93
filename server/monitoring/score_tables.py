"""Scores by site and organ, in the report of a real federation."""

from collections.abc import Sequence
from typing import Any

from asdnet_models.sums import FAILURE_KINDS, FailureCount
from protocol.wire.metrics import HIGHEST
from reporting.blocks import Block, Group, Section, Table, Text
from server.monitoring.metrics import ESTIMATED, SCORED
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
            "and no box plots here. Undefined distances are in no mean. A failure is an organ that "
            "was missed, made up where there is none, or misplaced: it overlaps by nothing, or its "
            "ASD is over a tenth of the scan's longest edge. NSD is the share of both surfaces "
            f"within {_tolerance(study)} of the other one. A site tells no number that fewer cases "
            f"stand behind than its min_cases_reported: {_TOO_FEW}."
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
    return Section(title=title, blocks=(*blocks, *_estimated(study, round_number)))


def _estimated(study: TrackedStudy, round_number: int) -> list[Table]:
    """Of sites that cannot score themselves; nothing where there is none."""
    records = [
        {"site": site.site, "organ": organ, **values}
        for site in study.sites
        for organ in study.organs
        if (values := _estimate_of(site, organ, round_number))
    ]
    if not records:
        return []
    rows = tuple(
        (
            str(r["site"]),
            str(r["organ"]),
            cell(r["scans"]),
            f"{cell(r['dsc'], 2)} ± {cell(r['error'], 2)}",
        )
        for r in records
    )
    return [
        Table(
            name="scores_estimated",
            caption="Estimated, not measured: DSC of sites without a case to score",
            header=("site", "organ", "unlabelled scans", "DSC, estimated"),
            groups=(Group(title="", rows=rows),),
            note="From how sure the model is of these scans, held against the true DSC of the "
            "sites' validation cases. ± is what such an estimate was off by at sites that can "
            "measure themselves; a site whose scans are unlike all of theirs may be further off. "
            "No mean and no choice of a model is made of it.",
            records=records,
        )
    ]


def _estimate_of(site: TrackedSite, organ: str, round_number: int) -> dict[str, Any]:
    values = {
        name: site.series(f"{ESTIMATED}{name}/{organ}").get(round_number)
        for name in ("scans", "dsc", "error")
    }
    if values["dsc"] is None:
        return {}
    return {**values, "scans": int(values["scans"] or 0)}


def _score_record(
    site: TrackedSite, organ: str, prefix: str, round_number: int
) -> dict[str, Any] | None:
    """None where the site was not asked; without values where it has not drawn this organ."""
    part = "validation" if prefix else "test"
    names = (*HIGHEST, "failures", *FAILURE_KINDS)
    scores = {name: site.series(f"{prefix}{name}/{organ}").get(round_number) for name in names}
    of_part = tuple(f"{prefix}{name}/" for name in names)
    scored = site.series(f"{SCORED}{part}").get(round_number)
    if not (scored is not None and site.cases.get(part)) and not any(
        round_number in s for name, s in site.metrics.items() if name.startswith(of_part)
    ):
        return None
    counts = {name: scores[name] for name in ("failures", *FAILURE_KINDS)}
    return {
        "organ": organ,
        "site": site.site,
        "cases": int(scored) if scored else site.cases.get(part),
        **{name: scores[name] for name in HIGHEST},
        **{name: None if count is None else int(count) for name, count in counts.items()},
        "drawn": site.annotated.get(organ) != 0,
    }


def _score_table(part: str, records: Sequence[dict[str, Any]]) -> Table:
    organs = dict.fromkeys(record["organ"] for record in records)
    return Table(
        name=f"scores_{part}",
        caption=f"Scores of {part} cases",
        header=("site", "cases", "DSC", "ASD, mm", "HD95, mm", "NSD", "failures"),
        groups=tuple(
            Group(
                title=organ,
                rows=tuple(
                    (
                        r["site"],
                        cell(r["cases"]),
                        _score_text(r, "dsc", 3),
                        _score_text(r, "asd_mm", 2),
                        _score_text(r, "hd95_mm", 2),
                        _score_text(r, "nsd", 3),
                        _failures_text(r),
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
    """A dash only for what is not there: an organ that is not drawn, distances of no overlap."""
    if record[name] is not None or not record["drawn"]:
        return cell(record[name], decimals)
    one_empty = (record["missed"] or 0) + (record["made_up"] or 0)
    older = record["missed"] is None and record["failures"] is not None
    no_distance = name in ("asd_mm", "hd95_mm") and (older or one_empty == record["cases"])
    return _NONE if no_distance else _TOO_FEW


def _failures_text(record: dict[str, Any]) -> str:
    """How many failed and how; runs of before the kinds were told say how many only."""
    kinds = {kind: record[kind] or 0 for kind in FAILURE_KINDS}
    named = str(FailureCount(cases=record["cases"] or 0, **kinds))
    return named or _score_text(record, "failures")


def _tolerance(study: TrackedStudy) -> str:
    told = study.params.get("evaluation.nsd_tolerance_mm")
    return f"{told} mm" if told else "the study's tolerance"


def cell(value: Any, decimals: int = 1) -> str:
    """A value in a table; a dash where there is none."""
    if value is None:
        return _NONE
    return f"{value:,.{decimals}f}" if isinstance(value, float) else str(value)
