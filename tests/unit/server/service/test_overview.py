"""The overview of made-up centres: states of studies and sites, counts, what is read again."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from made_centre import (
    CASES,
    REMOVED,
    ROUND_S,
    admit,
    busy_centre,
    declared,
    made_centre,
    make_run,
    node,
    round_event,
    round_events,
    site_key,
    start_events,
    write_events,
)
from memory_grid import MemoryGrid, error
from memory_grid import Site as Hospital

from flower_compat.control import Node
from protocol.config.study import StudyProtocol
from server.admin.centre import Centre, write_sites
from server.monitoring.run_folder import EventWriter, RunFacts, RunFolder
from server.monitoring.wanted import Wanted, change_wanted
from server.rounds.loop import new_record, run_study
from server.rounds.silence import IS_BACK
from server.service.overview import Nodes, OverviewReader, overview
from server.service.views import Overview, Study

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SITES = ["harbour", "north"]


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return made_centre(tmp_path / "centre")


@pytest.fixture
def run(centre: Centre) -> RunFolder:
    made = make_run(centre, "one")
    age(made, hours=5)
    return made


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Overview]:
    centre, nodes = busy_centre(tmp_path / "centre", NOW)
    with RunFolder(centre.runs / "pelvis-2026").lock():
        yield OverviewReader(centre=centre).read(Nodes(nodes=nodes), NOW)


def age(run: RunFolder, hours: float) -> None:
    """run.json was written so long before NOW."""
    then = NOW.timestamp() - hours * 3600
    os.utime(run.path / "run.json", (then, then))


def want(run: RunFolder, state: str, priority: int = 0) -> None:
    new = {"state": state, "priority": priority}
    change_wanted(run.path, lambda w: Wanted.model_validate(w.model_dump() | new))


def started(run: RunFolder) -> None:
    facts, _ = run.read()
    run.write(facts.model_copy(update={"flower_run_id": 7}))
    age(run, hours=5)


def study_of(centre: Centre, *, at: datetime = NOW) -> Study:
    seen = OverviewReader(centre=centre).read(Nodes(nodes=[]), at)
    assert seen.problems == ()
    (study,) = seen.studies
    return study


def event(kind: str, **facts: Any) -> dict[str, Any]:
    return {"time": (NOW - timedelta(hours=1)).isoformat(), "kind": kind, **facts}


def end(kind: str, reason: str = "") -> dict[str, Any]:
    return event(kind, reason=reason)


# ---- how a study stands -------------------------------------------------------------------------

ONLINE = event("online", sites=["harbour"], awaited=2)
ASKED = event("called", round=0, what="query", sites=SITES)
WAITS = event("waits", site="north", why="the study awaits approval at the site")
REFUSED = event("waits", site="north", why="ScanError")
STARTED = start_events(SITES, 40, NOW - timedelta(hours=2))
TRAINS = event("called", round=1, what="train", sites=SITES)
LONELY = event("online", sites=["harbour"], awaited=2)


@pytest.mark.parametrize(
    ("events", "state", "detail"),
    [
        ([], "at work", ""),
        ([ONLINE], "waiting for sites", "1 online, 2 awaited"),
        ([ASKED], "at work", "sites check and declare their data, 0 of 2 answered"),
        ([ASKED, WAITS], "waiting for approval", ""),
        ([ASKED, REFUSED], "at work", "sites check and declare their data, 0 of 2 answered"),
        ([*STARTED, TRAINS], "at work", "sites train, 0 of 2 answered"),
        ([*STARTED, WAITS, TRAINS], "at work", "sites train, 0 of 2 answered"),
        ([*STARTED, TRAINS, LONELY], "waiting for sites", "1 online, 2 awaited"),
        ([*STARTED, end("stopped")], "starting", ""),
    ],
)
def test_the_state_of_a_study_that_is_held(
    centre: Centre, run: RunFolder, events: list[dict[str, Any]], state: str, detail: str
) -> None:
    write_events(run, events)
    with run.lock():
        study = study_of(centre)
    assert (study.state, study.detail) == (state, detail)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (ASKED, ["the study awaits approval at the site"]),
        (TRAINS, []),
        (event("waits", site="north", why=IS_BACK), []),
        (REFUSED, ["ScanError"]),
    ],
)
def test_why_a_site_takes_no_part_holds_until_it_does(
    centre: Centre, run: RunFolder, later: dict[str, Any], words: list[str]
) -> None:
    write_events(run, [*STARTED, WAITS, later])
    with run.lock():
        study = study_of(centre)
    assert [said.why for said in study.words] == words
    now = next(site.now for site in study.sites if site.name == "north")
    assert now == words[0] if words else now in ("at work", "not called")


@pytest.mark.parametrize(
    ("events", "wanted", "state", "reason"),
    [
        ([], None, "died", "its ServerApp ended without a last event"),
        (STARTED, None, "died", "its ServerApp ended without a last event"),
        (STARTED, "running", "died", "its ServerApp ended without a last event"),
        ([*STARTED, end("stopped", "too few")], None, "stopped", "too few"),
        ([*STARTED, end("stopped", "too few")], "running", "waiting for its turn", "too few"),
        ([*STARTED, end("paused", "by me")], "paused", "paused", "by me"),
        (STARTED, "stopped", "stopped", ""),
        ([*STARTED, end("failed", "OSError: disk")], "running", "failed", "OSError: disk"),
        ([*STARTED, end("finished")], "running", "finished", ""),
        ([*STARTED, end("finished")], "stopped", "finished", ""),
    ],
)
def test_the_state_of_a_study_that_nobody_holds(
    centre: Centre,
    run: RunFolder,
    events: list[dict[str, Any]],
    wanted: str | None,
    state: str,
    reason: str,
) -> None:
    started(run)
    write_events(run, events)
    if wanted:
        want(run, wanted, 3)
    study = study_of(centre)
    assert (study.state, study.reason) == (state, reason)
    assert (study.wanted, study.priority) == ((wanted, 3) if wanted else (None, None))


def test_a_study_before_its_first_start(centre: Centre, run: RunFolder) -> None:
    assert study_of(centre).state == "prepared"
    want(run, "running")
    assert study_of(centre).state == "waiting for its turn"
    started(run)
    just_now = NOW - timedelta(hours=5) + timedelta(seconds=100)
    assert study_of(centre, at=just_now).state == "starting"


def test_a_study_that_was_started_again_is_starting(centre: Centre, run: RunFolder) -> None:
    started(run)
    write_events(run, [*STARTED, end("stopped", "too few")])
    age(run, hours=0.01)
    assert study_of(centre).state == "starting"


# ---- what a study shows -------------------------------------------------------------------------


def test_a_study_at_work(busy: Overview) -> None:
    study = busy.studies[0]
    assert (study.name, study.state, study.priority) == ("pelvis-2026", "at work", 5)
    assert (study.round, study.rounds_done, study.rounds) == (18, 17, 40)
    assert study.called == ("harbour", "lakeside", "north")
    assert study.answered == ("north",)
    # Rounds 8 to 17 took 95 s, 96 s and 97 s in turn.
    assert study.round_seconds == ROUND_S + 1
    assert study.seconds_left == (ROUND_S + 1) * 23
    assert [(out.round, out.site) for out in study.left_out] == [(12, "lakeside"), (6, "north")]
    assert [(w.site, w.why) for w in study.words] == [("hill", "offline for over 300 s")]
    assert study.organs == ("bladder", "prostate", "rectum")
    assert {site.name: site.now for site in study.sites} == {
        "harbour": "at work",
        "hill": "offline for over 300 s",
        "lakeside": "at work",
        "north": "answered",
    }
    curve = next(c for c in study.dsc if (c.site, c.name) == ("lakeside", "rectum"))
    assert curve.rounds == (*range(1, 12), *range(13, 18))
    north = next(site for site in study.sites if site.name == "north")
    assert (north.rounds_trained, north.rounds_left_out) == (16, 1)
    assert north.dsc["rectum"] == curve_end(study, "north", "rectum")
    assert study.mean_dsc == pytest.approx(sum(c.last for c in study.dsc) / 9)


def curve_end(study: Study, site: str, organ: str) -> float:
    return next(c.last for c in study.dsc if (c.site, c.name) == (site, organ))


@pytest.mark.usefixtures("flower_task", "clock")
def test_what_a_study_writes_is_what_is_read(
    centre: Centre, make_protocol: Callable[..., StudyProtocol]
) -> None:
    protocol = make_protocol(training={"rounds": 3})
    folder = RunFolder(centre.runs / "tiny-1")
    folder.create(RunFacts(name="tiny-1", mlflow_uri=""), protocol)
    sites = [Hospital(n, protocol, dsc=(0.2, 0.8, 0.5), registered_as=n) for n in "ABC"]
    sites[2].spoil["train"] = error("ScanError")
    record = new_record(protocol, run="tiny-1")
    with folder.lock():
        run_study(MemoryGrid(sites), record, EventWriter(folder), expected_sites=3)
        study = study_of(centre)
    assert (study.state, study.round, study.rounds) == ("at work", 3, 3)
    assert study.mean_dsc == record.rounds[-1].validation_dsc
    assert study.round_seconds == median(done.seconds for done in record.rounds)
    a = next(site for site in study.sites if site.name == "A")
    assert a.cases is not None and a.cases.labelled == record.facts["A"].labelled
    assert a.seconds == fmean(done.reports["A"].seconds for done in record.rounds)
    assert [(out.round, out.site, out.why) for out in study.left_out] == [
        (number, "C", "ScanError") for number in (3, 2, 1)
    ]
    assert [c.values for c in study.dsc if (c.site, c.name) == ("A", "rod")] == [(0.2, 0.8, 0.5)]


def test_studies_that_go_on_come_first(busy: Overview) -> None:
    assert [(s.name, s.state) for s in busy.studies] == [
        ("pelvis-2026", "at work"),
        ("prostate-pilot", "paused"),
        ("bladder-2025", "finished"),
    ]
    finished = busy.studies[2]
    assert finished.seconds_left is None and finished.report
    assert finished.hints == (
        "rectum: missed in 2 of 9 cases; train for more rounds, or raise local_steps",
    )
    estimate = next(site for site in busy.studies[1].sites if site.name == "hill").estimated_dsc
    assert estimate["bladder"][1] == 0.04


def test_no_password_is_shown(busy: Overview) -> None:
    study = busy.studies[0]
    assert study.mlflow == "https://mlflow.example.org"
    assert study.mlflow_link == "https://mlflow.example.org/#/runs/0123456789abcdef"
    assert "secret" not in busy.model_dump_json()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////srv/centre/mlflow.db", "sqlite:////srv/centre/mlflow.db"),
        ("postgresql://me:secret@db/mlflow", "postgresql://..."),  # pragma: allowlist secret
        (
            "http://m:secret@host:5000/a/?token=secret",  # pragma: allowlist secret
            "http://host:5000/a",
        ),  # pragma: allowlist secret
    ],
)
def test_where_the_numbers_are(centre: Centre, uri: str, shown: str) -> None:
    make_run(centre, "one", uri=uri)
    assert study_of(centre).mlflow == shown


def test_a_study_of_an_earlier_version(centre: Centre, run: RunFolder) -> None:
    new = {"seconds", "seconds_by_site", "losses", "cases", "mlflow_run", "mean_validation_dsc"}
    events = [*STARTED, *round_events(range(1, 5), SITES, NOW - timedelta(hours=2))]
    old = [{key: value for key, value in e.items() if key not in new} for e in events]
    write_events(run, old)
    with run.lock():
        study = study_of(centre)
    assert (study.rounds_done, study.round_seconds) == (4, ROUND_S)
    assert study.losses == () and len(study.dsc) == 6


def test_a_resumed_study_has_the_hints_of_its_last_end(centre: Centre, run: RunFolder) -> None:
    again = STARTED[2] | {"round": 4}
    hint = event("hint", line="train for longer")
    write_events(run, [*STARTED, hint, end("stopped"), again])
    with run.lock():
        study = study_of(centre)
    assert (study.hints, study.round) == ((), 4)


# ---- sites --------------------------------------------------------------------------------------


def test_sites_are_connected_offline_removed(busy: Overview) -> None:
    states = {site.name: site.state for site in busy.sites}
    assert states == {
        "harbour": "connected",
        "hill": "offline",
        "lakeside": "connected",
        "north": "connected",
        REMOVED: "removed",
    }
    assert (busy.connected, len(busy.admitted)) == (3, 4)
    hill = next(site for site in busy.sites if site.name == "hill")
    assert hill.since == NOW - timedelta(hours=3)
    assert [word.study for word in hill.words] == ["pelvis-2026"]
    assert hill.cases is not None and hill.cases.unlabelled == CASES["hill"][1]


def test_a_site_counts_over_all_studies(busy: Overview) -> None:
    north = next(site for site in busy.sites if site.name == "north")
    # Left out of one round of two studies each, not yet of the one that is paused.
    assert (north.rounds_trained, north.rounds_left_out) == (16 + 8 + 19, 2)
    assert (north.cases_of, north.seconds) == ("pelvis-2026", 40.0)


def test_no_more_sites_are_connected_than_are_admitted(centre: Centre) -> None:
    keys = admit(centre, ["A", "B"])
    stranger = node("C", site_key(), "online", NOW)
    old_key = node("A", site_key(), "online", NOW)
    nodes = [stranger, old_key, *(node(name, key, "online", NOW) for name, key in keys.items())]
    seen = overview(centre, nodes)
    assert (seen.connected, len(seen.admitted)) == (2, 2)
    assert [site.name for site in seen.sites] == ["A", "B"]


@pytest.mark.parametrize("status", ["online", "offline"])
def test_a_removed_site_is_removed_whatever_the_superlink_says(centre: Centre, status: str) -> None:
    """Its node may be registered for a moment longer."""
    keys = admit(centre, ["A", "B"])
    nodes = [node(name, key, status, NOW) for name, key in keys.items()]
    run = make_run(centre, "one")
    write_events(run, [start_events(SITES, 4, NOW)[2] | {"cases": _cases("A", "B")}])
    write_sites(centre, {"B": keys["B"]})
    seen = overview(centre, nodes)
    assert {s.name: s.state for s in seen.sites}["A"] == "removed"
    assert (seen.connected, len(seen.admitted)) == (int(status == "online"), 1)


def _cases(*sites: str) -> dict[str, Any]:
    return dict.fromkeys(sites, declared(["north"])["north"])


def test_sites_that_never_came(centre: Centre) -> None:
    keys = admit(centre, ["A", "B"])
    seen = overview(centre, [node("A", keys["A"], "registered")])
    assert [site.state for site in seen.sites] == ["never seen", "never seen"]


def test_a_site_whose_key_was_revoked_has_never_been_seen_with_it(centre: Centre) -> None:
    keys = admit(centre, ["A"])
    seen = overview(centre, [node("A", keys["A"], "unregistered", NOW)])
    assert [(site.name, site.state) for site in seen.sites] == [("A", "never seen")]


def test_without_the_superlink_nobody_is_offline(centre: Centre) -> None:
    admit(centre, ["A"])
    since = NOW - timedelta(minutes=3)
    silent = Nodes(silent_since=since, silence="the SuperLink does not answer")
    seen = OverviewReader(centre=centre).read(silent, NOW)
    assert (seen.sites[0].state, seen.connected) == ("unknown", 0)
    assert (seen.centre.superlink, seen.centre.silent_since) == (False, since)


# ---- what is read -------------------------------------------------------------------------------


def done(reader: OverviewReader) -> dict[str, int]:
    seen = reader.read(Nodes(nodes=[]), NOW)
    return {study.name: study.rounds_done for study in seen.studies}


def test_only_new_lines_are_parsed(
    centre: Centre, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(run, [*STARTED, *round_events(range(1, 4), SITES, NOW - timedelta(hours=2))])
    reader = OverviewReader(centre=centre)
    assert reader.read(Nodes(nodes=[]), NOW).studies[0].rounds_done == 3
    parsed: list[str] = []
    real = json.loads

    def count(text: Any, *rest: Any, **named: Any) -> Any:
        parsed.append(text)
        return real(text, *rest, **named)

    monkeypatch.setattr("server.service.files.json.loads", count)
    first = reader.read(Nodes(nodes=[]), NOW).studies[0]
    assert parsed == []
    write_events(run, [round_event(4, SITES, NOW, {})])
    with run.events.open("a") as file:
        file.write('{"kind": "round", "rou')  # is being written
    second = reader.read(Nodes(nodes=[]), NOW).studies[0]
    assert (first.rounds_done, second.rounds_done, len(parsed)) == (3, 4, 1)
    assert reader.read(Nodes(nodes=[]), NOW).studies[0] is second


def test_a_file_that_was_replaced_is_read_anew(centre: Centre, run: RunFolder) -> None:
    write_events(run, [*STARTED, *round_events(range(1, 4), SITES, NOW)])
    reader = OverviewReader(centre=centre)
    assert reader.read(Nodes(nodes=[]), NOW).studies[0].rounds_done == 3
    run.events.unlink()
    assert reader.read(Nodes(nodes=[]), NOW).studies[0].rounds_done == 0
    write_events(run, [*STARTED, *round_events(range(1, 3), SITES, NOW)])
    assert reader.read(Nodes(nodes=[]), NOW).studies[0].rounds_done == 2
    # By a longer one, and by the same one that was cut, both between two looks.
    other = make_run(centre, "two")
    write_events(other, [*STARTED, *round_events(range(1, 9), SITES, NOW)])
    other.events.replace(run.events)
    assert done(reader) == {"one": 8, "two": 0}
    lines = run.events.read_text().splitlines(keepends=True)
    run.events.write_text("".join(lines[:5]))
    assert done(reader) == {"one": 1, "two": 0}


def test_a_damaged_file_is_a_problem_and_hides_nothing_else(centre: Centre) -> None:
    good, bad = make_run(centre, "good"), make_run(centre, "bad")
    write_events(good, STARTED)
    (bad.path / "run.json").write_text("{")
    write_events(make_run(centre, "odd"), [event("round", round="three")])
    (make_run(centre, "half").path / "protocol.json").unlink()
    centre.sites_file.write_text("[]")
    reader = OverviewReader(centre=centre)
    for _ in range(2):
        seen = reader.read(Nodes(nodes=[]), NOW)
        assert [study.name for study in seen.studies] == ["good"]
        assert len(seen.problems) == 3
        assert "an event cannot be read" in " ".join(seen.problems)
    (bad.path / "run.json").write_bytes((good.path / "run.json").read_bytes())
    assert len(reader.read(Nodes(nodes=[]), NOW).studies) == 2


def test_a_look_at_many_runs_leaves_the_locks_free(centre: Centre, run: RunFolder) -> None:
    other = make_run(centre, "two")
    reader = OverviewReader(centre=centre)
    with ExitStack() as held:
        reader.read(Nodes(nodes=[]), NOW)
        held.enter_context(run.lock())
        held.enter_context(other.lock())
        assert {s.state for s in reader.read(Nodes(nodes=[]), NOW).studies} == {"at work"}


def test_the_centre_itself(busy: Overview) -> None:
    assert set(busy.centre.certificates) == {"CA", "server"}
    assert busy.centre.disk_free_bytes <= busy.centre.disk_bytes
    assert busy.centre.address == "centre.example.org:9092"


def test_nodes_of_others_change_nothing(centre: Centre) -> None:
    nodes: list[Node] = [node("", site_key(), "unregistered", NOW)]
    assert overview(centre, nodes).sites == ()
