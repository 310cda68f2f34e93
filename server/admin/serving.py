"""The SuperLink's web server: what Flower leaves at uvicorn's defaults."""

import logging
import resource
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import uvicorn
from uvicorn.main import STARTUP_FAILURE

from server.admin.connections import Connections, Limits, Listener, Watched
from server.admin.doorbell import Doorbell

log = logging.getLogger(__name__)

# For the database, logs and sockets of its own.
_OWN_FILES = 200
_BACKLOG = 2048
_OWN = {
    # Who calls is who has made the connection, whatever a header or the environment says.
    "proxy_headers": False,
    "forwarded_allow_ips": [],
    "workers": 1,
    "ws": "none",
    # httptools has no limit for the size of a request's head, uvloop accepts by itself.
    "http": "h11",
    "loop": "asyncio",
    "backlog": _BACKLOG,
    "server_header": False,
    "timeout_notify": 1,
}


def serve(app: Any, *, limits: Limits, host: str, port: int, **options: Any) -> None:
    """Stands for `uvicorn.run`, with what Flower gives that; until SIGINT or SIGTERM."""
    limits = replace(limits, in_all=min(limits.in_all, _files() - _OWN_FILES))
    connections = Connections(limits)

    async def sweep() -> None:
        connections.close_late()

    own = _OWN | {"limit_concurrency": limits.in_all + 1, "callback_notify": sweep}
    bell = Doorbell(app, closing=lambda: server.should_exit)
    server = uvicorn.Server(uvicorn.Config(Watched(bell, connections), **(options | own)))
    with Listener(socket.AF_INET6 if ":" in host else socket.AF_INET, connections) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind((host, port))
        except OSError as error:
            log.error("port %d of %s cannot be used: %s", port, host, error.strerror)
            sys.exit(STARTUP_FAILURE)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _files() -> int:
    """As many files as this process can be allowed to open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2**16 if hard == resource.RLIM_INFINITY else min(hard, 2**16)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)
