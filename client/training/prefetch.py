"""Draws the next batch while a step runs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Drawn = TypeVar("Drawn")


def prefetched(draw: Callable[[], Drawn], count: int) -> Iterator[Drawn]:
    """What `count` calls of `draw` give, in order, each called while the one before is used.

    All calls come from one thread, one after the other, and there are exactly `count`: a generator
    of random numbers that only `draw` uses gives the same as without.  An error of `draw` is raised
    where its result is asked for.  Whoever stops early waits for the call that has begun.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="draw") as thread:
        waiting = thread.submit(draw) if count else None
        for left in reversed(range(count)):
            assert waiting is not None
            result = waiting.result()
            waiting = thread.submit(draw) if left else None
            yield result
