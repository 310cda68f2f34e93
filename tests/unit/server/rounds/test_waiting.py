"""Sites at which a person has to approve first, or which work at other hours."""

from collections.abc import Callable

import pytest
from memory_grid import RUN, Clock, MemoryGrid, Site, Witness, error

from protocol.config.study import StudyProtocol
from server.rounds.errors import QuorumError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread")

WORDS = {
    "StudyNotApproved": "the study awaits approval at the site",
    "NotApproved": "the code awaits approval at the site",
    "OutsideHours": "the site works at other hours",
}


class Listener(Witness):
    def __init__(self) -> None:
        super().__init__()
        self.waits: list[tuple[str, str]] = []

    def site_waits(self, site: str, why: str) -> None:
        self.waits.append((site, why))


def run(
    grid: MemoryGrid, protocol: StudyProtocol, watcher: Witness, expected: int | None = None
) -> StudyRecord:
    expected = expected or len(grid.sites)
    return run_study(grid, new_record(protocol, run=RUN), watcher, expected_sites=expected)


def trained(record: StudyRecord) -> list[str]:
    return ["".join(item.reports) for item in record.rounds]


def waiting_site(name: str, protocol: StudyProtocol, word: str = "StudyNotApproved") -> Site:
    return Site(name, protocol, spoil={"query": error(word)}, registered_as=name)


@pytest.mark.parametrize("word", WORDS)
def test_the_study_begins_once_all_have_approved(
    make_protocol: MakeProtocol, clock: Clock, word: str
) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 600})
    waits = waiting_site("B", protocol, word)
    clock.after(100, waits.spoil.clear)
    listener, started = Listener(), clock.now
    record = run(MemoryGrid([Site("A", protocol), waits]), protocol, listener)
    assert trained(record)[0] == "AB"
    assert 100 <= clock.now - started < 140
    # Told once, however often it was asked; and ever less often.
    assert listener.waits == [("B", WORDS[word])]
    assert 5 <= waits.asked["query"] <= 8


def test_who_has_approved_is_not_asked_again(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 600})
    first, waits = Site("A", protocol), waiting_site("B", protocol)
    clock.after(30, waits.spoil.clear)
    run(MemoryGrid([first, waits]), protocol, Listener())
    assert first.asked["query"] == 1


def test_at_the_end_of_the_joining_time_it_begins_with_those_that_approved(
    make_protocol: MakeProtocol, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 200})
    waits = waiting_site("C", protocol)
    started = clock.now
    record = run(MemoryGrid([Site("A", protocol), Site("B", protocol), waits]), protocol, Witness())
    assert set(trained(record)) == {"AB"}
    assert 200 <= clock.now - started < 240
    assert "C (StudyNotApproved)" in caplog.text


def test_a_later_approval_joins_like_a_newcomer(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(training={"rounds": 4}, aggregation={"join_timeout_s": 60})
    waits = waiting_site("C", protocol)
    grid = MemoryGrid([Site("A", protocol), Site("B", protocol), waits])

    def approve() -> None:
        waits.spoil.clear()
        clock.sleep(30)  # a round takes its time

    record = run_study(
        grid, new_record(protocol, run=RUN), Witness(after={2: approve}), expected_sites=3
    )
    assert trained(record) == ["AB", "AB", "ABC", "ABC"]


def test_enough_sites_wait_for_no_further_approval(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 600})
    sites = [Site("A", protocol), Site("B", protocol), waiting_site("C", protocol)]
    started = clock.now
    record = run(MemoryGrid(sites), protocol, Witness(), expected=2)
    assert set(trained(record)) == {"AB"}
    assert clock.now - started < 20


def test_too_few_approvals_stop_the_study_with_the_reason(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 60})
    grid = MemoryGrid([Site("A", protocol), waiting_site("B", protocol)])
    with pytest.raises(QuorumError, match=r"1 sites answered.*B \(StudyNotApproved\)"):
        run(grid, protocol, Witness())


def test_another_failure_is_not_waited_for(make_protocol: MakeProtocol, clock: Clock) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 600})
    broken = Site("C", protocol, spoil={"query": error("LayoutError")}, registered_as="C")
    waits = waiting_site("D", protocol)
    clock.after(20, waits.spoil.clear)
    sites = [Site("A", protocol), Site("B", protocol), broken, waits]
    record = run(MemoryGrid(sites), protocol, Listener())
    assert trained(record)[0] == "ABD"
    # Once at first; then in passing, as every newcomer.
    assert broken.asked["query"] == len(record.rounds)


def test_a_site_that_comes_while_others_wait_is_asked(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 600})
    waits = waiting_site("B", protocol)
    grid = MemoryGrid([Site("A", protocol), waits])
    clock.after(12, lambda: grid.add(Site("C", protocol)))
    clock.after(40, waits.spoil.clear)
    record = run(grid, protocol, Listener(), expected=2)
    assert trained(record)[0] == "AC"


def test_a_lost_quorum_does_not_ask_a_waiting_site_five_times_a_second(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    protocol = make_protocol(aggregation={"join_timeout_s": 60})
    grid = MemoryGrid([Site("A", protocol), Site("B", protocol), waiting_site("C", protocol)])
    sites = list(grid.sites.values())
    witness = Witness(after={1: lambda: sites[1].goes("offline")})
    with pytest.raises(QuorumError, match="offline: B"):
        run(grid, protocol, witness, expected=2)
    assert sites[2].asked["query"] < 2 + 60 / 5 + 2


def test_a_resumed_study_waits_for_new_approvals_too(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    """After a revision, sites that the record knows have to approve again."""
    protocol = make_protocol(aggregation={"join_timeout_s": 600})
    sites = [waiting_site(name, protocol) for name in "AB"]
    record = new_record(protocol, run=RUN)
    record.facts = {site.name: site.facts for site in sites}
    clock.after(40, sites[0].spoil.clear)
    clock.after(90, sites[1].spoil.clear)
    listener, started = Listener(), clock.now
    run_study(MemoryGrid(sites), record, listener, expected_sites=2)
    assert trained(record)[0] == "AB"
    assert 90 <= clock.now - started < 130
    assert listener.waits == [(site, WORDS["StudyNotApproved"]) for site in "AB"]


def test_a_site_that_goes_while_it_is_asked_is_named_and_ends_nothing(
    make_protocol: MakeProtocol, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The centre knows a node's name only while it is there."""
    protocol = make_protocol(aggregation={"join_timeout_s": 60, "absence_s": 5})
    leaves = waiting_site("C", protocol)
    leaves.goes("busy")
    clock.after(1, lambda: leaves.goes("offline"))
    sites = [Site("A", protocol), Site("B", protocol), leaves]
    record = run(MemoryGrid(sites), protocol, Listener())
    assert trained(record)[0] == "AB"
    assert "node 102 (" in caplog.text
