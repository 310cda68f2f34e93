"""A function in a process of its own, which ends with the one that started it."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

from client.node.confinement.parent import end_with_parent

# Not a fork: that would have this one's memory, and locks which its threads hold.
SPAWN = multiprocessing.get_context("spawn")


def own_process(function: Callable[..., object], *args: Any) -> SpawnProcess:
    """A process that will call this function; not started yet.

    Started from the main thread: the kernel counts the end of the thread as that of the parent.
    """
    return SPAWN.Process(target=_call, args=(os.getpid(), function, args))


def _call(parent: int, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    end_with_parent(parent)
    function(*args)
