"""`asdnet-centre superlink`: Flower's SuperLink with this centre's keys, behind a gate."""

import logging
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from reporting.logs import LogSettings
from reporting.terminal import MISCONFIGURED, make_console, user_errors
from server.admin.centre import (
    CENTRE,
    RETURN_LARGE_BLOCKS,
    CentreError,
    read_centre,
    superlink_arguments,
)
from server.admin.owner import make_owner_token, owner_file

log = logging.getLogger(__name__)

_PATIENCE_S = 60.0


def superlink(
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
    connections: Annotated[
        int,
        typer.Option(
            min=16,
            max=1024,
            help="Open at once from one address; a site has ten at most. Raise it where many sites "
            "share an address.",
        ),
    ] = 128,
    ipv6: Annotated[
        bool, typer.Option("--ipv6", help="Listen to IPv6 beside IPv4; else to IPv4 alone.")
    ] = False,
    *,
    log_settings: LogSettings,
) -> None:
    """Run the SuperLink in the foreground, until Ctrl-C or SIGTERM.

    The log is on the screen and in logs/superlink.log of the centre's folder, that of each
    ServerApp in logs/study-RUN.log.

    Exit status 78: there is no such centre, or its files are wrong; starting again mends nothing.
    """
    with user_errors(CentreError, status=MISCONFIGURED):
        settings = read_centre(centre)
        token = make_owner_token(settings)
    from reporting.log_relay import relay_output
    from reporting.render import TEMPLATES, TEMPLATES_VARIABLE

    with user_errors():
        relay_output(settings.logs / "superlink.log", log_settings)
    os.environ |= log_settings.to_environment()
    # Where Flower unpacks apps, and where the ServerApp, its grandchild, finds
    # the runs and the report's templates.
    os.environ["FLWR_HOME"] = str(settings.flower_home)
    os.environ["ASDNET_CENTRE"] = str(settings.folder)
    os.environ[TEMPLATES_VARIABLE] = str(TEMPLATES)
    for name, value in RETURN_LARGE_BLOCKS.items():
        os.environ.setdefault(name, value)
    # Its children are found on the path: they must be of this environment.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    from starlette.middleware import Middleware

    from flower_compat.superlink import run_superlink
    from server.admin.connections import Limits
    from server.admin.gate import Gate
    from server.admin.serving import serve

    threading.Thread(target=_admit_sites, args=(settings.folder,), daemon=True).start()
    run_superlink(
        superlink_arguments(settings, ipv6=ipv6),
        gate=Middleware(Gate, owner_token=token),
        serve=partial(serve, limits=Limits(per_address=connections)),
        owner_file=owner_file(settings),
    )


def _admit_sites(folder: Path) -> None:
    """Once the SuperLink answers: what was added or removed while it was down."""
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
    from server.admin.registry import sync_sites

    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            for line in sync_sites(read_centre(folder)):
                make_console().print(line)
            return
        except SuperLinkUnreachable:
            continue
        except SuperLinkRefused as error:
            log.error("%s", error)
            return
    log.error("the SuperLink did not answer in %.0f s; sites were not admitted", _PATIENCE_S)
