"""The SuperLink's Control API: which nodes are registered, and starting and stopping runs.

Flower's only client is its command `flwr`, which has no API.  It is reached over
loopback only, with the owner's token.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal, cast

import httpx
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from flower_compat.owner import OwnerInterceptor


class SuperLinkUnreachable(RuntimeError):
    """The SuperLink does not answer."""


class SuperLinkRefused(RuntimeError):
    """The SuperLink answered that it will not; the message is its own."""


DOES_NOT_ANSWER = "the SuperLink does not answer"
NodeStatus = Literal["registered", "online", "offline", "unregistered"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One SuperNode that the SuperLink knows; its public key as PEM.

    Attributes:
        status: "registered" has never been online.
        since: Of the status.
        last_seen: Its last sign of life; of one that went without a word, up to two of its
            intervals later.
    """

    node_id: int
    name: str
    public_key: bytes
    status: NodeStatus = "registered"
    since: datetime | None = None
    last_seen: datetime | None = None


class Control:
    """Calls of the Control API."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[Node]:
        """All registered nodes, online or not."""
        return [node for node in self.all_nodes() if node.status != "unregistered"]

    def all_nodes(self) -> list[Node]:
        """Those too that are registered no longer."""
        with _explained():
            infos = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [_node(info) for info in infos]

    def register(self, name: str, public_key: bytes) -> None:
        """Admit the node with this public key (PEM)."""
        with _explained():
            self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))

    def unregister(self, node_id: int) -> None:
        """Admit this node no longer."""
        with _explained():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start the app of this bundle; Flower's id of the run."""
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


def _node(info: NodeInfo) -> Node:
    since = {
        "registered": info.registered_at,
        "online": info.last_activated_at,
        "offline": info.last_deactivated_at,
        "unregistered": info.unregistered_at,
    }
    # Of one that is online it lies ahead: so many intervals after its last heartbeat.
    ahead = HEARTBEAT_PATIENCE * info.heartbeat_interval if info.status == "online" else 0.0
    seen = info.online_until - ahead
    return Node(
        node_id=info.node_id,
        name=info.name,
        public_key=info.public_key,
        status=cast(NodeStatus, info.status),
        since=_time(since[info.status]),
        last_seen=datetime.fromtimestamp(seen, UTC) if info.online_until else None,
    )


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@contextmanager
def connect(port: int, ca_file: Path, owner_token: str) -> Iterator[Control]:
    """The Control API of the SuperLink on this port of this machine, as its owner.

    Raises:
        SuperLinkUnreachable: By each call, if the SuperLink is not running.
        SuperLinkRefused: By each call that the SuperLink refuses.
    """
    client = ControlHttpClient.from_server_address(
        server_address=f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=ca_file.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            OwnerInterceptor(owner_token),
        ],
    )
    try:
        yield Control(client)
    finally:
        client.close()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise SuperLinkRefused(error.response.text[:500]) from error
    except httpx.TransportError as error:
        raise SuperLinkUnreachable(
            f"{DOES_NOT_ANSWER} ({type(error).__name__}); start it: asdnet-centre superlink"
        ) from error
