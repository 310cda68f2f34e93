"""The centre's service with ServerApps that are played and a clock that is set."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from protocol.config.study import StudyProtocol
from server.admin.centre import CentreError
from server.monitoring.follow import read_events
from server.monitoring.run_folder import RunError, RunFacts, RunFolder
from server.monitoring.wanted import change_wanted, read_wanted, want
from server.service.keeper import (
    LONGEST_PAUSE_S,
    NOT_SIGNED,
    START_PATIENCE_S,
    STUCK_S,
    Keeper,
)
from server.service.starting import NeedsPersonError

LOOK_S = 2.0


@dataclass
class Centre:
    """Runs, their ServerApps, and a keeper that looks every two seconds."""

    folder: Path
    refuses: Exception | None = None
    comes: bool = True  # whether a ServerApp that was asked for takes up the run
    now: float = 1000.0
    starts: list[str] = field(default_factory=list)
    ends: list[tuple[str, str, str]] = field(default_factory=list)
    apps: dict[str, ExitStack] = field(default_factory=dict)

    def make_keeper(self, at_once: int = 1) -> Keeper:
        return Keeper(runs=self.runs, starter=self, at_once=at_once)

    def runs(self) -> list[RunFolder]:
        return [RunFolder(path) for path in sorted(self.folder.iterdir())]

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.folder / name)

    def add(self, name: str, priority: int = 0) -> RunFolder:
        made = self.run(name)
        made.create(RunFacts(name=name, mlflow_uri=""), StudyProtocol())
        want(made.path, "running")
        change_wanted(made.path, lambda w: w.model_copy(update={"priority": priority}))
        return made

    def start(self, folder: RunFolder) -> None:
        if self.refuses:
            raise self.refuses
        self.starts.append(folder.path.name)
        if self.comes:
            self.take_up(folder)

    def take_up(self, folder: RunFolder) -> None:
        self.apps[folder.path.name] = ExitStack()
        self.apps[folder.path.name].enter_context(folder.lock())

    def end(self, folder: RunFolder, kind: str, reason: str) -> bool:
        self.ends.append((folder.path.name, kind, reason))
        folder.add_event(kind, reason=reason)
        self.die(folder.path.name)
        return True

    def die(self, name: str) -> None:
        self.apps.pop(name).close()

    def look(self, keeper: Keeper, seconds: float = LOOK_S) -> None:
        """Time passes, look by look."""
        until = self.now + seconds
        while self.now < until:
            self.now += LOOK_S
            keeper.look(self.now)


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    made = Centre(tmp_path)
    yield made
    for app in made.apps.values():
        app.close()


def complete(folder: RunFolder, number: int) -> None:
    folder.add_event("called", round=number, what="train", sites=["A"])
    folder.add_event("round", round=number, line="")


def test_a_study_is_started_once(centre: Centre) -> None:
    centre.add("one")
    centre.look(centre.make_keeper(), 60)
    assert centre.starts == ["one"]
    assert read_events(centre.run("one").events) == []


def test_a_run_that_nobody_wanted_is_left_alone(centre: Centre) -> None:
    centre.run("plan").create(RunFacts(name="plan", mlflow_uri=""), StudyProtocol())
    centre.look(centre.make_keeper(), 60)
    assert centre.starts == []


def test_a_server_app_that_died_is_started_again(centre: Centre) -> None:
    run, keeper = centre.add("one"), centre.make_keeper()
    centre.look(keeper)
    complete(run, 1)
    centre.look(keeper)
    centre.die("one")
    centre.look(keeper, 10)
    assert centre.starts == ["one", "one"]
    resumed = read_events(run.events)[-1]
    assert resumed["kind"] == "resumed"
    assert (resumed["after"], resumed["why"]) == (1, "its ServerApp ended without a last event")
    assert keeper.died == {"one": "it is started again by itself"} and keeper.needs_you == {}
    complete(run, 2)
    centre.look(keeper)
    assert keeper.died == {}, "it has got on"


def test_a_server_app_that_hangs_is_ended_and_started_again(centre: Centre) -> None:
    run, keeper = centre.add("one"), centre.make_keeper()
    rules = StudyProtocol().aggregation
    most = rules.round_timeout_s + rules.join_timeout_s + STUCK_S
    centre.look(keeper)
    run.add_event("called", round=1, what="train", sites=["A"])
    centre.look(keeper, most - 20)
    assert centre.ends == []
    run.add_event("answered", round=1, site="A")
    centre.look(keeper, most - 20)
    assert centre.ends == []
    centre.look(keeper, 40)
    assert [end[:2] for end in centre.ends] == [("one", "failed")]
    centre.look(keeper, 70)
    assert centre.starts == ["one", "one"]


def test_a_new_keeper_goes_on_where_the_last_one_was_killed(centre: Centre) -> None:
    centre.add("one")
    centre.look(centre.make_keeper())
    centre.look(centre.make_keeper(), 20)  # while the ServerApp works on
    assert centre.starts == ["one"]
    centre.die("one")
    centre.look(centre.make_keeper())
    assert centre.starts == ["one", "one"]


def test_it_waits_longer_after_each_attempt_without_a_round(centre: Centre) -> None:
    run, keeper = centre.add("one"), centre.make_keeper()
    times: list[float] = []
    for _ in range(12):
        while "one" not in centre.apps:
            centre.look(keeper)
        times.append(centre.now)
        run.add_event("stopped", reason="too few")
        centre.die("one")
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[0] == pytest.approx(60, abs=3 * LOOK_S)
    assert pauses[1] == pytest.approx(120, abs=3 * LOOK_S)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_S, abs=3 * LOOK_S)
    while "one" not in centre.apps:
        centre.look(keeper)
    complete(run, 1)
    centre.look(keeper)
    run.add_event("stopped", reason="too few")
    centre.die("one")
    before = centre.now
    while "one" not in centre.apps:
        centre.look(keeper)
    assert centre.now - before == pytest.approx(60, abs=3 * LOOK_S), "a round has come meanwhile"
    assert keeper.died == {}, "it has said why it ended"


def test_a_server_app_that_never_comes_is_asked_for_again(centre: Centre) -> None:
    centre.add("one")
    centre.comes = False
    keeper = centre.make_keeper()
    centre.look(keeper, START_PATIENCE_S - 10)
    assert centre.starts == ["one"]
    centre.look(keeper, 30)
    assert centre.starts == ["one", "one"]


@pytest.mark.parametrize(("unsent", "starts"), [(0, 1), (3, 2)])
def test_a_finished_study_rests_once_mlflow_has_all(
    centre: Centre, unsent: int, starts: int
) -> None:
    run, keeper = centre.add("one"), centre.make_keeper()
    centre.look(keeper)
    complete(run, 1)
    run.add_event("finished", unsent=unsent, reason="")
    centre.die("one")
    centre.look(keeper, 90)
    assert len(centre.starts) == starts
    assert keeper.died == keeper.needs_you == {}


def test_the_highest_priority_works_and_the_others_wait(centre: Centre) -> None:
    centre.add("first")
    centre.add("second")
    keeper = centre.make_keeper()
    centre.look(keeper, 20)
    assert centre.starts == ["first"]
    complete(centre.run("first"), 1)
    centre.run("first").add_event("finished", unsent=0, reason="")
    centre.die("first")
    centre.look(keeper)
    assert centre.starts == ["first", "second"]


def test_a_higher_priority_takes_the_turn_between_two_rounds(centre: Centre) -> None:
    low, keeper = centre.add("low"), centre.make_keeper()
    centre.look(keeper)
    low.add_event("called", round=1, what="train", sites=["A"])
    centre.add("high", priority=5)
    centre.look(keeper, 20)
    assert centre.starts == ["low"] and centre.ends == [], "its round goes on"
    wanted = read_wanted(low.path)
    assert wanted is not None
    assert "a study of higher priority" in wanted.rests, "the ServerApp reads it after its round"
    low.add_event("round", round=1, line="")
    low.add_event("paused", reason=wanted.rests)
    centre.die("low")
    centre.look(keeper)
    assert centre.starts == ["low", "high"]
    centre.run("high").add_event("finished", unsent=0, reason="")
    centre.die("high")
    centre.look(keeper)
    assert centre.starts == ["low", "high", "low"]
    again = read_wanted(low.path)
    assert again is not None and again.rests == ""
    assert keeper.died == keeper.needs_you == {}


def test_two_work_at_once_where_they_may(centre: Centre) -> None:
    for name in ("one", "two", "three"):
        centre.add(name)
    centre.look(centre.make_keeper(at_once=2), 20)
    assert centre.starts == ["one", "two"]


def test_a_study_that_waits_before_an_attempt_lets_another_work(centre: Centre) -> None:
    centre.add("high", priority=5)
    keeper = centre.make_keeper()
    centre.look(keeper)
    centre.add("low")
    centre.run("high").add_event("stopped", reason="too few")
    centre.die("high")
    centre.look(keeper, 10)
    assert centre.starts == ["high", "low"]
    centre.look(keeper, 70)
    assert centre.ends == [("low", "paused", "a study of higher priority has the turn")]
    assert centre.starts == ["high", "low", "high"]


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_what_a_person_ends_stays_ended(centre: Centre, state: str) -> None:
    run, keeper = centre.add("one"), centre.make_keeper()
    centre.look(keeper)
    want(run.path, "paused" if state == "paused" else "stopped")
    centre.look(keeper, 200)
    assert centre.ends == [("one", state, f"{state} by a person")]
    assert centre.starts == ["one"]
    want(run.path, "running")
    centre.look(keeper)
    assert centre.starts == ["one", "one"], "and goes on at once"


def test_a_paused_study_completes_its_round(centre: Centre) -> None:
    run, keeper = centre.add("one"), centre.make_keeper()
    centre.look(keeper)
    run.add_event("called", round=1, what="train", sites=["A"])
    want(run.path, "paused")
    centre.look(keeper, 20)
    assert centre.ends == []
    want(run.path, "stopped")
    centre.look(keeper)
    assert [kind for _, kind, _ in centre.ends] == ["stopped"], "stop does not wait"


@pytest.mark.parametrize(
    ("refusal", "needs_you", "died"),
    [
        (NeedsPersonError("the code is another"), "the code is another", ""),
        (CentreError("/srv/x: broken"), NOT_SIGNED, ""),
        (RunError("the SuperLink: /srv/x"), "", "it cannot be started yet: the SuperLink"),
    ],
    ids=["needs a person", "no centre", "no SuperLink"],
)
def test_a_study_that_cannot_be_started_is_told_of_and_blocks_no_other(
    centre: Centre, refusal: Exception, needs_you: str, died: str
) -> None:
    centre.add("one", priority=9)
    keeper = centre.make_keeper()
    centre.refuses = refusal
    centre.look(keeper)
    told = keeper.needs_you.get("one", ""), keeper.died.get("one", "")
    assert told[0] == needs_you and told[1].startswith(died) and bool(told[1]) == bool(died)
    assert "/srv" not in str(told)
    centre.add("two")
    centre.refuses = None
    centre.look(keeper)
    assert centre.starts == ["two"]
    centre.look(keeper, 70)
    assert centre.starts == ["two", "one"], "and it is tried again"
    assert keeper.needs_you == {}


def test_who_resumes_a_study_does_not_wait(centre: Centre) -> None:
    run, keeper = centre.add("one"), centre.make_keeper()
    centre.refuses = NeedsPersonError("the code is another")
    centre.look(keeper, 20)
    centre.refuses = None
    want(run.path, "running")
    centre.look(keeper)
    assert centre.starts == ["one"]


def test_a_damaged_file_is_told_and_the_others_go_on(centre: Centre) -> None:
    (centre.add("one").path / "wanted.json").write_text("{")
    centre.add("two")
    keeper = centre.make_keeper()
    centre.look(keeper, 10)
    assert centre.starts == ["two"]
    assert keeper.needs_you.keys() == {"one"}
    assert "asdnet-centre resume one" in keeper.needs_you["one"]
