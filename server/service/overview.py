"""One look at the federation: studies, sites and the centre, from what lies in its folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flower_compat.control import Node
from protocol.keys import KeyFileError, read_certificate
from server.admin.centre import Centre, CentreError, read_sites
from server.admin.registry import public_key_pem
from server.admin.site_keys import SiteKey
from server.monitoring.run_folder import RunError, RunFolder
from server.service.files import Watched
from server.service.study_reader import StudyReader
from server.service.views import (
    ACTIVE,
    CentreView,
    Overview,
    Site,
    SiteState,
    Study,
    Words,
)

_ENDED = ("failed", "died", "stopped", "prepared", "finished")
_ORDER = {state: number for number, state in enumerate((*ACTIVE, *_ENDED))}


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What the SuperLink has said of its nodes.

    Attributes:
        nodes: Those that are registered no longer too; None: it does not answer.
        silent_since: Since when it does not answer.
        silence: What happened instead.
    """

    nodes: Sequence[Node] | None = None
    silent_since: datetime | None = None
    silence: str = ""


@dataclass(kw_only=True)
class OverviewReader:
    """Looks at one centre again and again; only what is new in its files is read.

    For one thread.
    """

    centre: Centre
    _studies: dict[str, StudyReader] = field(default_factory=dict)
    _sites: Watched[dict[str, SiteKey]] | None = None

    def read(self, superlink: Nodes, now: datetime) -> Overview:
        """All that is known at this time; what cannot be read is a problem, and no error."""
        problems: list[str] = []
        studies = sorted(
            self._read_studies(problems, now),
            key=lambda s: (_ORDER[s.state], -(s.priority or 0), -_stamp(s.last_event), s.name),
        )
        admitted = self._read_sites(problems)
        return Overview(
            time=now,
            centre=self._view(superlink, problems),
            studies=tuple(studies),
            sites=tuple(self._site_views(admitted, superlink.nodes, studies)),
            problems=tuple(problems),
        )

    def _read_studies(self, problems: list[str], now: datetime) -> list[Study]:
        runs = self.centre.runs
        names = sorted(file.parent.name for file in runs.glob("*/run.json"))
        for gone in self._studies.keys() - set(names):
            del self._studies[gone]
        found = []
        for name in names:
            reader = self._studies.setdefault(name, StudyReader(RunFolder(runs / name)))
            try:
                study = reader.read(now)
            except (RunError, OSError) as error:
                problems.append(str(error))
                continue
            if study is not None:
                found.append(study)
        return found

    def _read_sites(self, problems: list[str]) -> dict[str, SiteKey]:
        if self._sites is None:
            self._sites = Watched(self.centre.sites_file, lambda _: read_sites(self.centre))
        try:
            return self._sites.get() or {}
        except CentreError as error:
            problems.append(str(error))
            return {}

    def _view(self, superlink: Nodes, problems: list[str]) -> CentreView:
        certificates = {}
        files = {"CA": self.centre.ca_file, "server": self.centre.server_file}
        for name, file in files.items():
            try:
                certificates[name] = read_certificate(file).not_valid_after_utc
            except KeyFileError as error:
                problems.append(str(error))
        disk = shutil.disk_usage(self.centre.folder)
        return CentreView(
            address=self.centre.address,
            certificates=certificates,
            disk_free_bytes=disk.free,
            disk_bytes=disk.total,
            superlink=superlink.nodes is not None,
            silent_since=superlink.silent_since,
            silence=superlink.silence,
        )

    def _site_views(
        self, admitted: dict[str, SiteKey], nodes: Sequence[Node] | None, studies: Sequence[Study]
    ) -> list[Site]:
        by_key = {node.public_key: node for node in nodes or () if node.status != "unregistered"}
        seen = [
            self._site(
                name, key, by_key.get(public_key_pem(key.public_key)), nodes is None, studies
            )
            for name, key in sorted(admitted.items())
        ]
        gone = {node.name: node for node in nodes or () if node.status == "unregistered"}
        known = {site.name for study in studies for site in study.sites}
        for name in sorted({*gone, *known} - {*admitted, ""}):
            seen.append(self._site(name, None, gone.get(name), nodes is None, studies))
        return seen

    def _site(
        self,
        name: str,
        key: SiteKey | None,
        node: Node | None,
        silent: bool,
        studies: Sequence[Study],
    ) -> Site:
        state: SiteState = "removed" if key is None else "unknown" if silent else _state(node)
        mine = [
            (study, site)
            for study in sorted(studies, key=lambda s: _stamp(s.last_event), reverse=True)
            for site in study.sites
            if site.name == name
        ]
        declared = next(((site, study) for study, site in mine if site.cases), None)
        return Site(
            name=name,
            state=state,
            since=node.since if node else None,
            last_seen=node.last_seen if node else None,
            added=key.added if key else None,
            cases=declared[0].cases if declared else None,
            cases_of=declared[1].name if declared else "",
            seconds=next((site.seconds for _, site in mine if site.seconds is not None), None),
            rounds_trained=sum(site.rounds_trained for _, site in mine),
            rounds_left_out=sum(site.rounds_left_out for _, site in mine),
            words=_words(name, studies) if key is not None else (),
        )


def overview(centre: Centre, nodes: Sequence[Node] | None) -> Overview:
    """One look, for whoever does not look again.

    Args:
        centre: The centre.
        nodes: What the SuperLink knows; None: it was not asked, or does not answer.
    """
    return OverviewReader(centre=centre).read(Nodes(nodes=nodes), datetime.now(UTC))


def _state(node: Node | None) -> SiteState:
    if node is None or node.status == "registered":
        return "never seen"
    return "connected" if node.status == "online" else "offline"


def _words(site: str, studies: Sequence[Study]) -> tuple[Words, ...]:
    """Of the studies that go on."""
    return tuple(w for study in studies if study.active for w in study.words if w.site == site)


def _stamp(time: datetime | None) -> float:
    return time.timestamp() if time else 0.0
