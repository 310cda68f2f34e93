"""Requests of the Fleet and Runtime APIs pass by those of Flower's middlewares that ignore them.

Flower 1.41 puts nine around each request of its three APIs, and most of them are of one API alone.
Each hands request and answer on through tasks and queues of its own: together they take more than
the look into the database.  Those that authenticate a site and translate stay where they are.
"""

from typing import Any

from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink import main
from flwr.superlink.routers.control.middlewares import (
    ControlAuthenticationMiddleware,
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

_FLEET, _RUNTIME = "/v1/fleet/", "/v1/runtime/"
# Below these paths each of them looks at the path, or at the kind of the message, and does nothing.
PASSED_BY: dict[Any, tuple[str, ...]] = {
    ControlSensitiveResponseMiddleware: (_FLEET, _RUNTIME),
    ControlAuthenticationMiddleware: (_FLEET, _RUNTIME),
    ControlLicenseMiddleware: (_FLEET, _RUNTIME),
    ControlEventLogMiddleware: (_FLEET, _RUNTIME),
    RuntimeTracingMiddleware: (_FLEET,),
    NodeAuthMiddleware: (_RUNTIME,),
    FleetEventLogMiddleware: (_RUNTIME,),
}


class Beside:
    """A middleware that requests below some paths do not go through.

    Args:
        app: What is within.
        middleware: For all other requests.
        paths: How the paths begin.
    """

    def __init__(self, app: ASGIApp, middleware: Middleware, paths: tuple[str, ...]) -> None:
        self._within, self._paths = app, paths
        self._through = middleware.cls(app, *middleware.args, **middleware.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Through the middleware, or past it."""
        past = scope["type"] == "http" and scope["path"].startswith(self._paths)
        await (self._within if past else self._through)(scope, receive, send)


def pass_by_idle_middleware() -> None:
    """From now on, the SuperLink of this process is made so."""
    plain = main._get_middleware

    def get_middleware() -> list[Middleware]:
        return [_beside(middleware) for middleware in plain()]

    # A second time finds nothing more to pass by.
    main._get_middleware = get_middleware


def _beside(middleware: Middleware) -> Middleware:
    paths = PASSED_BY.get(middleware.cls)
    return Middleware(Beside, middleware=middleware, paths=paths) if paths else middleware
