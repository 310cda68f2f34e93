"""The preflight in a process of its own: what it loads is gone before the long wait begins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from client.node.own_process import SPAWN, own_process
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from reporting.unexpected import keep_log_in, log_folder

if TYPE_CHECKING:
    from client.node.checks import Check


def checked(
    config: SiteConfig,
    study: StudyProtocol | None,
    *,
    anew: bool,
    begin: Callable[[str], None],
) -> list[Check]:
    """The rows of `client.node.preflight`, whose arguments these are."""
    from client.node.checks import Check

    receiver, sender = SPAWN.Pipe(duplex=False)
    child = own_process(_check, config, study, anew, log_folder(), sender)
    child.start()
    sender.close()  # so that a dead child is an end of file here
    try:
        while isinstance(received := receiver.recv(), str):
            begin(received)
        checks: list[Check] = received
        child.join()
        return checks
    except EOFError:
        child.join()
        finding = f"the process of the checks ended with status {child.exitcode}"
        hint = "close other programs where memory runs out (status -9), and check again"
        return [Check(name="preflight", status="failed", finding=finding, hint=hint)]
    finally:
        child.kill()
        child.join()
        receiver.close()


def _check(
    config: SiteConfig,
    study: StudyProtocol | None,
    anew: bool,
    log: Path | None,
    sender: Connection,
) -> None:
    """In the child: send the name of each check, and in the end all rows."""
    from client.node.preflight import preflight

    keep_log_in(log)
    try:
        sender.send(preflight(config, study, anew=anew, begin=sender.send))
    except KeyboardInterrupt:  # the command has heard it too
        sys.exit(130)
