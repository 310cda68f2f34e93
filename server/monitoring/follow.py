"""Follows a run while a ServerApp works on it: its events, and whether it is still alive."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from protocol.escaping import printable, printable_lines
from server.monitoring.run_folder import RunFolder

Outcome = Literal["finished", "stopped", "paused", "failed", "died", "never started"]

_POLL_S = 0.5
# The SuperLink takes some seconds to start a ServerApp, and that some to import its libraries.
_START_PATIENCE_S = 180.0
_ENDS: tuple[Outcome, ...] = ("finished", "stopped", "paused", "failed")


@dataclass(kw_only=True)
class Progress:
    """The state of a run from its events so far."""

    round: int = 0
    rounds: int = 0
    doing: str = "waiting for sites"
    states: dict[str, str] = field(default_factory=dict)
    dsc: dict[str, str] = field(default_factory=dict)

    def apply(self, event: dict[str, Any]) -> str:
        """One event; the line that is to stay on the screen, if any."""
        kind = event["kind"]
        if kind == "online":
            self.states = dict.fromkeys(event["sites"], "online")
            there, awaited = ", ".join(event["sites"]) or "none", event["awaited"]
            count = len(event["sites"])
            enough = f"{count} of {awaited}" if count <= awaited else f"{awaited} are enough"
            return f"sites online: {there} ({enough})"
        if kind == "waits":
            self.states[event["site"]] = event["why"]
            return f"{event['site']}: {event['why']}"
        if kind == "started":
            self.round, self.rounds = event["round"], event["rounds"]
            self.states |= dict.fromkeys(event["sites"], "ready")
            return str(event["line"]) + (
                f"; going on after round {self.round}" if self.round else ""
            )
        if kind == "called":
            self.round, self.doing = event["round"], event["what"]
            self.states = dict.fromkeys(self.states, "offline or resting")
            self.states |= dict.fromkeys(event["sites"], f"{event['what']} ...")
        if kind == "answered":
            self.states[event["site"]] = "answered"
        if kind == "round":
            for site, organs in event["validation_dsc"].items():
                self.dsc[site] = "  ".join(f"{o} {v:.3f}" for o, v in sorted(organs.items()))
            for site, estimates in event.get("estimated_dsc", {}).items():
                self.dsc[site] = "estimated " + "  ".join(
                    f"{o} {e['dsc']:.2f} ± {e['error']:.2f}" for o, e in sorted(estimates.items())
                )
            return str(event["line"])
        if kind == "resumed":
            return f"started again after round {event['after']}: {event['why']}"
        if kind == "hint":
            return f"look at: {event['line']}"
        return ""

    def table(self) -> Table:
        table = Table(title=Text(f"round {self.round} of {self.rounds or '?'}: {self.doing}"))
        for title in ("site", "now", "last validation DSC"):
            table.add_column(title)
        for site, state in sorted(self.states.items()):
            table.add_row(*(Text(printable(c)) for c in (site, state, self.dsc.get(site, ""))))
        return table


def follow(
    folder: RunFolder,
    console: Console,
    *,
    already: int = 0,
    kept: Callable[[], bool] = lambda: False,
) -> tuple[Outcome, str]:
    """Show what happens until the run ends: a live table in a terminal, plain lines elsewhere.

    Args:
        folder: The run.
        console: Where to show it.
        already: Events that were there before this start; they are not shown.
        kept: Whether a service starts the run again when it has ended before its last round; it is
            followed on then.

    Returns:
        How it ended, and why.
    """
    progress = Progress()
    for event in read_events(folder.events)[:already]:
        if event["kind"] == "round":  # the last scores are those of an earlier start
            progress.apply(event)
    deadline = time.monotonic() + _START_PATIENCE_S
    seen = False
    last: dict[str, Any] = {"kind": ""}
    live = Live(progress.table(), console=console, transient=True)
    with live if console.is_terminal else nullcontext():
        while True:
            # Before the events are read: its last event is among them then.
            at_work = folder.at_work()
            events = read_events(folder.events)[already:]
            already += len(events)
            for event in events:
                if line := progress.apply(event):
                    # As text: in an event's words [b] is no style, and no escape is obeyed.
                    console.print(Text(printable(line)), soft_wrap=True)
            last = events[-1] if events else last
            end = _end(last, at_work=at_work, seen=seen, late=time.monotonic() > deadline)
            if end and (end[0] == "finished" or not kept()):
                return end
            # "resumed" is the service's word, before the ServerApp is there.
            seen |= at_work or any(event["kind"] != "resumed" for event in events)
            live.update(progress.table())
            time.sleep(_POLL_S)


def _end(
    last: Mapping[str, Any], *, at_work: bool, seen: bool, late: bool
) -> tuple[Outcome, str] | None:
    """How the run has ended, and why; None: it has not."""
    if at_work:
        return None
    # The end of an earlier start is no end: others have come after it.
    if last["kind"] in _ENDS:
        return last["kind"], printable_lines(str(last.get("reason", "")))
    if seen:
        return "died", "the ServerApp ended without a last event"
    if late:
        return "never started", f"no ServerApp within {_START_PATIENCE_S:.0f} s"
    return None


def read_events(path: Path) -> list[dict[str, Any]]:
    """All complete lines; one that is being written is left for the next look, a torn one out."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    events = []
    for line in complete.splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return events
