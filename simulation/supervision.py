"""A command in a process group of its own, so that a signal ends it at once and in words.

Ray takes SIGTERM for itself and prints tracebacks, and its processes outlive their driver for some
seconds.  Whoever waits outside of the group has the signals, and ends all of it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal has come that ends the command."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number


def stop_on_signals() -> None:
    """Raise `Stopped` on Ctrl-C and SIGTERM; impatience does not interrupt what follows."""
    for number in ENDING:
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise Stopped(number)


def in_own_group(stopped: Callable[[], None]) -> int | None:
    """Go on in a child that heads a process group; the parent waits, and has the signals.

    Nothing is done where another program has called the command: its output is not the process's.

    Args:
        stopped: Called in the parent when a signal has ended the child.

    Returns:
        In the parent the exit status of the command, in the child None, as where nothing is done.
    """
    if sys.__stdout__ is None or sys.stdout is not sys.__stdout__ or threading.active_count() > 1:
        return None
    sys.__stdout__.flush()
    parent = os.getpid()
    child = os.fork()
    if not child:
        os.setpgrp()
        threading.Thread(target=die_with, args=(parent,), daemon=True).start()
        return None
    try:
        stop_on_signals()
        _, status = os.waitpid(child, 0)
    except Stopped as stop:
        end_group(child)
        os.waitpid(child, 0)
        stopped()
        return stop.status
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def end_group(leader: int) -> None:
    """End a process and all that it has started, at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leader, signal.SIGKILL)
    # Where it had no time to become the head of a group there is nothing else to end.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def die_with(parent: int) -> None:
    """End this process's group when its parent is gone: nothing trains on for a killed command."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(os.getpgrp(), signal.SIGKILL)
