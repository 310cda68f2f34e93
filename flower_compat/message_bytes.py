"""Flower's messages and contexts as bytes, for the pipe to the process that answers them."""

from flwr.app import Context, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage


def envelope_bytes(message: Message) -> bytes:
    """A message without its content, as Flower's own protobuf."""
    content: bytes = message_to_proto(remove_content_from_message(message)).SerializeToString()
    return content


def envelope_of(content: bytes) -> Message:
    """The message back, with its id; its content is still to be set."""
    return message_from_proto(ProtoMessage.FromString(content))


def context_bytes(context: Context) -> bytes:
    """As Flower's own protobuf."""
    content: bytes = context_to_proto(context).SerializeToString()
    return content


def context_of(content: bytes) -> Context:
    """The context back."""
    return context_from_proto(ProtoContext.FromString(content))
