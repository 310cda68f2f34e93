"""The SuperLink's web server: what Flower leaves at uvicorn's defaults."""

import sys
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.main import STARTUP_FAILURE

# Who calls is who has made the connection, whatever a header or the environment says.
_OWN = {"proxy_headers": False, "forwarded_allow_ips": [], "workers": 1, "ws": "none"}


def serve(**options: Any) -> None:
    """Stands for `uvicorn.run`, with what Flower gives that; until SIGINT or SIGTERM."""
    server = uvicorn.Server(uvicorn.Config(**(options | _OWN)))
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)
