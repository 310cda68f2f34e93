"""A process that ends with its parent, however that ends.  Standard library alone."""

import ctypes
import os
import signal

_PDEATHSIG = 1  # of prctl


def end_with_parent(parent: int, how: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal once its parent has ended.

    A new user namespace, other capabilities and a fork make the kernel forget it.  Without Linux'
    prctl this only looks whether the parent is still there.

    Args:
        parent: Process that has started this one; where it has ended already, so does this one.
        how: The signal.

    Raises:
        OSError: The kernel refuses it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl") and libc.prctl(_PDEATHSIG, int(how), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if os.getppid() != parent:
        os._exit(1)
