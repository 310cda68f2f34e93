"""The owner's token, sent with every call of the Control and Runtime APIs.

Flower 1.41 asks no caller of these for anything; `server.admin.gate` asks for this header.
Flower's own processes on the centre's machine (SuperExec, and the ServerApps that it starts) are
started through this module, which adds the header to all their calls.  They find the token in a
file that only the service's user can read: every user of a machine can read the arguments of a
process.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClient, ProtobufRequestContext
from flwr.supercore.superexec.executor import subprocess_executor

HEADER = "asdnet-owner"
FILE_VARIABLE = "ASDNET_OWNER_FILE"


class OwnerInterceptor:
    """Adds the token to each call of a client of Flower's."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """As Flower's interceptors."""
        context.request.headers[HEADER] = self._token
        return call_next(context)


def owners_command(command: Sequence[str]) -> list[str]:
    """How to start a command of Flower's that calls as the owner; for its environment see above."""
    # -P: nothing is imported from the folder in which it happens to be started.
    return [sys.executable, "-P", "-m", "flower_compat.owner", *command]


def call_as_owner(token: str) -> None:
    """From now on, every call of this process and of those that SuperExec starts has the token."""
    plain = ProtobufClient.__init__

    def with_token(
        self: ProtobufClient, base_url: str, *, interceptors: Sequence[Any] = (), **options: Any
    ) -> None:
        plain(self, base_url, interceptors=(*interceptors, OwnerInterceptor(token)), **options)

    vars(subprocess_executor)["subprocess"] = SimpleNamespace(
        Popen=_start_as_owner, DEVNULL=subprocess.DEVNULL
    )
    # Not an assignment: a type checker knows that a method is not to be replaced.
    setattr(ProtobufClient, "__init__", with_token)  # noqa: B010


def _start_as_owner(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(owners_command(command), **options)


def main() -> None:
    """Run the command of Flower's that the arguments name, as the owner."""
    command = sys.argv[1]
    (entry,) = entry_points(group="console_scripts", name=command)
    call_as_owner(Path(os.environ[FILE_VARIABLE]).read_text(encoding="ascii").strip())
    sys.argv = sys.argv[1:]
    # A ServerApp imports this package from its own bundle.
    for name in [n for n in sys.modules if n.partition(".")[0] == "flower_compat"]:
        del sys.modules[name]
    entry.load()()


if __name__ == "__main__":
    main()
