"""The health of the labels that sites give their unlabelled scans, on the federation's page."""

from typing import Any

from reporting.blocks import Group, Table
from server.monitoring.metrics import TWIN
from server.monitoring.score_tables import cell
from server.monitoring.tracked import TrackedSite, TrackedStudy

# Losses of a round that are no losses: shares and distances, drawn apart.
HEALTH = ("agreement", "drift")


def health_table(study: TrackedStudy) -> list[Table]:
    """By site, of its last round that has each number; nothing where no site has any."""
    records = [record for site in study.sites if (record := _record(site, study.organs))]
    if not records:
        return []
    trusted = tuple(f"trusted, {organ}" for organ in study.organs)
    rows = tuple(tuple(cell(value, 3) for value in record.values()) for record in records)
    return [
        Table(
            name="pseudo_labels",
            caption="Labels of unlabelled scans, by site, in its last round",
            header=("site", *trusted, "agreement", "drift", "gain by unlabelled scans"),
            groups=(Group(title="", rows=rows),),
            note="Trusted: share of the voxels predicted as an organ that are believed, or, "
            "where they weigh M, that are over gamma. "
            "Agreement: share of the organs' voxels on which the model and its teacher are of one "
            "mind. Drift: distance of their weights, as a share of the teacher's. Gain: validation "
            "DSC of the site's update less that of the same round without unlabelled scans, where "
            "the site compares.",
            records=records,
            cards=True,
        )
    ]


def _record(site: TrackedSite, organs: tuple[str, ...]) -> dict[str, Any] | None:
    names = {
        **{f"trusted_{organ}": f"trusted_fraction/{organ}" for organ in organs},
        **{name: f"loss/{name}" for name in HEALTH},
        "gain": TWIN,
    }
    values = {
        key: series[max(series)] if (series := site.series(name)) else None
        for key, name in names.items()
    }
    if all(value is None for value in values.values()):
        return None
    return {"site": site.site, **values}
