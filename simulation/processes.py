"""Processes side by side: spawned, because a forked child of a process with threads may hang."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TypeVar

from reporting.unexpected import keep_log_in, log_folder

Result = TypeVar("Result")


def spawned_pool(
    workers: int | None, initializer: Callable[[], None] | None = None
) -> ProcessPoolExecutor:
    """So many processes; None: one a core."""
    context = multiprocessing.get_context("spawn")
    begin = partial(_begin, log_folder(), initializer)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=begin)


def _begin(log: Path | None, initializer: Callable[[], None] | None) -> None:
    # Ctrl-C reaches every process of a terminal; these end quietly, and the command says it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    keep_log_in(log)
    if initializer is not None:
        initializer()


def all_results(
    futures: Sequence[Future[Result]], progress: Callable[[int, int], None] | None = None
) -> list[Result]:
    """The results in this order; where one fails, what has not begun is not begun any more.

    Args:
        futures: Of a pool.
        progress: Called with (done, in all) as each is done.
    """
    try:
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress:
                progress(done, len(futures))
    except BaseException:
        for future in reversed(futures):
            future.cancel()
        raise
    return [future.result() for future in futures]
