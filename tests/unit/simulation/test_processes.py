"""Results of processes: in order, and no more of them where one fails."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from simulation.processes import all_results


def test_the_order_is_that_of_the_jobs_not_of_their_ends() -> None:
    later, seen = Event(), []
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(lambda: later.wait(60) and "slow")
        quick = pool.submit(lambda: later.set() or "quick")
        found = all_results([slow, quick], lambda done, total: seen.append((done, total)))
    assert found == ["slow", "quick"]
    assert seen == [(1, 2), (2, 2)]


def test_after_a_failure_nothing_more_is_begun() -> None:
    go_on, done = Event(), []

    def fail() -> None:
        raise ArithmeticError("first")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fail)
        busy = pool.submit(go_on.wait, 60)
        waiting = pool.submit(done.append, 1)
        with pytest.raises(ArithmeticError, match="first"):
            all_results([first, busy, waiting])
        go_on.set()
    assert done == [] and waiting.cancelled()
