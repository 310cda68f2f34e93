"""Flower's SuperLink in this process, behind a middleware of ours."""

import sys
from collections.abc import Callable, Sequence

from flwr.superlink import extensions
from flwr.superlink.cli import flower_superlink
from starlette.middleware import Middleware
from starlette.types import ASGIApp


def run_superlink(arguments: Sequence[str], middleware: Callable[[ASGIApp], ASGIApp]) -> None:
    """`flower-superlink` with these options; the middleware is before all three APIs."""
    extensions.get_middleware = lambda: (Middleware(middleware),)
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()
