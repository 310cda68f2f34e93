"""Flower's SuperNode in this process, with pauses that follow what it waits for."""

import sys

from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode

from flower_compat.inflating import Bounds, bound_pulls
from flower_compat.pacing import pace_line
from flower_compat.polling import SuperNodePolling, pull_objects_soon
from flower_compat.refusal import REFUSED, is_refusal


def run_supernode(array_bytes: int, bytes_per_s: int = 0) -> None:
    """`flower-supernode` with the options in `sys.argv`; status `REFUSED` where its key is.

    Args:
        array_bytes: What the arrays of one message may take; a larger one is not pulled.
        bytes_per_s: Of the line to the centre, in both directions together; 0: all that it gives.
    """
    pull_objects_soon()
    bound_pulls(Bounds(array_bytes=array_bytes), vars(start_client_internal))
    vars(start_client_internal)["time"] = SuperNodePolling()
    if bytes_per_s:
        pace_line(vars(fleet_http_connection), bytes_per_s)
    try:
        flower_supernode()
    except SystemExit as end:
        sys.exit(REFUSED if is_refusal(end) else end.code)
