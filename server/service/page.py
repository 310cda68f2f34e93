"""The page of the centre's service, for people, programs and Prometheus; it only shows.

It answers GET alone, sets no cookie, loads nothing from elsewhere, and knows no user: who reaches
its port sees everything on it.
"""

import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from server.admin.centre import Centre
from server.service.metrics import metrics_text
from server.service.overview import OverviewReader
from server.service.page_text import index_page, study_page, style_sheet
from server.service.superlink import SuperLinkWatch
from server.service.views import Overview

log = logging.getLogger(__name__)

_LOCAL = ("localhost", "127.0.0.1", "::1")
_ANY = {"0.0.0.0", "::"}  # every address, and nobody's name
# Several who look at once are given the same look.
_LOOK_S = 1.0
# Megabytes, of a centre's years.
_CURVES: Any = {"studies": {"__all__": {"dsc", "losses"}}}
_SCRIPT = Path(__file__).with_name("page.js")
_OWN = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:"
# A report has its style in it, pictures as data, and no script.
_REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_ALL = "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _OWN + _ALL,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SERVER: dict[str, Any] = {
    "proxy_headers": False,
    "workers": 1,
    "ws": "none",
    "http": "h11",
    "loop": "asyncio",
    "lifespan": "off",
    "server_header": False,
    "access_log": False,
    "log_config": None,
    "limit_concurrency": 64,
    "timeout_keep_alive": 15,
}


class PageError(RuntimeError):
    """The page cannot be served there."""


@dataclass(kw_only=True)
class Look:
    """The overview of a centre, not older than a second."""

    reader: OverviewReader
    watch: SuperLinkWatch
    _taken: Overview | None = None
    _taken_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def overview(self) -> Overview:
        with self._lock:
            if self._taken is None or time.monotonic() - self._taken_at > _LOOK_S:
                self._taken = self.reader.read(self.watch.nodes(), datetime.now(UTC))
                self._taken_at = time.monotonic()
            return self._taken


@dataclass(kw_only=True)
class Page:
    """A page that is being served."""

    url: str
    _server: uvicorn.Server
    _thread: threading.Thread

    def close(self) -> None:
        """Serve it no longer."""
        self._server.should_exit = True
        self._thread.join(10)


def serve_page(
    centre: Centre,
    watch: SuperLinkWatch,
    host: str,
    port: int,
    *,
    hosts: Sequence[str] = (),
) -> Page:
    """Serve the page from a thread of its own, until the process ends or `close`.

    Args:
        centre: What is shown.
        watch: Asks the SuperLink.
        host: Address to listen on.
        port: Port; 0: any that is free.
        hosts: Names beside `host` and those of this machine by which it may be asked for.

    Raises:
        PageError: If the port cannot be used.
    """
    listener = _listen(host, port)
    bound = listener.getsockname()[1]
    app = build_page(Look(reader=OverviewReader(centre=centre), watch=watch), [host, *hosts])
    server = uvicorn.Server(uvicorn.Config(app, **_SERVER))
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="page", daemon=True
    )
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    return Page(url=f"http://{shown}:{bound}/", _server=server, _thread=thread)


def build_page(look: Look, hosts: Sequence[str] = ()) -> Starlette:
    """The application; `hosts` are names by which it may be asked for, beside this machine's."""

    def index(request: Request) -> Response:
        return _html(index_page(look.overview()))

    def study(request: Request) -> Response:
        seen = look.overview()
        found = seen.study(request.path_params["name"])
        return _no_such_study() if found is None else _html(study_page(seen, found))

    def report(request: Request) -> Response:
        found = look.overview().study(request.path_params["name"])
        if found is None or not found.report:
            return PlainTextResponse("no report; write it: asdnet-centre report RUN\n", 404)
        page = look.reader.centre.runs / found.name / "report.html"
        policy = {"Content-Security-Policy": _REPORT + _ALL}
        return Response(page.read_bytes(), media_type="text/html", headers=policy)

    def as_json(request: Request) -> Response:
        text = look.overview().model_dump_json(exclude=_CURVES)
        return Response(text, media_type="application/json")

    def study_as_json(request: Request) -> Response:
        found = look.overview().study(request.path_params["name"])
        if found is None:
            return _no_such_study()
        return Response(found.model_dump_json(), media_type="application/json")

    def metrics(request: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST

        return Response(
            metrics_text(look.overview()), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def script(request: Request) -> Response:
        return Response(_SCRIPT.read_bytes(), media_type="text/javascript")

    def style(request: Request) -> Response:
        return Response(style_sheet(), media_type="text/css")

    routes: dict[str, Callable[[Request], Response]] = {
        "/": index,
        "/study/{name}": study,
        "/report/{name}": report,
        "/api/overview": as_json,
        "/api/study/{name}": study_as_json,
        "/metrics": metrics,
        "/health": health,
        "/page.js": script,
        "/style.css": style,
    }
    return Starlette(
        routes=[Route(path, answer, methods=["GET"]) for path, answer in routes.items()],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_guard({*_LOCAL, *hosts} - _ANY))],
    )


def _guard(
    hosts: set[str],
) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Answers only who asks for this host by name, and puts the headers on every answer.

    Else a page of elsewhere, whose name its owner has turned to this machine, could read it in the
    browser of somebody here.
    """

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        asked = host_of(request.headers.get("host", ""))
        response: Response
        if asked not in hosts:
            response = PlainTextResponse("this page is not served under that name\n", 421)
        else:
            response = await answer(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return guard


def host_of(header: str) -> str:
    """The name or address in a Host header, without its port; as it is written, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _html(page: str) -> Response:
    return Response(page, media_type="text/html")


def _no_such_study() -> Response:
    return PlainTextResponse("no such study; all of them: /\n", 404)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PageError(
            f"the page cannot be served on port {port} of {host}: {error.strerror}; give another"
        ) from None
    return listener
