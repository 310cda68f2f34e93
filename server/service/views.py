"""What is shown of a federation: its studies, its sites and the centre itself."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from asdnet_models.fields import Frozen

StudyState = Literal[
    "prepared",
    "waiting for its turn",
    "starting",
    "waiting for approval",
    "waiting for sites",
    "at work",
    "paused",
    "stopped",
    "failed",
    "died",
    "finished",
]
# The states of a study that a person may expect to go on.
ACTIVE: tuple[StudyState, ...] = (
    "at work",
    "waiting for sites",
    "waiting for approval",
    "starting",
    "waiting for its turn",
    "paused",
)
SiteState = Literal["connected", "offline", "never seen", "unknown", "removed"]


class LeftOut(Frozen):
    """A site that was left out of a round."""

    round: int
    site: str
    why: str


class Words(Frozen):
    """Why a site does not take part in a study.

    Attributes:
        study: The run's name.
    """

    study: str
    site: str
    why: str
    since: datetime


class Cases(Frozen):
    """What a site has declared; `refused` are cases that it does not use, by the rule broken."""

    labelled: int
    unlabelled: int
    validation: int
    test: int
    refused: Mapping[str, int] = {}


class Curve(Frozen):
    """One number of one site over the rounds that have it."""

    site: str
    name: str
    rounds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        return self.values[-1]


class StudySite(Frozen):
    """One site in one study.

    Attributes:
        now: What it does.
        seconds: Mean of its recent rounds.
        estimated_dsc: By organ, of a site that cannot score itself: DSC and its error.
    """

    name: str
    now: str
    cases: Cases | None
    rounds_trained: int
    rounds_left_out: int
    seconds: float | None
    dsc: Mapping[str, float]
    estimated_dsc: Mapping[str, tuple[float, float]]


class Study(Frozen):
    """One run.

    Attributes:
        name: The run's.
        study: Its protocol's name.
        asks: "fingerprint": nothing is trained, sites are asked for a plan.
        reason: Of the state.
        wanted: What a person has said; null: the service does not keep it.
        round: At work, or the last one that was.
        rounds_done: Complete ones.
        rounds: Of the whole study; 0 where nothing is trained.
        round_seconds: Median of the recent rounds.
        seconds_left: Estimate; null where there is none.
        called, answered: Sites in what is being done now.
        dsc, losses: Curves; of the losses the total.
        mean_dsc: Validation DSC, mean over sites and organs, of the last round that has it.
        mlflow: Where the numbers are, without a password.
        mlflow_link: The run's page, where MLflow is a server.
        report: There is one in the run's folder.
    """

    name: str
    study: str
    asks: str
    state: StudyState
    reason: str
    wanted: str | None
    priority: int | None
    round: int
    rounds_done: int
    rounds: int
    doing: str
    begun: datetime | None
    last_event: datetime | None
    last_event_kind: str
    round_seconds: float | None
    seconds_left: float | None
    called: tuple[str, ...]
    answered: tuple[str, ...]
    sites: tuple[StudySite, ...]
    left_out: tuple[LeftOut, ...]
    words: tuple[Words, ...]
    hints: tuple[str, ...]
    organs: tuple[str, ...]
    dsc: tuple[Curve, ...]
    losses: tuple[Curve, ...]
    mean_dsc: float | None
    mlflow: str
    mlflow_link: str | None
    report: bool

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def detail(self) -> str:
        """What stands after the state: what is being done, or why."""
        answered = f", {len(self.answered)} of {len(self.called)} answered" if self.called else ""
        if self.doing:
            return self.doing + answered
        return self.reason.removeprefix(self.state).strip()


class Site(Frozen):
    """A site over all studies.

    Attributes:
        since: Of the state.
        cases: As last declared; `cases_of` is the study that they are for.
        seconds: Mean of its recent rounds, in the study that it trained in last.
    """

    name: str
    state: SiteState
    since: datetime | None
    last_seen: datetime | None
    added: datetime | None
    cases: Cases | None
    cases_of: str
    seconds: float | None
    rounds_trained: int
    rounds_left_out: int
    words: tuple[Words, ...]


class CentreView(Frozen):
    """The centre itself.

    Attributes:
        certificates: When each ends, by name.
        silent_since: Since when the SuperLink has not answered; null: it answers.
        silence: What it said instead.
    """

    address: str
    certificates: Mapping[str, datetime]
    disk_free_bytes: int
    disk_bytes: int
    superlink: bool
    silent_since: datetime | None
    silence: str


class Overview(Frozen):
    """All of it; `problems` are files that could not be read."""

    time: datetime
    centre: CentreView
    studies: tuple[Study, ...]
    sites: tuple[Site, ...]
    problems: tuple[str, ...]

    @property
    def admitted(self) -> tuple[Site, ...]:
        """The sites of sites.json; the removed ones are no part of any count."""
        return tuple(site for site in self.sites if site.state != "removed")

    @property
    def connected(self) -> int:
        return sum(site.state == "connected" for site in self.admitted)

    def days_left(self, certificate: str) -> int:
        return (self.centre.certificates[certificate] - self.time).days

    def study(self, name: str) -> Study | None:
        return next((study for study in self.studies if study.name == name), None)
