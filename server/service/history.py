"""What a run's events tell of it so far; each event is taken once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean, median
from typing import Any

from protocol.wire.error_words import NOT_APPROVED, STUDY_NOT_APPROVED
from server.rounds.silence import HAS_RESTED, IS_BACK
from server.rounds.waiting import WAITS
from server.service.standing import ENDS
from server.service.views import Cases, Curve, LeftOut, Words

# Rounds from which the next one's time is estimated.
RECENT = 10
_APPROVALS = (WAITS[STUDY_NOT_APPROVED], WAITS[NOT_APPROVED])

# Values by round.
Series = dict[int, float]


@dataclass(kw_only=True)
class History:
    """The state of one run from its events so far.

    Attributes:
        count: Of events.
        kind: Of the last event.
        awaited: Too few sites are online: how many, of how many; None: nobody is waited for.
        declaring: The sites are asked for their declarations.
        ended: How the last ServerApp has ended, and why.
        called: Whether each site that was called has answered.
        seconds: Of rounds.
        trained: Seconds by site and round.
        dsc: By site and organ.
    """

    run: str
    count: int = 0
    first: datetime | None = None
    last: datetime | None = None
    kind: str = ""
    round: int = 0
    rounds_done: int = 0
    rounds: int = 0
    doing: str = ""
    awaited: tuple[int, int] | None = None
    declaring: bool = False
    ended: tuple[str, str] | None = None
    called: dict[str, bool] = field(default_factory=dict)
    words: dict[str, Words] = field(default_factory=dict)
    cases: dict[str, Cases] = field(default_factory=dict)
    seconds: Series = field(default_factory=dict)
    trained: dict[str, Series] = field(default_factory=dict)
    left_out: dict[tuple[int, str], str] = field(default_factory=dict)
    dsc: dict[tuple[str, str], Series] = field(default_factory=dict)
    estimated: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    losses: dict[str, Series] = field(default_factory=dict)
    mean_dsc: Series = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)
    mlflow_run: str = ""
    _round_begun: datetime | None = None

    def apply(self, event: Mapping[str, Any]) -> None:
        """One event, in order.

        Raises:
            KeyError, TypeError, ValueError: It is none that this version has written.
        """
        kind, time = str(event["kind"]), datetime.fromisoformat(event["time"])
        self.count += 1
        self.first, self.last, self.kind = self.first or time, time, kind
        if kind in ENDS:
            self.ended = kind, str(event.get("reason", ""))
            return
        if kind != "hint":
            self.ended = None
        if take := _TAKES.get(kind):
            take(self, event, time)

    @property
    def waits_for_approval(self) -> bool:
        return any(words.why in _APPROVALS for words in self.words.values())

    @property
    def round_seconds(self) -> float | None:
        """Median of the recent rounds."""
        recent = list(self.seconds.values())[-RECENT:]
        return median(recent) if recent else None

    def site_seconds(self, site: str) -> float | None:
        """Mean of its recent rounds."""
        recent = list(self.trained.get(site, {}).values())[-RECENT:]
        return fmean(recent) if recent else None

    def rounds_left_out(self, site: str) -> int:
        return sum(named == site for _, named in self.left_out)

    @property
    def sites(self) -> list[str]:
        """All that were ever part of it."""
        return sorted({*self.cases, *self.trained, *(site for _, site in self.left_out)})

    def last_left_out(self, count: int) -> tuple[LeftOut, ...]:
        """The latest first."""
        latest = list(self.left_out.items())[: -count - 1 : -1]
        return tuple(LeftOut(round=n, site=site, why=why) for (n, site), why in latest)

    def curves(self) -> tuple[Curve, ...]:
        """Validation DSC by site and organ."""
        return tuple(_curve(site, organ, s) for (site, organ), s in sorted(self.dsc.items()))

    def loss_curves(self) -> tuple[Curve, ...]:
        return tuple(_curve(site, "total", s) for site, s in sorted(self.losses.items()))

    # ---- events ---------------------------------------------------------------------------------

    def _online(self, event: Mapping[str, Any], time: datetime) -> None:
        there, awaited = len(event["sites"]), int(event["awaited"])
        self.awaited, self.declaring = (there, awaited) if there < awaited else None, False
        self.doing = "waiting for sites"

    def _waits(self, event: Mapping[str, Any], time: datetime) -> None:
        site, why = str(event["site"]), str(event["why"])
        self.words.pop(site, None)
        if why not in (IS_BACK, HAS_RESTED):
            self.words[site] = Words(study=self.run, site=site, why=why, since=time)

    def _started(self, event: Mapping[str, Any], time: datetime) -> None:
        self.round = self.rounds_done = int(event["round"])
        self.rounds = int(event["rounds"])
        self.declaring, self.awaited = False, None
        self._round_begun = time
        self.hints.clear()
        self.called.clear()
        self._declare(event)

    def _called(self, event: Mapping[str, Any], time: datetime) -> None:
        number, what = int(event["round"]), str(event["what"])
        self.declaring = number == 0
        if not self.declaring:
            self.round = number
            for site in event["sites"]:
                self.words.pop(site, None)
        self.awaited = None
        self.doing = _DOING.get(what, what)
        self.called = dict.fromkeys(map(str, event["sites"]), False)

    def _answered(self, event: Mapping[str, Any], time: datetime) -> None:
        self.called[str(event["site"])] = True

    def _round(self, event: Mapping[str, Any], time: datetime) -> None:
        number = self.round = self.rounds_done = int(event["round"])
        self.doing = "between two rounds"
        self.called.clear()
        self._declare(event)
        self.mlflow_run = str(event.get("mlflow_run") or self.mlflow_run)
        # Events of earlier versions have no seconds.
        measured = event.get("seconds", (time - (self._round_begun or time)).total_seconds())
        self.seconds[number], self._round_begun = float(measured), time
        if event.get("mean_validation_dsc") is not None:
            self.mean_dsc[number] = float(event["mean_validation_dsc"])
        for site, why in event["left_out"].items():
            self.left_out[number, site] = str(why)
        for site, seconds in event.get("seconds_by_site", {}).items():
            self.trained.setdefault(site, {})[number] = float(seconds)
        for site, losses in event.get("losses", {}).items():
            if "total" in losses:
                self.losses.setdefault(site, {})[number] = float(losses["total"])
        for site, organs in event["validation_dsc"].items():
            for organ, dsc in organs.items():
                self.dsc.setdefault((site, organ), {})[number] = float(dsc)
        for site, estimates in event.get("estimated_dsc", {}).items():
            self.estimated[site] = {
                organ: (float(e["dsc"]), float(e["error"])) for organ, e in estimates.items()
            }

    def _hint(self, event: Mapping[str, Any], time: datetime) -> None:
        self.hints.append(str(event["line"]))

    def _declare(self, event: Mapping[str, Any]) -> None:
        for site, cases in event.get("cases", {}).items():
            self.cases[site] = Cases.model_validate(cases)


_DOING = {
    "query": "sites check and declare their data",
    "train": "sites train",
    "evaluate": "sites score the model",
}
_TAKES: Mapping[str, Callable[[History, Mapping[str, Any], datetime], None]] = {
    "online": History._online,
    "waits": History._waits,
    "started": History._started,
    "called": History._called,
    "answered": History._answered,
    "round": History._round,
    "hint": History._hint,
}


def _curve(site: str, name: str, series: Series) -> Curve:
    return Curve(site=site, name=name, rounds=tuple(series), values=tuple(series.values()))
