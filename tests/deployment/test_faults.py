"""Kill -9 of every kind of process in every phase of a round: nothing lost but the round.

A few kills in one short study, and, marked as long, all twenty; the latter write what happened as
a table to the file that `ASDNET_TABLE` names.
"""

import os
import time
from pathlib import Path
from typing import Any

import harness
import pytest
import torch

from protocol.model_io import load_model
from server.rounds.watchers import Watcher
from simulation.engine import simulate

KINDS = ("worker", "serverapp", "supernode", "superlink")
PHASES: dict[str, dict[str, Any]] = {
    "instructions go out": {"kind": "called", "what": "train"},
    "sites train": {"kind": "called", "what": "train"},
    "replies come in": {"kind": "answered"},
    "scores are asked": {"kind": "called", "what": "evaluate"},
    "a round has ended": {"kind": "round"},
}
NAMES = {
    "worker": "ClientApp (a site's worker)",
    "serverapp": "ServerApp",
    "supernode": "SuperNode",
    "superlink": "SuperLink",
}
ALL = [(kind, phase) for phase in PHASES for kind in KINDS]
FEW = [
    ("worker", "sites train"),
    ("serverapp", "replies come in"),
    ("superlink", "scores are asked"),
]


def test_a_few_kills_lose_nothing_but_the_round(tmp_path: Path) -> None:
    federate_with_kills(tmp_path, FEW)


@pytest.mark.long
def test_every_kill_in_every_phase(tmp_path: Path) -> None:
    rows, rounds = federate_with_kills(tmp_path, ALL)
    write_table(rows, rounds)


def federate_with_kills(
    folder: Path, kills: list[tuple[str, str]]
) -> tuple[list[tuple[str, ...]], int]:
    """One study of four sites with these kills, a round apart; equal weights at its end."""
    # Sites score in every second round, and each kill has two rounds of its own.
    rounds = max(10, 2 * len(kills) + 2)
    study = harness.tiny_study(rounds=rounds, local_steps=30)
    rows = []
    with harness.federation(folder, study) as fed:
        fed.start_superlink()
        fed.start_sites()
        fed.start_study("faults")
        for number, (kind, phase) in enumerate(kills):
            site = "ABCD"[number % 4]
            rows.append(kill_in_phase(fed, kind, phase, round=2 * number + 2, site=site))
            print(*rows[-1], sep=" | ", flush=True)
        assert fed.finish("faults", 900) == 0, fed.tails()
        assert fed.rounds_done("faults") == rounds
        _, deployed, _ = load_model(fed.centre / "runs/faults/model/final")
        left_out = [e["left_out"] for e in fed.events("faults") if e["kind"] == "round"]
        for site in fed.sites:
            assert "complete and unchanged" in fed.client("audit", site)
        sites = {
            s: fed.site_config(s).model_copy(update={"state": folder / "simulated" / s})
            for s in fed.sites
        }
    assert not any(left_out), "a site was lost to a round"
    simulated = simulate(study, sites, Watcher(), workers=2).segmenter
    assert all(torch.equal(deployed[name], simulated[name]) for name in simulated)
    return rows, rounds


def kill_in_phase(
    fed: harness.Deployment, kind: str, phase: str, *, round: int, site: str
) -> tuple[str, ...]:
    """One kill; what was lost, and how long it took until the next round was complete."""
    fed.until_event("faults", 400, round=round, **PHASES[phase])
    if phase == "sites train":
        marker = f'"round":{round},'
        audit = fed.home(site) / "state" / "audit.jsonl"
        fed.until(
            lambda: any(
                marker in line and "train instruction" in line
                for line in audit.read_text().splitlines()
            ),
            60,
            f"{site} has its instruction",
        )
    before = fed.rounds_done("faults")
    since = time.monotonic()
    assert fed.kill(kind, site), f"no {kind} to kill"
    happened = "asked again, answered in the same round"
    if kind == "superlink":
        fed.start_superlink()
        happened = "restarted; the ServerApp, which had waited, went on in the same round"

    def went_on() -> bool:
        return fed.rounds_done("faults") > max(before, round - 1)

    study = fed.processes["study-faults"]
    fed.until(lambda: went_on() or study.poll() is not None, 400, "what comes of it")
    if study.poll() not in (None, 0):
        assert study.poll() == 75, (study.poll(), fed.tails())
        events = len(fed.events("faults"))
        fed.resume("faults")
        fed.until(lambda: started(fed.events("faults")[events:]), 240, "the study goes on")
        resumed = started(fed.events("faults")[events:])[0]["round"]
        assert resumed >= before, "a complete round was lost"
        happened = f"went on after round {resumed} by --resume"
    fed.until(went_on, 400, "the next round")
    return (
        NAMES[kind] + (f" of {site}" if kind in ("worker", "supernode") else ""),
        f"{phase} (round {round})",
        happened,
        f"{time.monotonic() - since:.0f}",
    )


def started(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == "started"]


def write_table(rows: list[tuple[str, ...]], rounds: int) -> None:
    path = os.environ.get("ASDNET_TABLE")
    if not path:
        return
    lines = [
        "| killed by SIGKILL | while | what happened | s to the next complete round |",
        "| --- " * 4 + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", f"After {len(rows)} kills in {rounds} rounds: weights equal to the simulation's."]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
