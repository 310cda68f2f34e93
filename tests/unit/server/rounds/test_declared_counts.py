"""A site weighs what it declares: more than the centre has approved is refused, by every way in."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from memory_grid import RUN, MemoryGrid, Site, Witness, same, study

from asdnet_models.sums import SumCount
from protocol.config.study import StudyProtocol
from server.rounds.errors import QuorumError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread", "clock")

APPROVED = {"A": 2, "B": 3, "C": 4, "X": 100_000}


def run(
    sites: list[Site],
    protocol: StudyProtocol,
    approved: Callable[[], dict[str, int] | None] = lambda: APPROVED,
    record: StudyRecord | None = None,
    witness: Witness | None = None,
) -> StudyRecord:
    return run_study(
        MemoryGrid(sites),
        record or new_record(protocol, run=RUN),
        witness or Witness(),
        expected_sites=len(sites),
        approved=approved,
    )


def declares(site: Site, labelled: int, unlabelled: int = 0) -> Site:
    site.facts = replace(
        site.facts, labelled=labelled, unlabelled=unlabelled, box=(SumCount(),) * 6
    )
    return site


@pytest.mark.parametrize(
    ("labelled", "unlabelled"), [(5, 0), (0, 5), (2, 3), (100_000, 0), (0, 100_000)]
)
def test_more_cases_than_approved(
    make_protocol: MakeProtocol,
    labelled: int,
    unlabelled: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    protocol = make_protocol()
    liar = declares(Site("C", protocol), labelled, unlabelled)
    record = run([Site("A", protocol), Site("B", protocol), liar], protocol)
    assert list(record.facts) == ["A", "B"]
    assert liar.rounds == [] and liar.asked["evaluate"] == 0
    assert (
        f"not part of the study: node 102 (site C declares {labelled + unlabelled} training cases, "
        "the centre has approved at most 4; if the hospital has so many: asdnet-centre add-site C "
        f"--public-key FILE --max-cases {labelled + unlabelled})"
    ) in caplog.text
    alone = study([Site("A", protocol), Site("B", protocol)], protocol)
    assert same(record.segmenter, alone.segmenter) and same(record.confidence, alone.confidence)


def test_a_million_cases_are_refused_whatever_was_approved(
    make_protocol: MakeProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol()
    liar = declares(Site("X", protocol), 10**6)
    record = run([Site("A", protocol), Site("B", protocol), liar], protocol, lambda: None)
    assert list(record.facts) == ["A", "B"]
    assert "labelled is 1e+06, must be a whole number from 0 to 100000" in caplog.text


def test_just_as_many_as_approved(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    sites = [Site("A", protocol), Site("B", protocol), declares(Site("C", protocol), 1, 3)]
    assert list(run(sites, protocol).facts) == ["A", "B", "C"]


def test_a_site_cannot_use_the_bound_of_another(
    make_protocol: MakeProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol()
    sites = [Site(name, protocol, registered_as=name) for name in "AB"]
    thief = declares(Site("X", protocol, registered_as="C"), 50_000)
    assert list(run([*sites, thief], protocol).facts) == ["A", "B"]
    assert "registered as site C answered in the name of site X" in caplog.text


def test_a_site_that_the_list_does_not_have(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    sites = [Site(name, protocol) for name in "ABD"]
    assert list(run(sites, protocol).facts) == ["A", "B"]


def test_approved_later_it_joins_the_study_under_way(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 4})
    approved = dict(APPROVED)
    more = Witness(after={2: lambda: approved.update(C=50)})
    sites = [Site("A", protocol), Site("B", protocol), declares(Site("C", protocol), 50)]
    record = run(sites, protocol, lambda: approved, witness=more)
    assert [sorted(f.reports) for f in record.rounds] == [["A", "B"]] * 2 + [["A", "B", "C"]] * 2


def test_a_resumed_study_asks_again(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"rounds": 2})
    record = new_record(protocol, run=RUN)
    sites = [Site(name, protocol) for name in "ABC"]

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sites, protocol, record=record, witness=Witness(after={1: stop}))
    declares(sites[2], 5)
    run(sites, protocol, record=record)
    assert [sorted(f.reports) for f in record.rounds] == [["A", "B", "C"], ["A", "B"]]


def test_where_all_lie_the_study_says_so(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    sites = [declares(Site(name, protocol), 50) for name in "AB"]
    with pytest.raises(QuorumError, match=r"0 sites answered.*site A declares 50 training cases"):
        run(sites, protocol)
