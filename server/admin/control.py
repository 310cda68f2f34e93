"""Flower's Control API at this centre: which nodes are registered, and starting and stopping runs.

It is reached over loopback alone; the gate in server/superlink.py refuses it to everybody else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from protocol.keys import parse_openssh_line
from server.admin.centre import Centre


class SuperLinkUnreachable(RuntimeError):
    """The SuperLink of this centre does not answer."""


class SuperLinkRefused(RuntimeError):
    """The SuperLink answered that it will not; the message is its own."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One SuperNode that the SuperLink knows."""

    node_id: int
    name: str
    public_key: bytes


class Control:
    """Calls of the Control API."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[Node]:
        """All registered nodes, online or not."""
        with _explained():
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [
            Node(node_id=n.node_id, name=n.name, public_key=n.public_key)
            for n in found
            if n.status != "unregistered"
        ]

    def register(self, name: str, openssh_line: str) -> None:
        """Admit the node with this public key."""
        with _explained():
            self._client.RegisterNode(
                RegisterNodeRequest(public_key=key_bytes(openssh_line), name=name)
            )

    def unregister(self, node_id: int) -> None:
        """Admit this node no longer."""
        with _explained():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, app: Path, config: Mapping[str, str]) -> int:
        """Bundle the app in this folder and start it; Flower's id of the run."""
        bundle = build_fab_from_disk(app)
        with _explained():
            answer = self._client.StartRun(
                StartRunRequest(
                    fab=fab_to_proto(Fab(sha256(bundle).hexdigest(), bundle, {})),
                    override_config=user_config_to_proto(dict(config)),
                )
            )
        return int(answer.run_id)

    def stop_run(self, run_id: int) -> bool:
        """Stop a run; False if there was nothing to stop."""
        try:
            with _explained():
                return bool(self._client.StopRun(StopRunRequest(run_id=run_id)).success)
        except SuperLinkRefused:
            return False


@contextmanager
def connect(centre: Centre) -> Iterator[Control]:
    """The Control API of this centre's SuperLink.

    Raises:
        SuperLinkUnreachable: By each call, if the SuperLink is not running.
        SuperLinkRefused: By each call that the SuperLink refuses.
    """
    client = ControlHttpClient.from_server_address(
        server_address=f"127.0.0.1:{centre.port}",
        insecure=False,
        root_certificates=centre.ca_file.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield Control(client)
    finally:
        client.close()


def key_bytes(openssh_line: str) -> bytes:
    """A public key in the form that Flower stores."""
    return public_key_to_bytes(parse_openssh_line(openssh_line))


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise SuperLinkRefused(error.response.text[:500]) from error
    except httpx.TransportError as error:
        raise SuperLinkUnreachable(
            f"the SuperLink does not answer ({type(error).__name__}); start it: "
            "python server/superlink.py"
        ) from error
