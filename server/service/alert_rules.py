"""What is the matter now, as conditions that begin and end; nothing is sent or remembered here.

A sentence holds names of studies and sites, rounds, dates and means over sites: no path, no text of
an exception, nothing that a site has written.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from protocol.escaping import printable
from protocol.keys import KeyFileError, read_certificate
from protocol.wire.error_words import ERROR_WORDS
from protocol.wording import counted
from server.admin.centre import Centre
from server.monitoring.follow import read_events
from server.monitoring.run_folder import RunError, RunFolder
from server.monitoring.wanted import BY_A_PERSON, read_wanted
from server.rounds.record import mean_gain
from server.rounds.silence import NOT_CALLED
from server.service.alert_settings import AlertSettings, Kind

# Why a site was left out, where the words are the centre's own; others may quote the site.
_OWN_WORDS = frozenset({*ERROR_WORDS, "offline", "ReplyLost", NOT_CALLED})
_OWN_FORMS = re.compile(r"(offline for over|no answer within) [0-9.e+]+ s")
_RENEWAL = {
    "server": "run asdnet-centre renew, then restart the SuperLink",
    "CA": "make a new centre (asdnet-centre init) and send every hospital its ca.pem",
}

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that a person should know, for as long as it lasts.

    Attributes:
        kind: Of the alert.
        message: One sentence: what it is, and what to do.
        study: The run, where it is of one.
        site: The site, where it is of one.
        what: Tells apart conditions that the other three do not.
    """

    kind: Kind
    message: str
    study: str = ""
    site: str = ""
    what: str = ""

    @property
    def key(self) -> str:
        """The same for as long as it lasts, whatever the sentence has become."""
        return "/".join((self.kind, self.study, self.site, self.what))


class RunRules:
    """Conditions of the centre's runs, from their events; a run is read when it has changed."""

    def __init__(self, runs: Path, settings: AlertSettings) -> None:
        self._runs, self._settings = runs, settings
        self._known: dict[Path, tuple[tuple[int, int], list[Condition]]] = {}

    def conditions(self, since: datetime) -> list[Condition]:
        """Of the runs of which something has happened since then.

        Raises:
            OSError: A file cannot be read.
        """
        found = []
        for path in sorted(self._runs.glob("*/events.jsonl")):
            facts = path.stat()
            stamp = facts.st_mtime_ns, facts.st_size
            if facts.st_mtime < since.timestamp():
                continue
            if self._known.get(path, (None,))[0] != stamp:
                self._known[path] = stamp, self._read(RunFolder(path.parent))
            found += self._known[path][1]
        return found

    def _read(self, folder: RunFolder) -> list[Condition]:
        try:
            facts, protocol = folder.read()
        except RunError:
            return []  # whoever starts or follows it is told
        if facts.asks != "training":
            return []
        events = read_events(folder.events)
        try:
            wanted = read_wanted(folder.path)
        except RunError:
            wanted = None
        kept = wanted is not None and wanted.state == "running"
        rounds = protocol.training.rounds
        return run_conditions(folder.path.name, events, rounds, self._settings, kept=kept)


def run_conditions(
    study: str,
    events: Sequence[Event],
    rounds: int,
    settings: AlertSettings,
    *,
    kept: bool = False,
) -> list[Condition]:
    """What a run's events say.

    Args:
        study: The run's name.
        events: In order of time.
        rounds: Of the whole study.
        settings: From when on something is an alert.
        kept: The service starts it again where it has ended early.
    """
    finished = [event for event in events if event["kind"] == "round"]
    return [
        *_ended(study, events, f"({len(finished)} of {counted(rounds, 'round')} done)", kept),
        *_left_out_twice(study, finished),
        *_no_improvement(study, finished, settings.no_improvement_rounds),
    ]


def _ended(study: str, events: Sequence[Event], done: str, kept: bool) -> Iterator[Condition]:
    last = events[-1] if events else {"kind": ""}
    by_hand = f"go on with: asdnet-centre resume {study}"
    again = "it is tried again by itself" if kept else by_hand
    words = {
        "finished": f"has finished; read it: asdnet-centre report {study}",
        "stopped": f"was ended by a person; {by_hand}"
        if last.get("reason") == BY_A_PERSON
        else "stopped early, because too few sites took part or their data are not as required;"
        f" asdnet-centre run --follow {study} says which; {again}",
        "failed": f"failed; the SuperLink's log says why; {again}",
    }
    if (outcome := last["kind"]) in words:
        message = f"study {study} {words[outcome]} {done}"
        yield Condition(kind="finished", message=message, study=study, what=outcome)


def _left_out_twice(study: str, finished: Sequence[Event]) -> Iterator[Condition]:
    if len(finished) < 2:
        return
    before, last = finished[-2], finished[-1]
    for site, reason in sorted(last["left_out"].items()):
        if site in before["left_out"]:
            yield Condition(
                kind="left_out_twice",
                message=f"site {printable(site)} was left out of rounds {before['round']} and "
                f"{last['round']} of study {study} ({_own_words(reason)}); ask the hospital to read"
                " its site's log",
                study=study,
                site=printable(site),
            )


def _own_words(reason: str) -> str:
    own = reason in _OWN_WORDS or _OWN_FORMS.fullmatch(reason)
    return reason if own else "its answer was refused"


def _no_improvement(study: str, finished: Sequence[Event], patience: int) -> Iterator[Condition]:
    best: dict[tuple[str, str], float] = {}
    best_round, waited = 0, 0
    for event in finished:
        scores = {
            (site, organ): float(dsc)
            for site, organs in event["validation_dsc"].items()
            for organ, dsc in organs.items()
        }
        if not scores:
            continue
        gain = mean_gain(scores, best) if best else 1.0
        # Not as the best model is chosen, which takes the later of two equal ones.
        if gain is not None and gain > 0:
            best, best_round, waited = scores, event["round"], 0
        else:
            waited += 1
    if waited >= patience:
        yield Condition(
            kind="no_improvement",
            message=f"study {study}: the validation DSC has not improved for "
            f"{counted(waited, 'round')} with scores, since round {best_round}; look at the curves"
            f" (asdnet-centre report {study}), and stop it if it has learnt what it can:"
            f" asdnet-centre stop {study}",
            study=study,
        )


def certificate_conditions(centre: Centre, days: int, now: datetime) -> list[Condition]:
    """Certificates that end within so many days, or cannot be read."""
    found = []
    for name, path in (("server", centre.server_file), ("CA", centre.ca_file)):
        try:
            end = read_certificate(path).not_valid_after_utc
        except KeyFileError:
            words = f"cannot be read; put {path.name} back from the backup"
        else:
            left = (end - now).days
            if left > days:
                continue
            state = f"ends in {counted(left, 'day')}" if end > now else "has ended"
            words = f"{state}, on {end:%Y-%m-%d}; {_RENEWAL[name]}"
        message = f"the certificate of the {name} {words}"
        found.append(Condition(kind="certificate", message=message, what=name))
    return found


def disk_conditions(folder: Path, at_least_gib: float) -> list[Condition]:
    """Whether the disk of this folder has less free space.

    Raises:
        OSError: That is not known.
    """
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib >= at_least_gib:
        return []
    message = (
        f"the disk of the centre's folder has {free_gib:.1f} GiB left, less than {at_least_gib:g};"
        " make room, or no round can be saved"
    )
    return [Condition(kind="disk", message=message)]


def told_conditions(kind: Kind, told: Mapping[str, str]) -> list[Condition]:
    """What the caller knows, by study, or of an absent site by site."""
    forms = {
        "died": "the ServerApp of study {} died; {}",
        "needs_you": "study {} needs a person: {}",
        "site_absent": "site {} has not been seen {}; ask the hospital whether its service runs",
    }
    return [
        Condition(
            kind=kind,
            message=forms[kind].format(printable(name), printable(words)),
            **{"site" if kind == "site_absent" else "study": printable(name)},
        )
        for name, words in sorted(told.items())
    ]
