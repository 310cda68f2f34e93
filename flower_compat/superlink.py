"""Flower's SuperLink in this process, behind a middleware and a web server of ours."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.superlink import extensions
from flwr.superlink.cli import flower_superlink
from flwr.superlink.cli.flower_superlink import _get_superexec_command
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from flower_compat.inflating import MAX_OBJECTS
from flower_compat.middleware import pass_by_idle_middleware
from flower_compat.owner import FILE_VARIABLE, owners_command

log = logging.getLogger(__name__)

# The command's module has the name of the command, and so cannot be imported by it.
_MODULE = flower_superlink.__globals__
# They would open the old APIs on ports of their own, without a gate.
_OTHER_DOORS = ("FLWR_INTERNAL_GRPC_CONTROL_API", "FLWR_INTERNAL_GRPC_FLEET_API")


def run_superlink(
    arguments: Sequence[str],
    *,
    gate: Middleware,
    serve: Callable[..., None],
    owner_file: Path,
) -> None:
    """`flower-superlink` with these options.

    Args:
        arguments: The options.
        gate: Stands before all three APIs.
        serve: Stands for `uvicorn.run`; takes what Flower gives that.
        owner_file: Holds the token with which SuperExec and the ServerApps call.
    """
    for name in _OTHER_DOORS:
        os.environ.pop(name, None)
    os.environ[FILE_VARIABLE] = str(owner_file)
    extensions.get_middleware = lambda: (gate,)
    take_replies_alone()
    pass_by_idle_middleware()

    def superexec(**options: Any) -> list[str]:
        return owners_command(_get_superexec_command(**options))

    own = {"uvicorn": SimpleNamespace(run=serve), "_get_superexec_command": superexec}
    if missing := own.keys() - _MODULE.keys():
        raise RuntimeError(f"this version of Flower starts without {', '.join(sorted(missing))}")
    _MODULE.update(own)
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()


def take_replies_alone() -> None:
    """From now on, a site can push replies of its own, of a bounded number of objects.

    Flower 1.41 knows who calls, and then believes what a message says of its sender: a site could
    push another site's reply, or an instruction to it in the centre's name.
    """
    plain = fleet_handlers.push_messages

    def push_messages(request: Any, state: Any) -> Any:
        caller = request.node.node_id
        for message in request.messages_list:
            sender = message.metadata.src_node_id
            if sender != caller or not message.metadata.reply_to_message_id:
                log.warning("refused: node %d pushed a message of node %d", caller, sender)
                raise HTTPException(403, "a site pushes replies of its own alone")
        for tree in request.message_object_trees:
            # Each is five statements of the database, for which all others wait.
            if sum(1 for _ in iterate_object_tree(tree)) > MAX_OBJECTS:
                log.warning("refused: node %d pushed too many objects", caller)
                raise HTTPException(413, f"a reply has {MAX_OBJECTS} objects at most")
        return plain(request, state)

    fleet_handlers.push_messages = push_messages
