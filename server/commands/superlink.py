"""`asdnet-centre superlink`: Flower's SuperLink with this centre's keys, and a gate before it.

Flower 1.41 serves three APIs on one port.  The Fleet API authenticates every site by its key; the
Control API (register a node, start a run) and the Runtime API (take a ServerApp's task) ask
nothing of whoever reaches the port.  The gate lets only the Fleet API be reached from outside.
"""

import logging
import os
import sys
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from reporting.terminal import make_console, user_errors
from server.admin.centre import (
    CENTRE,
    RETURN_LARGE_BLOCKS,
    CentreError,
    read_centre,
    superlink_arguments,
)

log = logging.getLogger(__name__)

_FLEET, _HEALTH = "/v1/fleet/", "/health"
# Flower cuts arrays into objects of 5 MiB; nothing that a site has to send is larger.
MAX_BODY_BYTES = 16 * 2**20
_PATIENCE_S = 60.0


class Gate:
    """From outside: the Fleet API alone, and bodies of a bounded size."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 403 or 413, or let through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = (scope.get("client") or ("", 0))[0]
        outside = not _is_loopback(host)
        nothing = b"0" if scope["method"] in ("GET", "HEAD") else b""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", nothing)
        chunked = b"transfer-encoding" in headers
        if outside and not (scope["path"].startswith(_FLEET) or scope["path"] == _HEALTH):
            log.warning("refused: %s asked for %s from outside", host, scope["path"])
            refusal = "this API is for the centre's own machine; sites use the Fleet API alone"
            await PlainTextResponse(refusal, 403)(scope, receive, send)
        elif outside and (chunked or not length.isdigit() or int(length) > MAX_BODY_BYTES):
            log.warning("refused: %s sent a body of %s bytes", host, length.decode() or "unknown")
            refusal = f"a body must declare its length, {MAX_BODY_BYTES} bytes at most"
            await PlainTextResponse(refusal, 413)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def superlink(
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
) -> None:
    """Run the SuperLink in the foreground, until Ctrl-C or SIGTERM."""
    with user_errors(CentreError):
        found = read_centre(centre)
    # Where Flower unpacks apps, and where the ServerApp, its grandchild, finds the runs.
    os.environ["FLWR_HOME"] = str(found.flower_home)
    os.environ["ASDNET_CENTRE"] = str(found.folder)
    for name, value in RETURN_LARGE_BLOCKS.items():
        os.environ.setdefault(name, value)
    # Its children are found on the path: they must be of this environment.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    from flower_compat.superlink import run_superlink

    threading.Thread(target=_admit_sites, args=(found.folder,), daemon=True).start()
    run_superlink(superlink_arguments(found), Gate)


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


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
