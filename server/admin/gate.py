"""A gate before the SuperLink: from outside, only the Fleet API can be reached.

Flower 1.41 serves three APIs on one port.  The Fleet API authenticates every site by its key; the
Control API (register a node, start a run) and the Runtime API (take a ServerApp's task) do not
authenticate.
"""

import logging
from ipaddress import ip_address

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

_FLEET, _HEALTH = "/v1/fleet/", "/health"
# Flower cuts arrays into objects of 5 MiB; nothing that a site has to send is larger.
MAX_BODY_BYTES = 16 * 2**20


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


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
