"""A site that misses two deadlines in a row is called no more until it asks again."""

from collections.abc import Callable
from pathlib import Path

import pytest
from memory_grid import RUN, Clock, MemoryGrid, Site, Witness, error, silence

from protocol.config.study import StudyProtocol
from server.rounds.checkpoint import load_checkpoint, save_checkpoint
from server.rounds.errors import QuorumError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.silence import NOT_CALLED

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread")

LATE = "no answer within 100 s"


class Told(Witness):
    """Notes what is said of each site."""

    def __init__(self, after: dict[int, Callable[[], object]] | None = None) -> None:
        super().__init__(after)
        self.told: list[tuple[str, str]] = []

    def site_waits(self, site: str, why: str) -> None:
        self.told.append((site, why))


@pytest.fixture
def protocol(make_protocol: MakeProtocol) -> StudyProtocol:
    return make_protocol(
        training={"rounds": 6},
        aggregation={"round_timeout_s": 100, "join_timeout_s": 50},
        evaluation={"every_rounds": 100},
    )


def three(protocol: StudyProtocol, registered: bool = False) -> list[Site]:
    return [Site(name, protocol, registered_as=name if registered else "") for name in "ABC"]


def run(
    sites: list[Site], protocol: StudyProtocol, watcher: Witness, record: StudyRecord | None = None
) -> StudyRecord:
    return run_study(
        MemoryGrid(sites),
        record or new_record(protocol, run=RUN),
        watcher,
        expected_sites=len(sites),
    )


def left_out(record: StudyRecord) -> list[str]:
    return [finished.left_out.get("C", "") for finished in record.rounds]


def test_two_deadlines_in_a_row(
    protocol: StudyProtocol, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sites, told = three(protocol), Told()
    sites[2].spoil["train"] = silence
    started = clock.now
    record = run(sites, protocol, told)
    assert left_out(record) == [LATE, LATE] + [NOT_CALLED] * 4
    assert sites[2].asked["train"] == 2
    # Four rounds of six have not waited for it.
    assert 200 <= clock.now - started < 230
    assert told.told == [("C", f"{NOT_CALLED}; start it anew")]
    assert f"C is {NOT_CALLED}; start it anew" in caplog.text


def test_a_site_that_nobody_starts_anew_is_called_again_after_a_while(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(
        training={"rounds": 40},
        aggregation={"round_timeout_s": 100, "join_timeout_s": 50},
        evaluation={"every_rounds": 100},
    )
    sites, told = three(protocol), Told()
    sites[2].spoil["train"] = lambda m, c: None if sites[2].asked["train"] < 4 else c
    record = run(sites, protocol, told)
    rests = [NOT_CALLED] * 8 + [LATE] + [NOT_CALLED] * 16
    assert left_out(record) == [LATE, LATE, *rests] + [""] * 13
    assert (record.silent, record.missed, record.again) == ({}, {}, {})
    assert told.told.count(("C", "has rested, and is called again")) == 2


def test_one_deadline_and_then_an_answer(protocol: StudyProtocol, clock: Clock) -> None:
    sites = three(protocol)
    # Never two in a row.
    sites[2].spoil["train"] = lambda m, c: None if len(sites[2].rounds) % 2 else c
    record = run(sites, protocol, Told())
    assert left_out(record) == [LATE, ""] * 3
    assert record.silent == {}


def test_a_refused_answer_is_an_answer(protocol: StudyProtocol, clock: Clock) -> None:
    sites = three(protocol)
    sites[2].spoil["train"] = error("LayoutError")
    assert left_out(run(sites, protocol, Told())) == ["LayoutError"] * 6


def test_scores_have_deadlines_too(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(training={"rounds": 4}, aggregation={"round_timeout_s": 100})
    sites, told = three(protocol), Told()
    for kind in ("train", "evaluate"):
        sites[2].spoil[kind] = silence
    record = run(sites, protocol, told)
    assert left_out(record) == [LATE] + [NOT_CALLED] * 3
    assert (sites[2].asked["train"], sites[2].asked["evaluate"]) == (1, 1)


@pytest.mark.parametrize("way", ["started anew", "offline and back"])
def test_a_site_that_asks_again_is_called_again(
    protocol: StudyProtocol, clock: Clock, way: str
) -> None:
    sites = three(protocol)
    sites[2].spoil["train"] = silence

    def recover() -> None:
        del sites[2].spoil["train"]
        if way == "started anew":
            sites[2].since = "second start"
        else:
            sites[2].goes("offline")

    def comes_back() -> None:
        sites[2].goes("online")

    told = Told(after={3: recover, 4: comes_back})
    record = run(sites, protocol, told)
    back = 4 if way == "started anew" else 5
    expected = [LATE, LATE] + [NOT_CALLED] * (back - 3) + [""] * (7 - back)
    assert left_out(record) == expected
    assert told.told[-1] == ("C", "is back, and is called again")
    assert record.silent == {} and record.missed == {}


@pytest.mark.parametrize("registered", [True, False])
def test_a_resumed_study_does_not_call_it_either(
    protocol: StudyProtocol, clock: Clock, tmp_path: Path, registered: bool
) -> None:
    sites = three(protocol, registered)
    sites[2].spoil = dict.fromkeys(("train", "query"), silence)
    del sites[2].spoil["query"]

    class Saving(Told):
        def round_finished(self, record: StudyRecord) -> None:
            save_checkpoint(tmp_path, record)
            super().round_finished(record)

    def dies() -> None:
        sites[2].spoil["query"] = silence
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sites, protocol, Saving(after={3: dies}))
    record = load_checkpoint(tmp_path)
    assert record is not None
    assert record.silent == {"C": "first start"}
    asked, started = dict(sites[2].asked), clock.now
    run(sites, protocol, Told(), record)
    assert left_out(record)[2:] == [NOT_CALLED] * 4
    if registered:  # else nobody knows whose node it is before it has said so
        assert dict(sites[2].asked) == asked
        assert clock.now - started < 30


def test_an_older_checkpoint_knows_of_no_silence(
    protocol: StudyProtocol, clock: Clock, tmp_path: Path
) -> None:
    record = run(three(protocol), protocol, Told())
    save_checkpoint(tmp_path, record)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.silent == {} and loaded.missed == {}


def test_a_study_without_a_quorum_says_who_is_not_called(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(
        training={"rounds": 9},
        aggregation={"round_timeout_s": 100, "join_timeout_s": 50, "min_sites": 2},
        evaluation={"every_rounds": 100},
    )
    sites = three(protocol)
    for site in sites[1:]:
        site.spoil["train"] = lambda m, c, s=site: None if len(s.rounds) > 2 else c  # type: ignore[misc]
    with pytest.raises(QuorumError, match="round 3: 1 sites answered"):
        run(sites, protocol, Told())
    sites = three(protocol)
    sites[1].spoil["train"] = lambda m, c: None if len(sites[1].rounds) > 2 else c
    sites[2].spoil["train"] = silence
    told = Told()
    with pytest.raises(QuorumError, match=r"round 3: 1 sites answered"):
        run(sites, protocol, told)
    assert told.told == [("C", f"{NOT_CALLED}; start it anew")]
