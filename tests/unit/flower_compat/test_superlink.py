"""What a site may push to the SuperLink: replies of its own, and nothing else."""

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.exceptions import HTTPException

from flower_compat.inflating import MAX_OBJECTS
from flower_compat.superlink import take_replies_alone

SUPERLINK, OWN, OTHER = 1, 7, 9


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[PushMessagesRequest]:
    """What came through to Flower."""
    taken: list[PushMessagesRequest] = []
    monkeypatch.setattr(
        fleet_handlers, "push_messages", lambda request, state: taken.append(request)
    )
    take_replies_alone()
    return taken


def push(*messages: tuple[int, str]) -> PushMessagesRequest:
    """By node 7, which has been authenticated; sender and what it replies to of each message."""
    request = PushMessagesRequest(
        node=Node(node_id=OWN),
        messages_list=[
            Message(metadata=Metadata(src_node_id=sender, reply_to_message_id=to))
            for sender, to in messages
        ],
    )
    fleet_handlers.push_messages(request=request, state=None)  # type: ignore[arg-type]
    return request


def test_a_reply_of_its_own(pushed: list[PushMessagesRequest]) -> None:
    assert pushed == [push((OWN, "instruction"))]


def test_a_reply_of_too_many_objects_is_refused(pushed: list[PushMessagesRequest]) -> None:
    def pushes(count: int) -> None:
        leaves = [ObjectTree(object_id=f"{n:064x}") for n in range(count - 1)]
        request = PushMessagesRequest(
            node=Node(node_id=OWN), message_object_trees=[ObjectTree(children=leaves)]
        )
        fleet_handlers.push_messages(request=request, state=None)  # type: ignore[arg-type]

    pushes(MAX_OBJECTS)
    with pytest.raises(HTTPException, match="1024 objects at most"):
        pushes(MAX_OBJECTS + 1)
    assert len(pushed) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [(SUPERLINK, "")],
        [(SUPERLINK, "instruction")],
        [(OTHER, "instruction")],
        [(OWN, "")],
        [(OWN, "instruction"), (SUPERLINK, "")],
    ],
)
def test_an_instruction_or_anothers_reply_is_refused(
    pushed: list[PushMessagesRequest],
    messages: list[tuple[int, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(HTTPException, match="replies of its own alone") as refused:
        push(*messages)
    assert refused.value.status_code == 403 and pushed == []
    assert "refused: node 7 pushed a message of node" in caplog.text
