"""Which node is which site."""

from collections.abc import Callable

import pytest
from memory_grid import MemoryGrid, Site

from protocol.config.study import StudyProtocol
from protocol.wire.weights import MessageError
from server.rounds.roster import Presence, Roster

A, B, C = 100, 101, 102


@pytest.fixture
def grid(make_protocol: Callable[..., StudyProtocol]) -> MemoryGrid:
    """Two sites that the centre knows by their keys, and one of a simulation."""
    protocol = make_protocol()
    return MemoryGrid(
        [
            Site("A", protocol, registered_as="A"),
            Site("B", protocol, registered_as="B"),
            Site("C", protocol),
        ]
    )


def test_who_is_there(grid: MemoryGrid) -> None:
    roster = Roster(grid)
    assert roster.online() == {
        A: Presence(registered_as="A", since="first start"),
        B: Presence(registered_as="B", since="first start"),
        C: Presence(registered_as="", since="first start"),
    }
    grid.sites[B].goes("offline")
    grid.sites[C].since = "second start"
    assert set(roster.online()) == {A, C}
    assert roster.online()[C].since == "second start"


def test_unregistered_nodes_become_sites(grid: MemoryGrid) -> None:
    roster = Roster(grid)
    assert roster.unregistered() == [A, B, C]
    assert roster.sites_online() == []
    roster.register(B, "B")
    roster.register(A, "A")
    assert roster.unregistered() == [C]
    assert roster.sites_online() == ["A", "B"]
    assert (roster.node_of("A"), roster.node_of("B"), roster.node_of("C")) == (A, B, None)


def test_a_node_has_a_name_before_it_says_so(grid: MemoryGrid) -> None:
    roster = Roster(grid)
    assert [roster.name_of(node) for node in (A, C, 999)] == ["A", "node 102", "node 999"]
    roster.register(C, "C")
    assert roster.name_of(C) == "C"
    grid.sites[C].goes("offline")
    assert roster.name_of(C) == "C"


def test_a_site_that_is_away_stays_the_same_site(grid: MemoryGrid) -> None:
    roster = Roster(grid)
    for node, site in ((A, "A"), (B, "B")):
        roster.register(node, site)
    grid.sites[A].goes("offline")
    assert roster.sites_online() == ["B"]
    assert roster.unregistered() == [C]
    assert roster.node_of("A") == A
    grid.sites[A].goes("online")
    assert roster.sites_online() == ["A", "B"]
    assert roster.unregistered() == [C]


def test_a_node_answers_by_the_name_of_its_key_alone(grid: MemoryGrid) -> None:
    roster = Roster(grid)
    with pytest.raises(MessageError, match="registered as site B answered in the name of site A"):
        roster.register(B, "A")
    assert roster.node_of("A") is None
    assert B in roster.unregistered()


def test_a_site_is_one_node(grid: MemoryGrid) -> None:
    roster = Roster(grid)
    roster.register(A, "A")
    roster.register(A, "A")  # a second declaration of the same is none of two
    with pytest.raises(MessageError, match="site A has joined twice"):
        roster.register(C, "A")
    assert roster.node_of("A") == A
    assert C in roster.unregistered()


def test_a_study_sees_the_sites_that_it_may_call(grid: MemoryGrid) -> None:
    roster = Roster(grid, only=("B",))
    assert set(roster.online()) == {B}
    assert roster.unregistered() == [B]
    assert set(Roster(grid, only=()).online()) == set()
