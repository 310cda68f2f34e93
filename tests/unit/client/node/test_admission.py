"""What a site says of a SuperNode that ended, and how long it waits."""

from pathlib import Path

import pytest

from client.node.admission import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    REMOVED_PAUSE_S,
    STEADY_S,
    Attempts,
)
from flower_compat.refusal import REFUSED
from protocol.config.site import SiteConfig
from protocol.keys import make_key, openssh_private

REMOVED = "site A: removed by the centre, which takes this site's key no more"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("client.node.admission.time", clock)
    return clock


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    config = SiteConfig(site="A", data=tmp_path, cache=tmp_path, state=tmp_path)
    config.key_file.write_bytes(openssh_private(make_key()))
    return config


def test_a_site_that_was_removed_is_told_so(config: SiteConfig, clock: Clock) -> None:
    attempts = Attempts(config)
    attempts.connected()
    why, pause = attempts.ended(0, 3600.0)
    assert ("status 0" in why, pause) == (True, FIRST_PAUSE_S)
    for _ in range(3):
        why, pause = attempts.ended(REFUSED, 1.0)
        assert why.startswith(f"{REMOVED}. Ask the centre why.")
        assert "asdnet-site enrol --site A --replace" in why
        assert "asdnet-centre add-site A" in why
        assert pause == REMOVED_PAUSE_S
    attempts.connected()
    assert attempts.ended(REFUSED, 1.0)[1] < REMOVED_PAUSE_S


def test_a_site_that_never_was_admitted_is_told_something_else(
    config: SiteConfig, clock: Clock
) -> None:
    attempts = Attempts(config)
    pauses = []
    for _ in range(6):
        why, pause = attempts.ended(REFUSED, 1.0)
        assert "does not know this site's key, ask it to run: asdnet-centre add-site A" in why
        pauses.append(pause)
        clock.now += 1000
    assert pauses == [5.0, 10.0, 20.0, 40.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_killed_supernode_is_not_taken_for_a_removed_site(
    config: SiteConfig, clock: Clock
) -> None:
    """It is connected in the SuperLink's eyes until its heartbeats have been missed."""
    attempts = Attempts(config)
    attempts.connected()
    attempts.ended(-9, 3600.0)
    for seconds in (0.0, 60.0, 59.0):
        clock.now += seconds
        assert "removed" not in attempts.ended(REFUSED, 1.0)[0]
    clock.now += 1.0
    why, pause = attempts.ended(REFUSED, 1.0)
    assert why.startswith(f"{REMOVED} (or a copy of the key is connected from another machine). ")
    assert pause == REMOVED_PAUSE_S


def test_a_removal_while_the_site_was_down_is_told_after_a_while(
    config: SiteConfig, clock: Clock
) -> None:
    Attempts(config).connected()
    attempts = Attempts(config)
    assert "removed" not in attempts.ended(REFUSED, 1.0)[0]
    clock.now += 120.0
    assert attempts.ended(REFUSED, 1.0)[0].startswith(REMOVED)


def test_a_new_key_is_one_that_the_centre_does_not_know_yet(
    config: SiteConfig, clock: Clock
) -> None:
    attempts = Attempts(config)
    attempts.connected()
    attempts.ended(0, 3600.0)
    config.key_file.write_bytes(openssh_private(make_key()))
    clock.now += 1000.0
    why, pause = attempts.ended(REFUSED, 1.0)
    assert "removed" not in why
    assert pause < REMOVED_PAUSE_S


def test_without_its_memory_a_site_is_not_said_to_be_removed(
    config: SiteConfig, clock: Clock
) -> None:
    attempts = Attempts(config)
    attempts.connected()
    (config.state / "admitted.json").write_text("{}")
    attempts.ended(0, 3600.0)
    assert "removed" not in attempts.ended(REFUSED, 1.0)[0]
    config.key_file.unlink()
    (config.state / "admitted.json").unlink()
    attempts.connected()  # there is nothing to remember, and nothing breaks
    assert "removed" not in attempts.ended(REFUSED, 1.0)[0]
    assert not (config.state / "admitted.json").exists()


def test_any_other_end_is_no_refusal(config: SiteConfig, clock: Clock) -> None:
    attempts = Attempts(config)
    attempts.connected()
    assert [attempts.ended(status, 1.0)[1] for status in (1, -11, 1)] == [5.0, 10.0, 20.0]
    assert attempts.ended(1, STEADY_S + 1)[1] == FIRST_PAUSE_S
    assert "in vain" in attempts.ended(None, 1.0)[0]
