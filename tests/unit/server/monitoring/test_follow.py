"""Reading along: a thread plays the ServerApp."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from protocol.config.study import StudyProtocol
from server.monitoring.follow import Progress, follow, read_events
from server.monitoring.run_folder import RunFacts, RunFolder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.monitoring.follow._POLL_S", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "one")
    made.create(RunFacts(name="one", mlflow_uri=""), StudyProtocol())
    return made


def start(folder: RunFolder, round: int = 0) -> None:
    line = "2 sites (labelled+unlabelled cases): A 2+0, B 2+0"
    folder.add_event("started", round=round, rounds=4, sites=["A", "B"], line=line)


def train(folder: RunFolder, number: int) -> None:
    folder.add_event("called", round=number, what="train", sites=["A", "B"])
    folder.add_event("answered", round=number, site="A", done=1, expected=2)
    folder.add_event(
        "round", round=number, line=f"round {number}/4", left_out={}, validation_dsc={}
    )


@contextmanager
def server_app(folder: RunFolder, work: Callable[[], None]) -> Iterator[None]:
    """Holds the run while it works; it is at work before anybody looks."""
    holding = threading.Event()

    def main() -> None:
        with folder.lock():
            holding.set()
            work()

    thread = threading.Thread(target=main)
    thread.start()
    assert holding.wait(10)
    yield
    thread.join(10)
    assert not thread.is_alive()


def plain() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=30, emoji=False), out


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("finished", ""), ("stopped", "round 2: 1 sites answered"), ("failed", "OSError: disk")],
)
def test_how_a_run_ends(folder: RunFolder, kind: str, reason: str) -> None:
    def work() -> None:
        start(folder)
        train(folder, 1)
        train(folder, 2)
        folder.add_event(kind, **({"reason": reason} if reason else {"unsent": 0}))

    console, out = plain()
    with server_app(folder, work):
        assert follow(folder, console) == (kind, reason)
    assert out.getvalue().splitlines() == [
        "2 sites (labelled+unlabelled cases): A 2+0, B 2+0",
        "round 1/4",
        "round 2/4",
    ]


def test_lines_come_while_the_run_goes_on(folder: RunFolder) -> None:
    """The ServerApp ends only after what it wrote first has been shown."""
    shown = threading.Event()

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if "round 1/4" in text:
                shown.set()
            return super().write(text)

    def work() -> None:
        start(folder)
        train(folder, 1)
        assert shown.wait(10)
        folder.add_event("finished")

    with server_app(folder, work):
        assert follow(folder, Console(file=Screen()))[0] == "finished"
    assert shown.is_set()


def test_a_server_app_that_dies_is_reported(folder: RunFolder) -> None:
    def work() -> None:
        start(folder)
        train(folder, 1)

    console, out = plain()
    with server_app(folder, work):
        outcome, reason = follow(folder, console)
    assert outcome == "died"
    assert "without a last event" in reason
    assert "round 1/4" in out.getvalue()


def test_a_server_app_that_says_nothing_at_all_dies_too(folder: RunFolder) -> None:
    looked = threading.Event()
    at_work = folder.at_work

    def look() -> bool:
        found = at_work()
        looked.set()
        return found

    folder.at_work = look  # type: ignore[method-assign]
    with server_app(folder, lambda: looked.wait(10) or None):
        assert follow(folder, plain()[0])[0] == "died"


def test_more_sites_than_are_awaited_are_not_6_of_5() -> None:
    online = {"kind": "online", "sites": ["A", "B", "C"], "awaited": 2}
    assert Progress().apply(online) == "sites online: A, B, C (2 are enough)"
    assert Progress().apply(online | {"awaited": 3}) == "sites online: A, B, C (3 of 3)"


def test_a_run_that_never_starts(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.monitoring.follow._START_PATIENCE_S", 0.05)
    outcome, reason = follow(folder, plain()[0])
    assert (outcome, reason) == ("never started", "no ServerApp within 0 s")


def test_what_was_there_before_this_start_is_not_shown(folder: RunFolder) -> None:
    start(folder)
    train(folder, 1)
    folder.add_event("stopped", reason="an earlier one")
    already = len(read_events(folder.events))

    def work() -> None:
        start(folder, round=1)
        train(folder, 2)
        folder.add_event("finished")

    console, out = plain()
    with server_app(folder, work):
        assert follow(folder, console, already=already) == ("finished", "")
    assert out.getvalue().splitlines() == [
        "2 sites (labelled+unlabelled cases): A 2+0, B 2+0; going on after round 1",
        "round 2/4",
    ]


def test_a_resumed_run_shows_the_last_scores(folder: RunFolder) -> None:
    start(folder)
    folder.add_event("round", round=1, line="round 1/4", validation_dsc={"A": {"ball": 0.5}})
    folder.add_event("stopped", reason="an earlier one")
    already = len(read_events(folder.events))

    def work() -> None:
        start(folder, round=1)
        time.sleep(1.5)  # some looks
        folder.add_event("finished")

    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)
    with server_app(folder, work):
        assert follow(folder, console, already=already) == ("finished", "")
    assert "ball 0.500" in out.getvalue()
    assert "round 1/4" not in out.getvalue()


@pytest.mark.parametrize("end", ["stopped", "failed", "died"])
def test_a_resumed_run_is_followed_to_its_own_end(folder: RunFolder, end: str) -> None:
    """`--follow` shows all of a run from its first event on."""
    start(folder)
    train(folder, 1)
    if end != "died":
        folder.add_event(end, reason="an earlier one")

    def work() -> None:
        start(folder, round=1)
        train(folder, 2)
        folder.add_event("finished")

    console, out = plain()
    with server_app(folder, work):
        outcome = follow(folder, console)
    assert outcome == ("finished", "")
    assert "round 2/4" in out.getvalue()


def test_a_terminal_shows_a_table(folder: RunFolder) -> None:
    def work() -> None:
        start(folder)
        train(folder, 1)
        folder.add_event("finished")

    out = io.StringIO()
    with server_app(folder, work):
        follow(folder, Console(file=out, force_terminal=True, width=100))
    assert "\x1b[" in out.getvalue()
    assert "round 1/4" in out.getvalue()


def test_plain_lines_hold_no_control_characters(folder: RunFolder) -> None:
    def work() -> None:
        start(folder)
        folder.add_event("finished")

    console, out = plain()
    with server_app(folder, work):
        follow(folder, console)
    assert "\x1b" not in out.getvalue()


def test_the_table_says_who_does_what() -> None:
    progress = Progress()
    line = progress.apply({"kind": "online", "sites": ["A", "B"], "awaited": 3})
    assert line.startswith("sites online: A, B")
    assert line.endswith("(2 of 3)")
    assert progress.states == {"A": "online", "B": "online"}
    progress.apply(
        {"kind": "started", "round": 0, "rounds": 4, "sites": ["A", "B", "C"], "line": ""}
    )
    assert progress.states == {"A": "ready", "B": "ready", "C": "ready"}
    progress.apply({"kind": "called", "round": 1, "what": "train", "sites": ["A", "B"]})
    progress.apply({"kind": "answered", "round": 1, "site": "A", "done": 1, "expected": 2})
    assert progress.states == {"A": "answered", "B": "train ...", "C": "offline or resting"}
    scores = {"A": {"rod": 0.5, "ball": 0.25}}
    line = progress.apply({"kind": "round", "round": 1, "line": "x", "validation_dsc": scores})
    assert line == "x"
    line = progress.apply({"kind": "hint", "line": "rod: 1 of 2 test cases missed"})
    assert line == "look at: rod: 1 of 2 test cases missed"
    console = Console(file=io.StringIO(), width=100)
    console.print(progress.table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "round 1 of 4: train" in text
    assert "ball 0.250  rod 0.500" in text


def test_a_site_that_waits_for_its_people_is_told_of() -> None:
    progress = Progress()
    event = {"kind": "waits", "site": "A", "why": "the study awaits approval at the site"}
    assert progress.apply(event) == "A: the study awaits approval at the site"
    assert progress.states["A"] == "the study awaits approval at the site"
