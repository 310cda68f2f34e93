"""The page as HTML: words, times and curves of an overview."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from jinja2 import Environment

from flower_compat.control import DOES_NOT_ANSWER
from protocol.wording import counted, figures
from reporting.palette import ON_PAPER
from reporting.render import make_environment
from server.monitoring.progress import clock
from server.service.curves import COLOURS, HEIGHT, WIDTH, Panel, panel
from server.service.views import CentreView, Curve, Overview, Study

_WARN_DAYS = 30
_WARN_DISK = 0.05
# Studies that have ended and are shown whole; of the others a row.
_ENDED_SHOWN = 1
# On dark paper black and dark blue are not seen.
_ON_DARK = ("#6BB7E8", "#F0905A", "#3CCFA4", "#E3A6C9", "#F2B84B", "#A9DCF7", "#FFFFFF")


@dataclass(frozen=True, kw_only=True)
class StudyBlock:
    """A study that is shown whole."""

    study: Study
    panels: tuple[Panel, ...]
    sites: tuple[tuple[str, int], ...]


def index_page(overview: Overview) -> str:
    """The whole federation."""
    whole = [study for study in overview.studies if study.active]
    ended = [s for s in overview.studies if not s.active and s.rounds_done]
    whole += sorted(ended, key=_ended_at, reverse=True)[:_ENDED_SHOWN]
    return _page(overview, [_block(study) for study in whole], title="Federation", index=True)


def study_page(overview: Overview, study: Study) -> str:
    """One study."""
    return _page(overview, [_block(study)], title=f"Study {study.name}", index=False)


@cache
def style_sheet() -> str:
    """Reports' style and the page's own."""
    template = _environment().get_template("live.css")
    return template.render(light=ON_PAPER[:COLOURS], dark=_ON_DARK)


def state_line(overview: Overview) -> str:
    """In one sentence."""
    working = sum(study.state == "at work" for study in overview.studies)
    studies = "1 study at work" if working == 1 else f"{working} studies at work"
    if not overview.centre.superlink:
        return f"{studies}; which sites are connected is not known."
    return (
        f"{studies}; {overview.connected} of {counted(len(overview.admitted), 'site')} connected."
    )


def notices(overview: Overview) -> list[str]:
    """What a person should look at."""
    centre = overview.centre
    found = []
    if not centre.superlink:
        found.append(_silence(centre))
    for name in centre.certificates:
        days = overview.days_left(name)
        if days < 0:
            found.append(f"The certificate {name} has ended: no site can connect.")
        elif days < _WARN_DAYS:
            found.append(f"The certificate {name} ends in {counted(days, 'day')}.")
    if centre.disk_free_bytes < _WARN_DISK * centre.disk_bytes:
        found.append(f"Of the centre's disk {_size(centre.disk_free_bytes)} are free.")
    return found + [f"Cannot be read: {problem}" for problem in overview.problems]


def command_for(study: Study) -> str:
    """What changes the state of a study that has not finished."""
    goes_on = study.active and study.state != "paused"
    if study.wanted is not None:
        return f"asdnet-centre {'pause' if goes_on else 'resume'} {study.name}"
    return f"asdnet-centre run --{'stop' if goes_on else 'resume'} {study.name}"


def _page(overview: Overview, blocks: Sequence[StudyBlock], *, title: str, index: bool) -> str:
    environment = _environment()
    return environment.get_template("live.html").render(
        title=title,
        seen=overview,
        now=overview.time,
        index=index,
        blocks=blocks,
        state_line=state_line(overview),
        notices=notices(overview),
        width=WIDTH,
        height=HEIGHT,
    )


def _block(study: Study) -> StudyBlock:
    names = sorted({curve.site for curve in (*study.dsc, *study.losses)})
    looks = {name: number for number, name in enumerate(names)}
    drawn: list[tuple[str, list[Curve], bool]] = [
        (f"Validation DSC, {organ}", [c for c in study.dsc if c.name == organ], True)
        for organ in study.organs
    ]
    drawn.append(("Training loss", list(study.losses), False))
    return StudyBlock(
        study=study,
        panels=tuple(
            panel(title, curves, looks, study.rounds, unit=unit)
            for title, curves, unit in drawn
            if curves
        ),
        sites=tuple(looks.items()),
    )


@cache
def _environment() -> Environment:
    environment = make_environment("server.service")
    environment.filters |= {
        "ago": _ago,
        "moment": _moment,
        "short": _short,
        "clock": clock,
        "size": _size,
        "figures": figures,
        "command": command_for,
    }
    return environment


def _ago(time: datetime, now: datetime) -> str:
    """Such as `3 min ago`."""
    seconds = max(0.0, (now - time).total_seconds())
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _moment(time: datetime) -> str:
    """At this machine's hour."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _silence(centre: CentreView) -> str:
    if centre.silent_since is None:
        return "Whether sites are connected is not known yet: the SuperLink is being asked."
    why = f": {centre.silence}".replace(f": {DOES_NOT_ANSWER}", "", 1)
    return (
        f"The SuperLink does not answer since {_moment(centre.silent_since)}{why}. What is below"
        " comes from the centre's files; whether a site is connected is not known."
    )


def _short(time: datetime) -> str:
    """The hour of today, or the day."""
    local = time.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return f"{local:%H:%M}" if today else f"{local:%Y-%m-%d}"


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB"


def _ended_at(study: Study) -> datetime:
    return study.last_event or datetime.min.replace(tzinfo=UTC)
