"""Flower's SuperNode in this process, with pauses that follow what it waits for."""

from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode

from flower_compat.polling import SuperNodePolling, pull_objects_soon


def run_supernode() -> None:
    """`flower-supernode` with the options in `sys.argv`."""
    pull_objects_soon()
    vars(start_client_internal)["time"] = SuperNodePolling()
    flower_supernode()
