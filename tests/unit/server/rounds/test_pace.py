"""A site that hangs is waited for by its own pace, once enough others have answered."""

from collections.abc import Callable, Sequence

import pytest
from memory_grid import RUN, Clock, MemoryGrid, Site, Witness, silence

from protocol.config.study import StudyProtocol
from server.rounds.loop import new_record, run_study
from server.rounds.pace import LEAST_S, Pace
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]

pytestmark = pytest.mark.usefixtures("flower_task", "one_thread")
MOST_S = 5000.0


class Slow(Witness):
    """C takes so many seconds for each update, and from a round on does not answer."""

    def __init__(self, site: Site, clock: Clock, seconds: float, hangs_from: int) -> None:
        super().__init__()
        self._site, self._clock = site, clock
        self._seconds, self._hangs_from = seconds, hangs_from

    def sites_called(self, round_number: int, kind: str, sites: Sequence[str]) -> None:
        if kind == "train" and round_number >= self._hangs_from:
            self._site.spoil["train"] = silence
        elif kind == "train":
            self._site.goes("busy")
            self._clock.after(self._seconds, lambda: self._site.goes("online"))


def study(
    make_protocol: MakeProtocol, clock: Clock, seconds: float, **rules: float
) -> tuple[StudyRecord, list[float]]:
    """Four rounds of three sites, C of which hangs in the third; what each round took, s."""
    limits = {"round_timeout_s": MOST_S, "join_timeout_s": 50.0, **rules}
    protocol = make_protocol(
        training={"rounds": 4}, aggregation=limits, evaluation={"every_rounds": 100}
    )
    sites = [Site(name, protocol) for name in "ABC"]
    slow = Slow(sites[2], clock, seconds, hangs_from=3)
    record = new_record(protocol, run=RUN)
    run_study(MemoryGrid(sites), record, slow, expected_sites=3)
    return record, [finished.seconds for finished in record.rounds]


@pytest.mark.parametrize(
    ("seconds", "rules", "waited_s"),
    [
        (10.0, {}, LEAST_S),
        (100.0, {}, 1000.0),
        (100.0, {"patience": 4.0}, 400.0),
        (1000.0, {}, MOST_S),
        (10.0, {"patience": 0.0}, MOST_S),
    ],
    ids=["fast", "slow", "impatient", "very slow", "to the deadline"],
)
def test_a_site_that_hangs(
    make_protocol: MakeProtocol,
    clock: Clock,
    seconds: float,
    rules: dict[str, float],
    waited_s: float,
) -> None:
    record, took = study(make_protocol, clock, seconds, **rules)
    assert took[:2] == pytest.approx([seconds, seconds], abs=3)
    assert took[2] == pytest.approx(waited_s, rel=0.05)
    why = record.rounds[2].left_out["C"]
    assert why.startswith("no answer within") and why.endswith(" s")
    assert float(why.split()[3]) == pytest.approx(waited_s, rel=0.05)


def test_without_enough_answers_nobody_is_given_up(
    make_protocol: MakeProtocol, clock: Clock
) -> None:
    """A and B are not the quorum of three."""
    with pytest.raises(RuntimeError, match="2 sites answered, at least 3 must"):
        study(make_protocol, clock, 10.0, min_sites=3)
    assert clock.now > 1000 + MOST_S


def test_a_site_that_never_answered_has_all_the_time() -> None:
    pace = Pace()
    pace.note("A", "train", 10.0)
    assert pace.patience_s(["A"], "train", 10.0, MOST_S) == LEAST_S
    assert pace.patience_s(["A", "B"], "train", 10.0, MOST_S) == MOST_S
    assert pace.patience_s(["A"], "evaluate", 10.0, MOST_S) == MOST_S
    assert pace.patience_s(["A"], "train", 10.0, 100.0) == 100.0


def test_the_slowest_of_the_last_five_counts() -> None:
    pace = Pace()
    for seconds in (400.0, 90.0, 80.0, 50.0, 50.0, 50.0):
        pace.note("A", "train", seconds)
    assert pace.patience_s(["A"], "train", 10.0, MOST_S) == 900.0
    pace.note("B", "train", 200.0)
    assert pace.patience_s(["A", "B"], "train", 10.0, MOST_S) == 2000.0
