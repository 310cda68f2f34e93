"""The sections of the report of a real federation, from what sites sent and MLflow kept."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from protocol.wire.reports import CASE_PARTS
from protocol.wording import counted
from reporting.blocks import Block, Bullets, Facts, Gallery, Group, Picture, Section, Table, Text
from reporting.figures import Lines, line_panels
from reporting.render import render_page
from server.monitoring.label_health import HEALTH, health_table
from server.monitoring.metrics import CLIPPED, WORST_SITE
from server.monitoring.score_tables import cell, scored_round, scores_section
from server.monitoring.tracked import Series, TrackedSite, TrackedStudy

_STATUS = {
    "FINISHED": "finished: all rounds were trained",
    "FAILED": "stopped before its last round",
    "KILLED": "ended by a person before its last round",
    "RUNNING": "at work, or MLflow was away when it ended",
}
_MEBIBYTE = 1024.0**2


def report_page(study: TrackedStudy) -> str:
    """All of it as one HTML file."""
    rounds, sites = counted(study.rounds, "round"), counted(len(study.sites), "site")
    subtitle = f"{rounds}, {sites}, from what MLflow has"
    return render_page(f"Federation report: {study.name}", subtitle, sections_of(study))


def sections_of(study: TrackedStudy) -> list[Section]:
    """All sections; a sentence where MLflow has no numbers for one."""
    return [
        _key_findings(study),
        _protocol(study),
        _sites(study),
        scores_section(study),
        _curves(study),
    ]


def _key_findings(study: TrackedStudy) -> Section:
    asked = study.params.get("training.rounds", "?")
    left_out = {s.site: len(s.left_out) for s in study.sites if s.left_out}
    items = [
        f"{study.rounds} of {asked} rounds, {counted(len(study.sites), 'site')}; "
        f"{_STATUS.get(study.status, study.status)}.",
        _score_sentence(study),
    ]
    if left_out:
        named = ", ".join(f"{site} in {count}" for site, count in left_out.items())
        items.append(f"Left out of rounds: {named}.")
    else:
        items.append("No site was left out of a round.")
    if study.resumed:
        rounds = "rounds" if len(study.resumed) > 1 else "round"
        items.append(
            "Its process at the centre ended early, or was paused, and was started again after "
            f"{rounds} {', '.join(map(str, study.resumed))}. No complete round is lost by that."
        )
    trusted = [series[max(series)] for s in study.sites if (series := s.series("trusted_fraction"))]
    if trusted:
        items.append(
            "Of the unlabelled voxels predicted as an organ, sites trusted "
            f"{min(trusted):.0%} to {max(trusted):.0%} in their last round; "
            "near 0% or 100%, the confidence map did not choose."
        )
    blocks: list[Block] = [Bullets(items=tuple(items))]
    if study.hints:
        blocks += [
            Text(text="What is wrong, and what may help:", tone="caution"),
            Bullets(items=study.hints),
        ]
    return Section(title="Key findings", blocks=tuple(blocks))


def _score_sentence(study: TrackedStudy) -> str:
    round_number = scored_round(study)
    if round_number is None:
        return "No site has scored the model yet."
    kind = "best" if study.best_round is not None else "last scored"
    validation = study.series("validation_dsc").get(round_number)
    if validation is None:
        return f"The {kind} model is of round {round_number}; it has no validation DSC."
    worst = study.series(WORST_SITE).get(round_number)
    at_worst = "" if worst is None else f"; {worst:.3f} at the site where it is lowest"
    return (
        f"The {kind} model is of round {round_number}: validation DSC {validation:.3f}, mean over "
        f"sites and organs{at_worst}."
    )


def _protocol(study: TrackedStudy) -> Section:
    started = datetime.fromtimestamp(study.started_ms / 1000, UTC).isoformat(timespec="seconds")
    facts = [("run", study.name), ("started", started), *_grouped(study.params)]
    return Section(title="What was agreed", blocks=(Facts(items=tuple(facts)),))


def _grouped(params: Mapping[str, str]) -> list[tuple[str, str]]:
    """A line a section of the protocol: its keys are joined by dots."""
    flat = {key: value for key, value in params.items() if "." not in key}
    groups: dict[str, list[str]] = {}
    for key, value in params.items():
        section, dot, rest = key.partition(".")
        if dot:
            groups.setdefault(section, []).append(f"{rest} {value}")
    return [
        *sorted(flat.items()),
        *((section, ", ".join(sorted(lines))) for section, lines in sorted(groups.items())),
    ]


def _sites(study: TrackedStudy) -> Section:
    if not study.sites:
        return Section(title="Sites", blocks=(Text(text="No site has taken part yet."),))
    records = [_site_record(site) for site in study.sites]
    table = Table(
        name="sites",
        caption="What sites declared, and what they did",
        header=(
            "site",
            *CASE_PARTS,
            "rounds trained",
            "left out",
            "training, s",
            "sent, MiB",
            "received, MiB",
        ),
        groups=(Group(title="", rows=tuple(tuple(cell(v) for v in r.values()) for r in records)),),
        note=f"The rounds took {sum(study.series('seconds').values()):,.0f} s at the centre, with "
        "waiting. Bytes are those of rounds in which the site's update came.",
        records=records,
        cards=True,
    )
    reasons = tuple(
        f"Site {site.site}, round {round_number}: {why}."
        for site in study.sites
        for round_number, why in sorted(site.left_out.items())
    )
    blocks: list[Block] = [table, *_drawn_organs(study), *health_table(study)]
    if reasons:
        blocks += [Text(text="Left out, with the reason:"), Bullets(items=reasons)]
    shortened = _shortened(study)
    if shortened:
        blocks += [
            Text(text="Updates that were too large and shortened:"),
            Bullets(items=shortened),
        ]
    return Section(title="Sites", blocks=tuple(blocks))


def _shortened(study: TrackedStudy) -> tuple[str, ...]:
    return tuple(
        f"Site {site.site}, {name.removeprefix(CLIPPED)}: in "
        f"{counted(len(series), 'round')}, at the most by "
        f"{1 / max(min(series.values()), 1e-300):.3g} times."
        for site in study.sites
        for name, series in sorted(site.metrics.items())
        if name.startswith(CLIPPED)
    )


def _site_record(site: TrackedSite) -> dict[str, Any]:
    return {
        "site": site.site,
        **{name: site.cases.get(name) for name in CASE_PARTS},
        "rounds_trained": len(site.series("seconds")),
        "left_out": len(site.left_out),
        "seconds": sum(site.series("seconds").values()),
        "mib_up": sum(site.series("bytes_up").values()) / _MEBIBYTE,
        "mib_down": sum(site.series("bytes_down").values()) / _MEBIBYTE,
    }


def _drawn_organs(study: TrackedStudy) -> list[Table]:
    """In how many cases each organ is drawn; nothing where every site has drawn all in all."""
    if all({*s.annotated.values()} <= {s.cases.get("labelled")} for s in study.sites):
        return []
    records = [
        {"site": site.site, **{organ: site.annotated.get(organ) or None for organ in study.organs}}
        for site in study.sites
    ]
    return [
        Table(
            name="drawn_organs",
            caption="Labelled training cases in which each organ is drawn",
            header=("site", *study.organs),
            groups=(Group(title="", rows=tuple(tuple(map(cell, r.values())) for r in records)),),
            note="An organ that a site has not drawn is neither trained on nor scored there.",
            records=records,
        )
    ]


def _curves(study: TrackedStudy) -> Section:
    scores: dict[str, Lines] = {
        "mean over sites and organs": _lines(study.series("validation_dsc")),
        "lowest of a site": _lines(study.series(WORST_SITE)),
    }
    for organ in study.organs:
        scores[organ] = _by_site(study, f"validation/dsc/{organ}")
    tests = {organ: _by_site(study, f"dsc/{organ}") for organ in study.organs}
    losses = {
        name.removeprefix("loss/"): _by_site(study, name)
        for name in sorted({n for s in study.sites for n in s.metrics if n.startswith("loss/")})
        if name.removeprefix("loss/") not in HEALTH
    }
    trusted = {"trusted fraction": _by_site(study, "trusted_fraction")} | {
        f"trusted, {organ}": _by_site(study, f"trusted_fraction/{organ}") for organ in study.organs
    }
    teacher = {name: _by_site(study, f"loss/{name}") for name in HEALTH}
    order = [f"site {site.site}" for site in study.sites]
    drawn = (
        _picture(scores, order, "validation", "Validation DSC by round", (0, 1)),
        _picture(tests, order, "test", "DSC of test cases by round", (0, 1)),
        _picture(losses, order, "losses", "Losses by round", None),
        _picture(trusted, order, "trusted", "Trusted fraction by round", (-0.02, 1.02)),
        _picture(
            teacher, order, "teacher", "Agreement of model and teacher, and drift by round", None
        ),
    )
    pictures = tuple(picture for picture in drawn if picture is not None)
    blocks: tuple[Block, ...] = (Gallery(pictures=pictures),)
    if not pictures:
        blocks = (Text(text="MLflow has no complete round yet."),)
    return Section(title="Learning curves", blocks=blocks)


def _picture(
    panels: dict[str, Lines],
    order: Sequence[str],
    name: str,
    what: str,
    limits: tuple[float, float] | None,
) -> Picture | None:
    drawn = {title: lines for title, lines in panels.items() if any(lines.values())}
    if not drawn:
        return None
    return line_panels(
        drawn,
        order=order,
        name=f"curves_{name}",
        alt=f"{what}, one line for each site",
        caption=f"{what} and site.",
        y_limits=limits,
    )


def _by_site(study: TrackedStudy, name: str) -> Lines:
    return {
        f"site {site.site}": list(site.series(name).items())
        for site in study.sites
        if site.series(name)
    }


def _lines(series: Series) -> Lines:
    return {"all": list(series.items())} if series else {}
