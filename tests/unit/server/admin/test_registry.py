"""The SuperLink is made to admit exactly the sites of the list."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from flower_compat.control import Node, SuperLinkRefused, SuperLinkUnreachable
from protocol.keys import make_key, openssh_fingerprint, openssh_line
from server.admin.centre import Centre, create_centre, write_sites
from server.admin.owner import make_owner_token
from server.admin.registry import public_key_pem, sync_sites
from server.admin.site_keys import SiteKey


class FakeControl:
    """Nodes by their keys; a key that was removed is refused ever after, as by Flower."""

    def __init__(self) -> None:
        self.present: dict[int, Node] = {}
        self.revoked: set[bytes] = set()
        self.calls: list[tuple[str, str | int]] = []
        self.unreachable = False
        self._numbers = itertools.count(2**63)

    def nodes(self) -> list[Node]:
        if self.unreachable:
            raise SuperLinkUnreachable("the SuperLink does not answer")
        return list(self.present.values())

    def register(self, name: str, key: bytes) -> None:
        self.calls.append(("register", name))
        if key in self.revoked or key in {node.public_key for node in self.nodes()}:
            raise SuperLinkRefused("public key already in use")
        number = next(self._numbers)
        self.present[number] = Node(node_id=number, name=name, public_key=key)

    def unregister(self, number: int) -> None:
        self.calls.append(("unregister", self.present[number].name))
        self.revoked.add(self.present.pop(number).public_key)

    def names(self) -> list[str]:
        return sorted(node.name for node in self.present.values())


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


@pytest.fixture
def control(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    fake = FakeControl()
    token = make_owner_token(centre)

    @contextmanager
    def connect(port: int, ca_file: Path, owner_token: str) -> Iterator[FakeControl]:
        assert (port, ca_file, owner_token) == (centre.port, centre.ca_file, token)
        yield fake

    monkeypatch.setattr("server.admin.registry.connect", connect)
    return fake


def new_key() -> SiteKey:
    public = make_key().public_key()
    return SiteKey(
        public_key=openssh_line(public),
        fingerprint=openssh_fingerprint(public),
        added=datetime.now(UTC),
    )


@pytest.fixture
def keys(centre: Centre, control: FakeControl) -> dict[str, SiteKey]:
    """Two sites that are admitted."""
    made = {"A": new_key(), "B": new_key()}
    write_sites(centre, made)
    assert sync_sites(centre) == ["site A: admitted", "site B: admitted"]
    del control.calls[:]
    return made


def test_nothing_is_done_where_nothing_is_to_do(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    assert sync_sites(centre) == []
    assert control.calls == []


def test_an_empty_list_on_an_empty_superlink(centre: Centre, control: FakeControl) -> None:
    assert sync_sites(centre) == []
    assert control.calls == []


def test_who_is_missing_is_registered_and_the_others_are_not_touched(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    before = dict(control.present)
    write_sites(centre, keys | {"C": new_key()})
    assert sync_sites(centre) == ["site C: admitted"]
    assert control.calls == [("register", "C")]
    assert control.names() == ["A", "B", "C"]
    assert before.items() <= control.present.items()


def test_who_is_not_in_the_list_is_unregistered(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    write_sites(centre, {"B": keys["B"]})
    assert sync_sites(centre) == ["site A: no longer admitted"]
    assert control.calls == [("unregister", "A")]
    assert control.names() == ["B"]


def test_a_site_with_a_new_key(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    write_sites(centre, keys | {"A": new_key()})
    assert sync_sites(centre) == ["site A: no longer admitted", "site A: admitted"]
    assert control.calls == [("unregister", "A"), ("register", "A")]
    assert control.names() == ["A", "B"]
    assert sync_sites(centre) == []


def test_a_site_under_a_new_name_needs_a_new_key_and_that_is_reported(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    write_sites(centre, {"B": keys["B"], "north": keys["A"]})
    with pytest.raises(SuperLinkRefused) as refused:
        sync_sites(centre)
    first, second = str(refused.value).splitlines()
    assert first == "site A: no longer admitted"
    assert second.startswith("site north: NOT admitted: the SuperLink refuses its key")
    assert "asdnet-site enrol --site north --replace" in second
    # Nobody goes on under the old name.
    assert control.names() == ["B"]


def test_two_sites_that_swap_names_do_not_pass_for_each_other(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    write_sites(centre, {"A": keys["B"], "B": keys["A"]})
    with pytest.raises(SuperLinkRefused) as refused:
        sync_sites(centre)
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    assert sorted(lines[:2]) == ["site A: no longer admitted", "site B: no longer admitted"]
    assert all("NOT admitted" in line for line in lines[2:])
    assert control.names() == []


def test_a_refused_key_is_reported_and_the_next_site_is_admitted(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    removed, added = keys.pop("A"), new_key()
    write_sites(centre, keys)
    sync_sites(centre)
    write_sites(centre, keys | {"A": removed, "C": added})
    with pytest.raises(SuperLinkRefused) as refused:
        sync_sites(centre)
    first, second = str(refused.value).splitlines()
    assert first == "site C: admitted"
    assert second.startswith("site A: NOT admitted: the SuperLink refuses its key (public key")
    assert "--site A --replace" in second
    assert control.names() == ["B", "C"]


def test_every_refused_key_is_reported_each_time(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    write_sites(centre, {})
    sync_sites(centre)
    write_sites(centre, keys)
    for _ in range(2):
        with pytest.raises(SuperLinkRefused) as refused:
            sync_sites(centre)
        lines = str(refused.value).splitlines()
        assert [line.partition(":")[0] for line in lines] == ["site A", "site B"]
        assert all("NOT admitted" in line for line in lines)
    # The hint helps.
    write_sites(centre, {"A": new_key(), "B": new_key()})
    assert sync_sites(centre) == ["site A: admitted", "site B: admitted"]


def test_a_superlink_that_is_down_is_reported(
    centre: Centre, control: FakeControl, keys: dict[str, SiteKey]
) -> None:
    control.unreachable = True
    with pytest.raises(SuperLinkUnreachable):
        sync_sites(centre)
    assert control.calls == []


def test_a_key_is_given_as_flower_keeps_it() -> None:
    public = make_key().public_key()
    assert public_key_pem(openssh_line(public)) == public_key_to_bytes(public)
