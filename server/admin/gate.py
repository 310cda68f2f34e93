"""A gate before the SuperLink: sites reach the Fleet API, the owner reaches the others.

Flower 1.41 serves three APIs on one port.  The Fleet API authenticates every site by its key; the
Control API (register a node, start a run) and the Runtime API (take a ServerApp's task) do not
authenticate.  They answer here only on the centre's own machine, and there only to who has the
owner's token: any other user of the machine could else run code as the SuperLink's user.
"""

import hmac
import logging
from ipaddress import ip_address

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flower_compat.owner import HEADER

log = logging.getLogger(__name__)

_FLEET, _HEALTH = "/v1/fleet/", "/health"
# Arrays are cut into objects of half of it; nothing that a site has to send is larger.
_PUSH_OBJECT, MAX_BODY_BYTES = "/v1/fleet/push-object", 16 * 2**20
# All else is names, numbers and an error's text.
MAX_OTHER_BYTES = 2 * 2**20
_OUTSIDE = "this API is for the centre's own machine; sites use the Fleet API alone"
_NOT_THE_OWNER = (
    "this API is for the user who runs the SuperLink; use the commands of asdnet-centre as that"
    " user"
)
# Of what a stranger wrote, in the log.
_SHOWN = 80


class Gate:
    """The Fleet API for all, with bodies of a bounded size; the others for the owner alone."""

    def __init__(self, app: ASGIApp, owner_token: str) -> None:
        self._app = app
        self._owner = owner_token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 403 or 413, or let through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, await _in_one(receive), send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        host = (scope.get("client") or ("", 0))[0]
        headers = dict(scope["headers"])
        path = _shown(scope["path"])
        if not (scope["path"].startswith(_FLEET) or scope["path"] == _HEALTH):
            if not _is_loopback(host):
                log.warning("refused: %s asked for %s from outside", host, path)
                return PlainTextResponse(_OUTSIDE, 403)
            if not hmac.compare_digest(headers.get(HEADER.encode(), b""), self._owner):
                log.warning("refused: %s asked for %s without the owner's token", host, path)
                return PlainTextResponse(_NOT_THE_OWNER, 403)
            return None
        nothing = b"0" if scope["method"] in ("GET", "HEAD") else b""
        length = headers.get(b"content-length", nothing)
        chunked = b"transfer-encoding" in headers
        most = MAX_BODY_BYTES if scope["path"] == _PUSH_OBJECT else MAX_OTHER_BYTES
        if chunked or not length.isdigit() or int(length) > most:
            words = _shown(length.decode("latin-1")) or "unknown"
            log.warning("refused: %s sent a body of %s bytes", host, words)
            return PlainTextResponse(f"a body must declare its length, {most} bytes at most", 413)
        return None


async def _in_one(receive: Receive) -> Receive:
    """A request whose body is here in one part, as Flower joins it before it looks at it.

    It comes in hundreds of parts, each of which costs every middleware of Flower's two tasks.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the caller is gone
            break
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            message = {"type": "http.request", "body": b"".join(parts), "more_body": False}
            break
    parts.clear()
    due: list[Message] = [message]

    async def received() -> Message:
        return due.pop() if due else await receive()

    return received


def _shown(text: str) -> str:
    """A line at most, without control characters."""
    return ascii(text[:_SHOWN])[1:-1]


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # A socket for IPv6 and IPv4 names a caller by IPv4 so.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
