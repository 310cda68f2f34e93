"""A made-up centre: three studies, four admitted sites, one that was removed; nothing trained."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flower_compat.control import Node
from protocol.config.study import StudyProtocol
from protocol.keys import make_key, openssh_fingerprint, openssh_line
from server.admin.centre import Centre, create_centre, write_sites
from server.admin.registry import public_key_pem
from server.admin.site_keys import SiteKey
from server.monitoring.run_folder import RunFacts, RunFolder
from server.monitoring.wanted import want

ORGANS = {"bladder": 1, "prostate": 2, "rectum": 3}
CASES = {
    "harbour": (12, 30, 4, 6),
    "hill": (0, 48, 0, 0),
    "lakeside": (20, 15, 5, 8),
    "north": (8, 64, 3, 5),
    "oldtown": (5, 9, 2, 2),
}
REMOVED = "oldtown"
ROUND_S = 95.0


def made_centre(folder: Path) -> Centre:
    """A centre without sites and studies."""
    centre = Centre(folder=folder.resolve(), hosts=("centre.example.org",))
    create_centre(centre, ca_days=3650, now=datetime.now(UTC))
    return centre


def site_key() -> SiteKey:
    public = make_key().public_key()
    return SiteKey(
        public_key=openssh_line(public),
        fingerprint=openssh_fingerprint(public),
        added=datetime(2026, 3, 1, tzinfo=UTC),
    )


def admit(centre: Centre, names: Iterable[str]) -> dict[str, SiteKey]:
    keys = {name: site_key() for name in names}
    write_sites(centre, keys)
    return keys


def node(
    name: str,
    key: SiteKey,
    status: Any,
    since: datetime | None = None,
    last_seen: datetime | None = None,
) -> Node:
    return Node(
        node_id=hash(name) % 2**63,
        name=name,
        public_key=public_key_pem(key.public_key),
        status=status,
        since=since,
        last_seen=last_seen or since,
    )


def make_run(
    centre: Centre, name: str, *, rounds: int = 40, uri: str = "sqlite:///mlflow.db"
) -> RunFolder:
    made = RunFolder(centre.runs / name)
    protocol = StudyProtocol().model_dump() | {"name": name, "organs": ORGANS}
    protocol["training"] |= {"rounds": rounds}
    made.create(RunFacts(name=name, mlflow_uri=uri), StudyProtocol.model_validate(protocol))
    return made


def write_events(folder: RunFolder, events: Iterable[Mapping[str, Any]]) -> None:
    with folder.events.open("a", encoding="utf-8") as file:
        for event in events:
            file.write(json.dumps(event) + "\n")


def declared(sites: Iterable[str]) -> dict[str, dict[str, Any]]:
    parts = ("labelled", "unlabelled", "validation", "test")
    return {s: {**dict(zip(parts, CASES[s], strict=True)), "refused": {}} for s in sites}


def start_events(sites: list[str], rounds: int, time: datetime) -> list[dict[str, Any]]:
    """Sites come online and declare their data."""
    at = time.isoformat(timespec="seconds")
    return [
        {"time": at, "kind": "online", "sites": sites, "awaited": len(sites)},
        {"time": at, "kind": "called", "round": 0, "what": "query", "sites": sites},
        {
            "time": at,
            "kind": "started",
            "round": 0,
            "rounds": rounds,
            "sites": sites,
            "line": f"{len(sites)} sites",
            "cases": declared(sites),
        },
    ]


def round_event(
    number: int, sites: Iterable[str], time: datetime, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """A finished round of plausible numbers."""
    there = [site for site in sites if site not in left_out]
    scored = [site for site in there if CASES[site][2]]

    def dsc(site: str, organ: int) -> float:
        place = list(CASES).index(site)
        best = 0.88 - 0.05 * organ - 0.03 * place
        return best * (1 - math.exp(-number / (4 + place))) + 0.012 * math.sin(number * (2 + place))

    scores = {s: {o: dsc(s, n) for n, o in enumerate(ORGANS)} for s in scored}
    values = [value for organs in scores.values() for value in organs.values()]
    estimated = {
        s: {o: {"dsc": dsc(s, n), "error": 0.04} for n, o in enumerate(ORGANS)}
        for s in there
        if not CASES[s][2]
    }
    return {
        "time": time.isoformat(timespec="seconds"),
        "kind": "round",
        "round": number,
        "line": f"round {number}",
        "left_out": dict(left_out),
        "clipped": {},
        "validation_dsc": scores,
        "estimated_dsc": estimated,
        "mean_validation_dsc": sum(values) / len(values) if values else None,
        "seconds": ROUND_S + number % 3,
        "seconds_by_site": {s: 40.0 + 9 * (len(s) % 5) for s in there},
        "losses": {s: {"total": 0.2 + 0.02 * (len(s) % 3) + math.exp(-number / 6)} for s in there},
        "cases": {},
        "mlflow_run": "0123456789abcdef",
    }


def round_events(
    numbers: range,
    sites: list[str],
    begun: datetime,
    left_out: Mapping[int, Mapping[str, str]] = {},
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in numbers:
        end = begun + timedelta(seconds=number * ROUND_S)
        at = (end - timedelta(seconds=ROUND_S)).isoformat(timespec="seconds")
        found.append(
            {"time": at, "kind": "called", "round": number, "what": "train", "sites": sites}
        )
        found.append(round_event(number, sites, end, left_out.get(number, {})))
    return found


def busy_centre(folder: Path, now: datetime) -> tuple[Centre, list[Node]]:
    """Studies at work (whoever looks has to hold its lock), paused and finished."""
    centre = made_centre(folder)
    keys = admit(centre, CASES)
    uri = "https://user:secret@mlflow.example.org"  # pragma: allowlist secret
    _working(make_run(centre, "pelvis-2026", uri=uri), now)
    _paused(make_run(centre, "prostate-pilot", rounds=60), now)
    _finished(make_run(centre, "bladder-2025", rounds=20), now)
    hours = {"harbour": 9, "hill": 3, "lakeside": 50, "north": 26, REMOVED: 700}
    status = {"hill": "offline", REMOVED: "unregistered"}
    nodes = [
        node(
            name,
            key,
            status.get(name, "online"),
            now - timedelta(hours=hours[name]),
            None if name in status else now - timedelta(seconds=hours[name] % 25),
        )
        for name, key in keys.items()
    ]
    del keys[REMOVED]
    write_sites(centre, keys)
    return centre, nodes


def _working(run: RunFolder, now: datetime) -> None:
    sites = ["harbour", "lakeside", "north"]
    begun = now - timedelta(seconds=17 * ROUND_S + 60)
    left_out = {6: {"north": "no answer within 7200 s"}, 12: {"lakeside": "ClientAppCrashed"}}
    write_events(run, start_events(sites, 40, begun))
    write_events(run, round_events(range(1, 18), sites, begun, left_out))
    at = now.isoformat(timespec="seconds")
    write_events(
        run,
        [
            {"time": at, "kind": "waits", "site": "hill", "why": "offline for over 300 s"},
            {"time": at, "kind": "called", "round": 18, "what": "train", "sites": sites},
            {
                **{"time": at, "kind": "answered", "round": 18, "site": "north"},
                **{"done": 1, "expected": 3},
            },
        ],
    )
    wanted = {"state": "running", "priority": 5, "since": at, "said": at, "turn": True}
    (run.path / "wanted.json").write_text(json.dumps(wanted))


def _paused(run: RunFolder, now: datetime) -> None:
    sites = ["harbour", "hill", "north"]
    begun = now - timedelta(days=2)
    write_events(run, start_events(sites, 60, begun))
    write_events(run, round_events(range(1, 9), sites, begun))
    at = (now - timedelta(days=1)).isoformat(timespec="seconds")
    write_events(run, [{"time": at, "kind": "paused", "reason": "paused by a person"}])
    want(run.path, "paused")


def _finished(run: RunFolder, now: datetime) -> None:
    sites = ["harbour", "lakeside", "north", REMOVED]
    begun = now - timedelta(days=60)
    left_out = {n: {REMOVED: "offline"} for n in (4, 5, 6, 19)} | {
        11: {"north": "sends what cannot be read: segmenter: must be bytes"}
    }
    write_events(run, start_events(sites, 20, begun))
    write_events(run, round_events(range(1, 21), sites, begun, left_out))
    at = (begun + timedelta(hours=1)).isoformat(timespec="seconds")
    hint = "rectum: missed in 2 of 9 cases; train for more rounds, or raise local_steps"
    write_events(
        run,
        [
            {"time": at, "kind": "hint", "line": hint},
            {"time": at, "kind": "finished", "unsent": 0, "reason": ""},
        ],
    )
    (run.path / "report.html").write_text("<!doctype html><title>report</title>")
