"""What the server's tests share: a grid in memory and a clock that costs no time."""

import pytest
from memory_grid import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The round loop's clock; waiting is done at once."""
    made = Clock()
    monkeypatch.setattr("server.rounds.channel.time", made)
    monkeypatch.setattr("server.rounds.membership.time", made)
    monkeypatch.setattr("server.rounds.round.time", made)
    return made
