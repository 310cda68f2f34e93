"""A site's declaration against the study's requirements, by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from memory_grid import RUN, Clock, MemoryGrid, Site, Witness

from protocol.config.study import DataRequirements, StudyProtocol
from protocol.wire.reports import SiteFacts
from server.rounds.errors import RequirementsNotMetError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.requirements import broken_requirements, too_few_for_the_rule

MakeProtocol = Callable[..., StudyProtocol]

GOOD = SiteFacts(labelled=6, unlabelled=2, validation=1, test=1)


def protocol(**contract: object) -> StudyProtocol:
    return StudyProtocol(contract=DataRequirements.model_validate(contract))


def test_a_site_without_refusals_meets_the_default() -> None:
    assert broken_requirements("A", GOOD, protocol()) == []
    assert (
        broken_requirements(
            "A", SiteFacts(labelled=0, unlabelled=1, validation=0, test=0), protocol()
        )
        == []
    )


def test_site_rule_and_count_are_named() -> None:
    facts = SiteFacts(
        labelled=5, unlabelled=2, validation=1, test=0, refused={"grid": 1, "pair": 1}
    )
    assert broken_requirements("A", facts, protocol()) == [
        "site A: rule grid (a label map lies on its scan's grid): 1 of 10 cases refused, at most"
        " 0% may be",
        "site A: rule pair (a labelled scan has one label, a label one scan): 1 of 10 cases"
        " refused, at most 0% may be",
    ]
    assert broken_requirements("A", facts, protocol(max_refused_share=0.2)) == []
    assert len(broken_requirements("A", facts, protocol(max_refused_share=0.19))) == 2


@pytest.mark.parametrize(("least", "met"), [(6, True), (7, False)])
def test_labelled_cases_that_are_demanded(least: int, met: bool) -> None:
    found = broken_requirements("B", GOOD, protocol(min_labelled=least))
    assert found == (
        []
        if met
        else ["site B: contract.min_labelled: 6 labelled training cases, at least 7 must be"]
    )


def test_nothing_to_train_on() -> None:
    facts = SiteFacts(labelled=0, unlabelled=0, validation=1, test=1)
    assert broken_requirements("A", facts, protocol()) == ["site A: rule missing: no training case"]


# ---- in the round loop --------------------------------------------------------------------------


def begun(grid: MemoryGrid, protocol: StudyProtocol, witness: Witness) -> StudyRecord:
    record = new_record(protocol, run=RUN)
    return run_study(grid, record, witness, expected_sites=len(grid.sites))


def spoilt(site: Site) -> Site:
    site.facts = replace(site.facts, refused={"grid": 2, "slices": 1})
    return site


@pytest.mark.usefixtures("flower_task", "one_thread")
def test_a_study_is_not_begun_on_data_that_break_its_requirements(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    agreed = make_protocol()
    sites = [Site("A", agreed), spoilt(Site("B", agreed)), Site("C", agreed)]
    with pytest.raises(RequirementsNotMetError) as caught:
        begun(MemoryGrid(sites), agreed, Witness())
    told = str(caught.value)
    assert "site B: rule grid (a label map lies on its scan's grid): 2 of 7 cases refused" in told
    assert "site B: rule slices" in told and "asdnet-site check" in told
    assert "site A" not in told
    assert [site.rounds for site in sites] == [[], [], []]


@pytest.mark.usefixtures("flower_task", "one_thread")
def test_or_goes_on_without_that_site_where_the_protocol_says_so(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    agreed = make_protocol(contract={"unmet": "leave-out"})
    sites = [Site("A", agreed), spoilt(Site("B", agreed)), Site("C", agreed)]
    record = begun(MemoryGrid(sites), agreed, Witness())
    assert list(record.facts) == ["A", "C"]
    assert sites[1].rounds == []


@pytest.mark.usefixtures("flower_task", "one_thread")
def test_a_study_under_way_goes_on_without_a_newcomer_that_breaks_it(
    make_protocol: MakeProtocol, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    agreed = make_protocol(training={"rounds": 3})
    grid = MemoryGrid(Site(name, agreed) for name in "AB")
    late = spoilt(Site("C", agreed))
    record = begun(grid, agreed, Witness(after={1: lambda: grid.add(late)}))
    assert len(record.rounds) == 3
    assert list(record.facts) == ["A", "B"]
    assert "(site C: rule grid" in caplog.text


# ---- the rule and its number of sites -----------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "labelled", "broken"),
    [
        ("geometric-median", 2, "from 3 sites with labels on, 2 are there; lower hostile"),
        ("geometric-median", 3, None),
        ("krum", 4, "from 5 sites with labels on, 4 are there"),
        ("krum", 5, None),
    ],
)
def test_a_rule_needs_enough_sites_for_what_it_promises(
    rule: str, labelled: int, broken: str | None
) -> None:
    facts = dict.fromkeys("ABCDE"[:labelled], GOOD) | {"F": replace(GOOD, labelled=0)}
    study = StudyProtocol.model_validate({"aggregation": {"rule": rule, "hostile": 1}})
    found = too_few_for_the_rule(facts, study)
    assert found is None if broken is None else broken in (found or "")


def test_a_rule_that_promises_nothing_takes_any_sites() -> None:
    study = StudyProtocol.model_validate({"aggregation": {"rule": "krum"}})
    assert too_few_for_the_rule({"A": GOOD}, study) is None


@pytest.mark.usefixtures("flower_task", "one_thread", "clock")
def test_a_study_that_cannot_keep_its_promise_is_not_begun(make_protocol: MakeProtocol) -> None:
    study = make_protocol(aggregation={"rule": "krum", "hostile": 1})
    sites = [Site(name, study) for name in "ABCD"]
    record = new_record(study, RUN)
    with pytest.raises(RequirementsNotMetError, match="krum withstands 1 hostile sites"):
        run_study(MemoryGrid(sites), record, Witness(), expected_sites=4)
    assert [site.rounds for site in sites] == [[]] * 4
