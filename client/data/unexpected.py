"""A case whose reading fails in a way that no rule foresees is refused; the others go on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from client.data.case import Case
from client.data.errors import ScanError
from client.data.room import CacheError
from protocol.config.rules import Rule
from reporting.unexpected import is_out_of_memory, log_unexpected, unexpected_place

Result = TypeVar("Result")

_RULES: Mapping[int, Rule] = {
    errno.EACCES: "closed",
    errno.EPERM: "closed",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ELOOP: "missing",
    errno.EISDIR: "format",
    errno.EIO: "damaged",
}


def attempt(case: Case, read: Callable[[], Result]) -> Result | ScanError:
    """What reading a case gives, or why it is refused: also where nobody expected that.

    Args:
        case: For its name, and its site's folder of the log.
        read: Reads it.

    Raises:
        CacheError: As it came: it is about the machine.
    """
    return attempt_at(f"case {case.name}", read, case.site.state if case.site else None)


def attempt_at(
    location: str, read: Callable[[], Result], state: Path | None = None
) -> Result | ScanError:
    """`attempt`, where there is no case yet; the log is in the folder `state`, or the command's."""
    try:
        return read()
    except CacheError:
        raise
    except ScanError as error:
        return error
    except Exception as error:
        return _refusal(error, location, state)


def _refusal(error: Exception, location: str, state: Path | None) -> ScanError:
    rule: Rule = "unexpected"
    if isinstance(error, OSError) and error.strerror:
        message = (
            f"has a file that cannot be read ({error.strerror.lower()}); look at its disk and its"
            " rights, or export it again"
        )
        rule = _RULES.get(error.errno or 0, rule)
        return ScanError(location, message, rule=rule, detail=Path(str(error.filename)).name)
    if is_out_of_memory(error):
        message = (
            "does not fit into memory; close other programs, or read fewer cases at the same time"
        )
    else:
        message = (
            "cannot be read, for a reason that this program did not expect"
            f" ({unexpected_place(error)}); export it again, and please report it"
        )
    return ScanError(location, message, rule=rule, detail=log_unexpected(error, state))
