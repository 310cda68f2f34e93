"""A node as the SuperLink tells of it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.node_pb2 import NodeInfo

from flower_compat.control import Control

UP = datetime(2026, 11, 30, 8, tzinfo=UTC)
DOWN = UP + timedelta(hours=2)
REGISTERED = UP - timedelta(days=1)
GONE = DOWN + timedelta(hours=1)


def info(status: str, **times: Any) -> NodeInfo:
    return NodeInfo(
        node_id=7,
        name="north",
        public_key=b"key",
        status=status,
        registered_at=REGISTERED.isoformat(),
        heartbeat_interval=30.0,
        **times,
    )


def control(infos: Sequence[NodeInfo]) -> Control:
    answer = SimpleNamespace(nodes_info=infos)
    return Control(cast(Any, SimpleNamespace(ListNodes=lambda _: answer)))


ONLINE = info(
    "online",
    last_activated_at=UP.isoformat(),
    online_until=(DOWN + timedelta(seconds=30 * HEARTBEAT_PATIENCE)).timestamp(),
)
OFFLINE = info(
    "offline",
    last_activated_at=UP.isoformat(),
    last_deactivated_at=DOWN.isoformat(),
    online_until=DOWN.timestamp(),
)
UNREGISTERED = info(
    "unregistered",
    last_activated_at=UP.isoformat(),
    unregistered_at=GONE.isoformat(),
    online_until=DOWN.timestamp(),
)


@pytest.mark.parametrize(
    ("given", "since", "last_seen"),
    [
        (info("registered"), REGISTERED, None),
        (ONLINE, UP, DOWN),
        (OFFLINE, DOWN, DOWN),
        (UNREGISTERED, GONE, DOWN),
    ],
)
def test_since_when_and_when_last(
    given: NodeInfo, since: datetime, last_seen: datetime | None
) -> None:
    (node,) = control([given]).all_nodes()
    assert (node.node_id, node.name, node.public_key) == (7, "north", b"key")
    assert (node.status, node.since, node.last_seen) == (given.status, since, last_seen)


def test_who_is_registered_no_longer_is_a_node_only_where_all_are_asked_for() -> None:
    asked = control([ONLINE, UNREGISTERED])
    assert [node.status for node in asked.nodes()] == ["online"]
    assert [node.status for node in asked.all_nodes()] == ["online", "unregistered"]
