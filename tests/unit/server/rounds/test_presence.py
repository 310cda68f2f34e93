"""Sites that come late, leave, return, crash or are started anew, by a clock that is told to."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from memory_grid import RUN, Answer, Clock, MemoryGrid, Site, Witness, error, silence, study

from protocol.config.study import StudyProtocol
from protocol.wire.messages import read_plan
from server.rounds.errors import QuorumError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread")


def run(grid: MemoryGrid, protocol: StudyProtocol, witness: Witness) -> StudyRecord:
    record = new_record(protocol, run=RUN)
    return run_study(grid, record, witness, expected_sites=len(grid.sites))


def trained(record: StudyRecord) -> list[str]:
    """Who trained, a word a round."""
    return ["".join(item.reports) for item in record.rounds]


# ---- joining ------------------------------------------------------------------------------------


def test_a_site_that_comes_after_round_2_takes_part_from_the_next_on(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 4})
    grid = MemoryGrid(Site(name, protocol) for name in "AB")
    late = Site("C", protocol)
    witness = Witness(after={2: lambda: grid.add(late)})
    record = run(grid, protocol, witness)
    assert trained(record) == ["AB", "AB", "ABC", "ABC"]
    assert list(record.facts) == ["A", "B", "C"]
    assert late.asked["query"] == 1
    assert all(not item.left_out for item in record.rounds)


def test_no_round_waits_for_a_late_site_to_prepare_its_data(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 6}, aggregation={"round_timeout_s": 3600})
    grid = MemoryGrid(Site(name, protocol) for name in "AB")
    late = Site("C", protocol)
    late.goes("busy")
    witness = Witness(after={2: lambda: grid.add(late), 4: lambda: late.goes("online")})
    started = clock.now
    record = run(grid, protocol, witness)
    assert trained(record) == ["AB", "AB", "AB", "AB", "ABC", "ABC"]
    assert clock.now - started < 10
    assert late.asked["query"] == 1
    assert grid.pushed.count((102, "query")) == 1


def test_a_late_site_whose_declaration_fails_is_asked_again_and_named(
    make_protocol: MakeProtocol, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol(training={"rounds": 5})
    grid = MemoryGrid(Site(name, protocol) for name in "AB")
    late = Site("C", protocol, spoil={"query": error("LayoutError")})
    witness = Witness(after={1: lambda: grid.add(late), 3: late.spoil.clear})
    record = run(grid, protocol, witness)
    assert trained(record) == ["AB", "AB", "AB", "ABC", "ABC"]
    assert caplog.text.count("LayoutError") == 2


def test_the_study_begins_as_soon_as_enough_are_there(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 600})
    grid = MemoryGrid([Site("A", protocol)])
    clock.after(30, lambda: grid.add(Site("B", protocol)))
    started = clock.now
    run_study(grid, new_record(protocol, run=RUN), Witness(), expected_sites=2)
    assert 30 <= clock.now - started < 40


# ---- leaving ------------------------------------------------------------------------------------


def test_a_site_that_leaves_is_not_called_until_it_is_back(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 4})
    sites = [Site(name, protocol) for name in "ABC"]
    witness = Witness(
        after={1: lambda: sites[2].goes("offline"), 3: lambda: sites[2].goes("online")}
    )
    record = study(sites, protocol, witness)
    assert trained(record) == ["ABC", "AB", "AB", "ABC"]
    assert [dict(item.left_out) for item in record.rounds] == [
        {},
        {"C": "offline"},
        {"C": "offline"},
        {},
    ]
    assert sites[2].asked == {"query": 1, "train": 2, "evaluate": 2}
    assert (2, "train", ["A", "B"]) in witness.called
    assert (2, "evaluate", ["A", "B"]) in witness.called
    assert set(record.rounds[1].evaluation or {}) == {"A", "B"}


def test_nothing_is_counted_as_sent_to_a_site_that_is_offline(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol()
    sites = [Site(name, protocol) for name in "ABC"]
    witness = Witness(after={1: lambda: sites[2].goes("offline")})
    record = study(sites, protocol, witness)
    assert set(record.rounds[0].bytes_down) == {"A", "B", "C"}
    assert set(record.rounds[1].bytes_down) == {"A", "B"}


def test_below_the_quorum_a_round_waits_and_goes_on(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 3}, aggregation={"join_timeout_s": 100})
    sites = [Site(name, protocol) for name in "AB"]

    def leaves() -> None:
        sites[1].goes("offline")
        clock.after(60, lambda: sites[1].goes("online"))

    record = study(sites, protocol, Witness(after={1: leaves}))
    assert trained(record) == ["AB", "AB", "AB"]
    assert all(not item.left_out for item in record.rounds)
    assert [item.seconds > 60 for item in record.rounds] == [False, True, False]
    assert sites[0].rounds == [1, 2, 3]


def test_a_round_that_waits_for_sites_says_who_is_there(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 2}, aggregation={"min_sites": 3})
    sites = [Site(name, protocol) for name in "ABC"]
    told: list[tuple[list[str], int]] = []

    class Ear(Witness):
        def sites_online(self, sites_there: Sequence[str], awaited: int) -> None:
            told.append((list(sites_there), awaited))
            if len(told) == 2:  # while the second round waits
                sites[1].goes("offline")
            if len(told) == 3:
                sites[1].goes("online")
                sites[2].goes("online")

    record = run(MemoryGrid(sites), protocol, Ear(after={1: lambda: sites[2].goes("offline")}))
    assert trained(record) == ["ABC", "ABC"]
    assert told[1:] == [(["A", "B"], 3), (["A"], 3)]


def test_below_the_quorum_for_too_long_the_study_stops_and_says_who_is_offline(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(
        training={"rounds": 3}, aggregation={"join_timeout_s": 100, "min_sites": 3}
    )
    sites = [Site(name, protocol) for name in "ABCD"]

    def leave() -> None:
        sites[1].goes("offline")
        sites[3].goes("offline")

    witness = Witness(after={1: leave})
    started = clock.now
    with pytest.raises(QuorumError, match=r"round 2: 2 sites .* at least 3 .*offline: B, D$"):
        study(sites, protocol, witness)
    assert 100 <= clock.now - started < 110
    assert witness.events == ["started", "round 1", "finished"]


def test_where_few_sites_have_work_those_are_the_quorum(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    ramp = {"adversarial_start": 0.5, "region_start": 0.5, "length": 0.0}
    protocol = make_protocol(
        training={"rounds": 2, "ramp": ramp}, aggregation={"min_sites": 3, "join_timeout_s": 10}
    )
    sites = [Site("A", protocol)]
    sites += [Site(name, protocol, labelled=0, unlabelled=4) for name in "FG"]
    assert trained(study(sites, protocol)) == ["A", "AFG"]


def test_sites_lost_in_a_round_below_the_quorum_are_awaited_for_one_more_attempt(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(
        training={"rounds": 2},
        aggregation={"join_timeout_s": 500, "absence_s": 50, "round_timeout_s": 3600},
    )
    sites = [Site(name, protocol) for name in "AB"]

    def dies(message: Message, content: RecordDict) -> Answer:
        del sites[1].spoil["train"]
        sites[1].goes("offline")
        clock.after(200, lambda: sites[1].goes("online"))
        return None

    sites[1].spoil["train"] = dies
    record = study(sites, protocol)
    assert trained(record) == ["AB", "AB"]
    assert sites[0].rounds == [1, 1, 2]
    assert not record.rounds[0].left_out


# ---- within a round -----------------------------------------------------------------------------


def crashes(times: int, failure: Error) -> Callable[..., Answer]:
    left = [times]

    def spoil(_: Message, content: RecordDict) -> Answer:
        left[0] -= 1
        return failure if left[0] >= 0 else content

    return spoil


LOST = [
    Error(2, "ClientAppCrashed"),
    Error(8, "ClientAppCrashed"),
    Error(8, "the worker died"),
    Error(4, "Reply Message Unavailable"),
]


@pytest.mark.parametrize("failure", LOST, ids=lambda e: f"{e.code} {e.reason}")
@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_a_lost_worker_is_asked_up_to_three_times(
    make_protocol: MakeProtocol, clock: Clock, failure: Error, kind: str
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    site = Site("C", protocol, spoil={kind: crashes(2, failure)})
    record = study([Site("A", protocol), Site("B", protocol), site], protocol)
    assert site.asked[kind] == 3
    assert trained(record) == ["ABC"]
    assert not record.rounds[0].left_out
    assert set(record.rounds[0].evaluation or {}) == {"A", "B", "C"}


def test_a_worker_that_is_always_lost_is_left_out_after_three_attempts(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    site = Site("C", protocol, spoil={"train": crashes(99, LOST[0])})
    record = study([Site("A", protocol), Site("B", protocol), site], protocol)
    assert site.asked["train"] == 3
    assert record.rounds[0].left_out == {"C": "ClientAppCrashed"}


@pytest.mark.parametrize("code", [0, 1, 2, 6, 7])
def test_another_error_is_not_asked_about_again(
    make_protocol: MakeProtocol, clock: Clock, code: int
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    site = Site("C", protocol, spoil={"train": crashes(1, Error(code, "OutOfMemoryError"))})
    record = study([Site("A", protocol), Site("B", protocol), site], protocol)
    assert site.asked["train"] == 1
    assert record.rounds[0].left_out == {"C": "OutOfMemoryError"}


def test_a_node_that_was_started_anew_is_asked_again(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 1}, aggregation={"round_timeout_s": 3600})
    site = Site("C", protocol, spoil={"train": silence})

    def starts_anew() -> None:
        site.since = "second start"
        del site.spoil["train"]

    clock.after(20, starts_anew)
    started = clock.now
    record = study([Site("A", protocol), Site("B", protocol), site], protocol)
    assert site.asked["train"] == 2
    assert trained(record) == ["ABC"]
    assert clock.now - started < 40


def test_a_node_that_starts_anew_again_and_again_is_asked_three_times(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 1}, aggregation={"round_timeout_s": 300})
    site = Site("C", protocol, spoil={"train": silence})

    def starts_anew() -> None:
        site.since += " and again"
        clock.after(20, starts_anew)

    clock.after(20, starts_anew)
    record = study([Site("A", protocol), Site("B", protocol), site], protocol)
    assert site.asked["train"] == 3
    assert record.rounds[0].left_out == {"C": "no answer within 300 s"}


def away_in_round_1(
    protocol: StudyProtocol, clock: Clock, *changes: tuple[float, Any]
) -> StudyRecord:
    """A study whose site C changes so while A, which answers last, trains in round 1."""
    sites = [Site(name, protocol) for name in "ABC"]

    def meanwhile(message: Message, content: RecordDict) -> Answer:
        if read_plan(message.content).round == 1:
            sites[2].goes("offline")
            for when, state in changes:
                clock.after(when, lambda state=state: sites[2].goes(state))
        return content

    sites[0].spoil["train"] = meanwhile
    return study(sites, protocol)


def test_a_reply_after_an_absence_counts(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(aggregation={"absence_s": 60, "round_timeout_s": 3600})
    record = away_in_round_1(protocol, clock, (50, "online"))
    assert trained(record) == ["ABC", "ABC"]
    assert not record.rounds[0].left_out
    assert 50 <= record.rounds[0].seconds < 60


def test_a_site_that_is_absent_for_too_long_is_given_up(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(aggregation={"absence_s": 60, "round_timeout_s": 3600})
    record = away_in_round_1(protocol, clock, (100, "online"))
    assert record.rounds[0].left_out == {"C": "offline for over 60 s"}
    assert 60 <= record.rounds[0].seconds < 65
    assert trained(record)[0] == "AB"


def test_two_short_absences_are_not_one_long(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(aggregation={"absence_s": 60, "round_timeout_s": 3600})
    record = away_in_round_1(
        protocol, clock, (5, "busy"), (100, "offline"), (105, "busy"), (110, "online")
    )
    assert not record.rounds[0].left_out
    assert trained(record)[0] == "ABC"


def test_a_late_site_that_was_started_anew_is_asked_again(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(training={"rounds": 5}, aggregation={"round_timeout_s": 3600})
    grid = MemoryGrid(Site(name, protocol) for name in "AB")
    late = Site("C", protocol, spoil={"query": silence})

    def starts_anew() -> None:
        late.since = "second start"
        late.spoil.clear()

    witness = Witness(after={1: lambda: grid.add(late), 2: starts_anew})
    assert trained(run(grid, protocol, witness))[-1] == "ABC"


def test_a_new_site_can_make_up_the_quorum(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(training={"rounds": 2}, aggregation={"join_timeout_s": 100})
    sites = [Site(name, protocol) for name in "AB"]
    grid = MemoryGrid(sites)

    def swap() -> None:
        sites[1].goes("offline")
        clock.after(20, lambda: grid.add(Site("C", protocol)))

    assert trained(run(grid, protocol, Witness(after={1: swap}))) == ["AB", "AC"]


# ---- names --------------------------------------------------------------------------------------


def test_a_node_that_is_registered_as_b_cannot_answer_as_a(
    make_protocol: MakeProtocol, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol, registered_as=name) for name in "ACD"]
    impostor = Site("A", protocol, labelled=50, registered_as="B")
    record = study([impostor, *sites], protocol)
    assert record.facts["A"].labelled == 2
    assert trained(record) == ["ACD"]
    assert impostor.rounds == []
    assert "B (the node that is registered as site B answered in the name of site A)" in caplog.text


def test_it_cannot_do_so_later_either(make_protocol: MakeProtocol, clock: Clock) -> None:
    def as_a(_: Message, content: RecordDict) -> Answer:
        content["site"]["name"] = "A"
        return content

    protocol = make_protocol(training={"rounds": 1})
    sites = [Site(name, protocol, registered_as=name) for name in "ABC"]
    sites[1].spoil["train"] = as_a
    record = study(sites, protocol)
    assert record.rounds[0].left_out == {"B": "a node that is not site A answered in its name"}
    assert trained(record) == ["AC"]
